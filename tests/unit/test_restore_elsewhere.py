"""Backups of another host, another cluster or another time, and what they may not bring."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.approvals import Approvals
from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.access.shared import SharedClients, encode, parse
from pvemcp.errors import Invalid, Misconfigured
from pvemcp.migrations import MIGRATIONS
from pvemcp.setup.backup.restore import Choices
from pvemcp.store import Store
from tests.unit.backups import Installation, install, load
from tests.unit.test_restore import Fresh, everything, names, put_back


@pytest.fixture
def own(tmp_path: Path) -> Installation:
    return install(tmp_path / "own")


def test_a_newer_schema_is_refused_and_an_older_one_is_brought_up_to_date(
    own: Installation, tmp_path: Path
) -> None:
    with Store(own.root / "state") as store:
        store.write(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    path = own.backup(tmp_path)
    before = everything(own.root)
    with pytest.raises(Misconfigured, match=f"schema {len(MIGRATIONS) + 1}, this pvemcp knows"):
        put_back(own, path)
    assert everything(own.root) == before
    old = own.root / "state/pvemcp.db"
    old.unlink()
    with closing(sqlite3.connect(old)) as db:
        db.executescript(MIGRATIONS[0])
        db.execute(
            "INSERT INTO grants (id, name, hash, ceiling, created) VALUES ('1', 'old', x'00', "
            "'read', 0)"
        )
        db.execute("PRAGMA user_version = 1")
        db.commit()
    path = own.backup(tmp_path, at=2_000_000_000.0)
    put_back(own, path, tmp_path / "second")
    with Store(tmp_path / "second/state", change=False) as store:
        assert [grant.name for grant in Grants(store).list()] == ["old"]


def test_settings_that_another_host_wrote_cannot_choose_which_file_is_written(
    own: Installation, tmp_path: Path
) -> None:
    victim = tmp_path / "victim/cron"
    victim.parent.mkdir()
    for path in (str(victim), f"{own.root}/etc/../../victim/cron", str(own.root / "etc/exec.toml")):
        text = f'tls_cert = "{path}"\ntls_key = "{path}"\nstate_dir = "{victim.parent}"\n'
        members = {
            "settings.toml": text.encode(),
            "files/tls_cert": b"evil",
            "files/tls_key": b"evil",
            "exec.toml": b"good",
        }
        put_back(own, own.forged(tmp_path / "forged.age", members))
        assert not list(victim.parent.iterdir())
        assert (own.root / "etc/exec.toml").read_text() == "good"
        assert (own.root / "etc/restored-tls-cert").read_text() == "evil"
        assert load(own.root).state_dir == own.root / "state"


@pytest.mark.parametrize("text", [b"\xff", b"listen = ", b"[[x]]\n", b'unknown = "x"\n'])
def test_settings_that_cannot_be_are_refused(
    own: Installation, tmp_path: Path, text: bytes
) -> None:
    before = everything(own.root)
    with pytest.raises((Invalid, Misconfigured)):
        put_back(own, own.forged(tmp_path / "forged.age", {"settings.toml": text}))
    assert everything(own.root) == before


def test_on_another_host_its_own_addresses_count_and_its_firewall_stays(
    own: Installation, tmp_path: Path
) -> None:
    text = (own.root / "etc/pvemcp.toml").read_text().replace("127.0.0.1:8443", "192.0.2.1:8443")
    (own.root / "etc/pvemcp.toml").write_text(f'{text}allowed_hosts = ["mcp.example.org"]\n')
    path = own.backup(tmp_path)
    (own.root / "etc/firewall.nft").write_text("of this host\n")
    bound = {
        "listen": "[::]:8080",
        "allowed_hosts": ["pve2"],
        "tls_cert": "/run/x",
        "pve_fingerprint": None,
    }
    lines = put_back(own, path, choices=Choices(bound, same_host=False))
    settings = load(own.root)
    assert settings.listen == "[::]:8443"
    assert settings.allowed_hosts == ("pve2", "mcp.example.org")
    assert settings.tls_cert == own.root / "etc/cert.pem"  # its own came with the backup
    assert (own.root / "etc/firewall.nft").read_text() == "of this host\n"
    assert any("set listen to '[::]:8443' (was '192.0.2.1:8443')" in line for line in lines)
    assert any("leave firewall.nft of the backup out" in line for line in lines)
    assert (own.root / "etc/pvemcp.toml").read_text().startswith("# of ")


def test_the_clients_of_a_cluster_are_not_set_back(own: Installation, tmp_path: Path) -> None:
    path, file = own.backup(tmp_path), own.root / "cluster/clients.json"
    newer = encode(SharedClients(4, ()))
    file.write_bytes(newer)
    put_back(own, path)
    assert file.read_bytes() == newer
    assert names(own.root) == ["laptop"]  # the revoked one does not get in until it is looked up


def test_a_lost_list_of_the_cluster_comes_back_and_that_of_another_is_replaced(
    own: Installation, tmp_path: Path
) -> None:
    path = own.backup(tmp_path)
    put_back(own, path, tmp_path / "second", tokens=Fresh())
    other = own.root / "cluster/clients.json"
    other.write_bytes(encode(SharedClients(70, ())))
    put_back(own, path, tokens=Fresh(), choices=Choices(same_cluster=False))
    for file, serial in ((tmp_path / "second/cluster/clients.json", 4), (other, 71)):
        found = parse(file.read_bytes())
        assert found.serial == serial
        assert [client.token_id for client in found.clients] == ["pvemcp@pve!shared.2"]
        assert names(file.parents[1]) == ["laptop", "shared"]


def power(root: Path) -> tuple[list[Any], ...]:
    """Return who is elevated, what is frozen, which approvals may be used, and what waits."""
    with Store(root / "state") as store:
        return (
            [each.client for each in Elevations(store).all()],
            [(each.client, each.mode) for each in Freezes(store).all()],
            [each.id for each in Approvals(store).all()],
            store.rows("SELECT change FROM commits WHERE state = 'waiting'"),
        )


def test_what_was_allowed_for_a_while_is_over_and_what_is_frozen_now_stays(
    own: Installation, tmp_path: Path
) -> None:
    with Store(own.root / "state") as store:
        later = time.time() + 3000
        for state in ("waiting", "approved"):
            store.write(
                "INSERT INTO approvals VALUES (?, x'00', 'g', 'laptop', '', '', 't', '{}', 'c', ?, "
                "0, ?, 'any', 1, '', 'r', ?, '')",
                (f"ap-{state}", '{"text": "", "writes": []}', later, state),
            )
        store.write(
            "INSERT INTO elevations VALUES ('g', 'laptop', 'read', 'destroy', 0, ?, 'r', '', 'a')",
            (later,),
        )
        store.write("INSERT INTO commits VALUES ('ch-1', 'network', 1, 1, 0, 'waiting')")
        Freezes(store).freeze("read-only", client="laptop", by="root")
    path = own.backup(tmp_path)
    elevated, frozen, usable, waits = power(own.root)
    assert (len(elevated), len(frozen), len(usable), len(waits)) == (1, 1, 2, 1)
    with Store(own.root / "state") as store:
        Freezes(store).thaw(client="laptop", by="root")
        Freezes(store).freeze("all", by="root", reason="since the backup")
    put_back(own, path)
    assert power(own.root) == ([], [("", "all")], [], [])
    put_back(own, path, tmp_path / "elsewhere")
    assert power(tmp_path / "elsewhere") == ([], [("laptop", "read-only")], [], [])
