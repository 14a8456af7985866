"""Backups: what is in them, who can read them, and what an attacker cannot do with one."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pvemcp import backup_status
from pvemcp.access.grants import Grants
from pvemcp.errors import Conflict, Denied, Fault, Invalid, Misconfigured
from pvemcp.health.backups import check_backups
from pvemcp.migrations import MIGRATIONS
from pvemcp.setup.backup import archive, database
from pvemcp.setup.backup.make import DATABASE, note_beginning
from pvemcp.setup.backup.opened import open_backup
from pvemcp.setup.backup.sealing import (
    Identity,
    Passphrase,
    new_identity,
    seal,
    unseal,
)
from pvemcp.store import Store
from tests.unit.backups import NAME, TOKEN, WHEN, Installation, install
from tests.unit.test_retention import ids


@pytest.fixture
def own(tmp_path: Path) -> Installation:
    return install(tmp_path / "own")


def revived(content: bytes, folder: Path) -> Path:
    folder.mkdir()
    (folder / "pvemcp.db").write_bytes(content)
    return folder


def test_a_backup_holds_everything_that_cannot_be_had_again(own: Installation) -> None:
    path = own.backup()
    assert path.name == NAME
    found = own.open(path)
    assert set(found.members) == {
        *("settings.toml", "exec.toml", "firewall.nft", "cluster/clients.json", "signing.key"),
        *("units/pvemcp.service.d/own.conf", "files/tls_cert", "files/tls_key"),
        *("files/pve_token_secret_file", DATABASE),
    }
    assert found.origin_checked
    assert found.members["files/tls_key"] == b"the key.pem\n"
    assert found.manifest.paths["files/tls_key"] == str(own.root / "etc/key.pem")
    assert found.manifest.schema == len(MIGRATIONS)


def test_the_database_in_it_lets_the_same_client_in(own: Installation, tmp_path: Path) -> None:
    with Store(revived(own.open(own.backup()).members[DATABASE], tmp_path / "db")) as store:
        grant = Grants(store).authenticate(own.secret)
        assert grant is not None
        assert grant.token == TOKEN
        assert store.check() == "ok"
        with Store(own.root / "state") as old:
            assert store.key("request-state") == old.key("request-state")


@pytest.mark.parametrize(("audit", "calls"), [(False, [2]), (True, [0, 1, 2])])
def test_the_audit_is_in_it_whole_or_as_its_newest_call(
    own: Installation, tmp_path: Path, audit: bool, calls: list[int]
) -> None:
    found = own.open(own.backup(audit=audit))
    assert found.manifest.head == {"number": 3, "id": "2", "time": 3.0}
    with Store(revived(found.members[DATABASE], tmp_path / "db")) as store:
        assert ids(store) == calls


def test_the_copy_is_of_one_moment_while_the_service_writes(own: Installation) -> None:
    with Store(own.root / "state") as store:
        stop = threading.Event()

        def write() -> None:
            with Store(own.root / "state") as other:
                number = 10
                while not stop.is_set():
                    other.write("BEGIN")  # both or neither
                    other.write("INSERT INTO key VALUES (?, x'00')", (f"a{number}",))
                    other.write("INSERT INTO key VALUES (?, x'00')", (f"b{number}",))
                    other.write("COMMIT")
                    number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            copies = [database.snapshot(own.root / "state", whole_audit=True) for _ in range(20)]
        finally:
            stop.set()
            writer.join()
        assert store.check() == "ok"
    counts = []
    for copy in copies:
        with database.opened(copy) as db:
            [(a, b)] = db.execute("SELECT sum(name LIKE 'a%'), sum(name LIKE 'b%') FROM key")
            counts.append(a)
            assert a == b
    assert counts[-1] > counts[0] or counts[0] is None


def test_nothing_of_a_backup_is_on_the_disk_in_plain_or_open_to_others(own: Installation) -> None:
    os.umask(0)  # as careless as can be
    try:
        path = own.backup()
    finally:
        os.umask(0o022)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == [NAME]
    content = path.read_bytes()
    for secret in (b"the key.pem", TOKEN.secret.encode(), b"laptop"):
        assert secret not in content


def test_what_a_backup_writes_is_watched_from_outside(own: Installation, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = (
        "import sys; from pathlib import Path; from pvemcp.setup.backup import make\n"
        "from pvemcp.setup.backup.sealing import Recipient\n"
        "from tests.unit.backups import load, places_in\n"
        "opened = []\n"
        "sys.addaudithook(lambda name, args: name == 'open' and not isinstance(args[0], int) and "
        "args[2] & 3 and opened.append(args[0]))\n"
        f"root = Path({str(own.root)!r})\n"
        f"make.make(root / 'backups', places_in(root), load(root), Recipient(sys.argv[1]))\n"
        f"Path({str(trace)!r}).write_text('\\n'.join(map(str, opened)))\n"
    )
    subprocess.run([sys.executable, "-c", code, own.recipient.text], check=True)
    written = [Path(line) for line in trace.read_text().splitlines()]
    assert {path.parent for path in written} == {own.root / "backups", own.root / "state"}
    assert all(path.name.startswith((".pvemcp-", ".backup-status.json.")) for path in written)


def test_a_passphrase_opens_what_it_closed(own: Installation) -> None:
    key = Passphrase("a horse and a battery")
    sealed = seal(b"content", key)
    assert unseal(sealed, key) == b"content"
    with pytest.raises(Denied, match="does not open"):
        unseal(sealed, Passphrase("another horse and battery"))
    with pytest.raises(Denied, match="opened by a passphrase"):
        unseal(sealed, own.key)
    with pytest.raises(Invalid, match="less than 12"):
        seal(b"content", Passphrase("short"))


def test_a_wrong_key_is_refused(own: Installation) -> None:
    other, _ = new_identity()
    with pytest.raises(Denied, match="does not open with this key"):
        open_backup(own.backup(), lambda: other)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:],
        lambda content: content + b"x",
        lambda _: b"",
        lambda _: b"hello",
        lambda content: content[:22],
    ],
)
def test_a_changed_or_truncated_file_is_refused(
    own: Installation, spoil: Callable[[bytes], bytes]
) -> None:
    path = own.backup()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises((Invalid, Denied)) as caught:
        own.open(path)
    assert "AGE-SECRET" not in str(caught.value)


def test_a_backup_that_somebody_else_made_for_the_recipient_is_refused(
    own: Installation, tmp_path: Path
) -> None:
    stranger = install(tmp_path / "stranger")
    stranger.recipient = own.recipient  # it is no secret
    with pytest.raises(Denied, match="not made by the host"):
        own.open(stranger.backup())
    unnamed = Identity(own.key.text)  # the bare line of the key file
    assert not open_backup(stranger.backup(at=WHEN + 1), lambda: unnamed).origin_checked
    with pytest.raises(Denied):
        open_backup(stranger.backup(at=WHEN + 2), lambda: unnamed, own_signer=own.key.signer)


@pytest.mark.parametrize(
    "members",
    [
        {"files/../../etc/cron.d/x": b"x"},
        {"units/ssh.service.d/x.conf": b"x"},
        {"units/pvemcp.service.d/x.sh": b"x"},
        {"etc/passwd": b"x"},
        {"settings.toml": b"x" * 2_000_000},
        {DATABASE: b"not a database"},
        {DATABASE: b""},
    ],
)
def test_a_signed_backup_with_files_that_it_never_has_is_refused(
    own: Installation, tmp_path: Path, members: dict[str, bytes]
) -> None:
    with pytest.raises(Invalid):
        own.open(own.forged(tmp_path / "forged.age", members))


def test_files_that_are_not_those_of_the_manifest_are_refused(
    own: Installation, tmp_path: Path
) -> None:
    path = own.forged(tmp_path / "forged.age", {})
    whole = archive.unpack(unseal(path.read_bytes(), own.key))
    for changed in (
        {"exec.toml": b"other"},
        {"firewall.nft": None},
        {"units/pvemcp.service.d/n.conf": b""},
    ):
        others = {name: text for name, text in (whole | changed).items() if text is not None}
        path.write_bytes(seal(archive.pack(others), own.recipient))
        with pytest.raises(Invalid, match="not those of its manifest"):
            own.open(path)


def test_what_is_no_plain_file_is_not_read(own: Installation, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(Invalid):
            own.open(path)


def test_a_newer_format_is_refused_with_its_version(own: Installation, tmp_path: Path) -> None:
    path = own.forged(tmp_path / "new.age", {}, format=2, pvemcp="9.9.9")
    with pytest.raises(Misconfigured, match=r"newer pvemcp \(9.9.9\)"):
        own.open(path)


def test_a_full_disk_leaves_nothing_and_is_noted(own: Installation) -> None:
    (own.root / "etc/exec.toml").write_bytes(os.urandom(100_000))
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from pvemcp.errors import Unavailable; from pvemcp.setup.backup import make\n"
        "from pvemcp.setup.backup.sealing import Recipient\n"
        "from tests.unit.backups import load, places_in\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))\n"
        f"root = Path({str(own.root)!r})\n"
        "try:\n"
        "    make.make(root / 'b', places_in(root), load(root), Recipient(sys.argv[1]), keep=9)\n"
        "except Unavailable as fault:\n"
        "    print(fault)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, own.recipient.text], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    assert list((own.root / "b").iterdir()) == []
    status = backup_status.read(own.settings)
    assert status is not None
    assert "cannot be written" in status.error
    assert status.made is None


def test_the_status_keeps_the_last_good_one_when_one_fails(own: Installation) -> None:
    path = own.backup()
    with pytest.raises(Conflict, match="exists"):
        own.backup()
    assert backup_status.problem(own.settings, WHEN) == ""  # somebody sat before it
    with pytest.raises(Conflict, match="exists"):
        own.backup(keep=3)
    status = backup_status.read(own.settings)
    assert status is not None
    assert (status.made, status.file) == (WHEN, str(path))
    assert "exists" in status.error


def test_a_database_behind_a_link_is_not_read(own: Installation) -> None:
    real = own.root / "state/pvemcp.db"
    moved = real.rename(own.root / "elsewhere.db")
    real.symlink_to(moved)
    with pytest.raises(Misconfigured, match="link"):
        own.backup()


def test_the_copy_of_a_damaged_database_is_refused(own: Installation) -> None:
    (own.root / "state/pvemcp.db").write_bytes(b"no database" * 1000)
    with pytest.raises(Fault, match="damaged"):
        own.backup()
    assert list((own.root / "backups").glob("*")) == []


def test_an_older_schema_is_backed_up_as_it_is(own: Installation) -> None:
    with closing(sqlite3.connect(own.root / "state/pvemcp.db")) as db:
        db.execute("CREATE TABLE other (a INTEGER PRIMARY KEY AUTOINCREMENT, b)")
        db.execute("CREATE INDEX other_b ON other (b)")
        db.execute("INSERT INTO other (b) VALUES ('x')")
        db.commit()
    found = own.open(own.backup())
    with database.opened(found.members[DATABASE]) as copy:
        assert copy.execute("SELECT a, b FROM other").fetchall() == [(1, "x")]
        names = {name for (name,) in copy.execute("SELECT name FROM sqlite_master")}
    assert {"other_b", "calls_time"} <= names


def test_what_is_wrong_with_the_daily_backup_is_said_and_nothing_else(own: Installation) -> None:
    settings = replace(own.settings, backup_recipient=own.recipient.text)
    assert backup_status.problem(settings, WHEN) == ""
    own.backup()
    assert backup_status.problem(settings, WHEN + 9 * 86400) == ""  # it is not daily
    note_beginning(settings, own.places, WHEN)
    status = backup_status.read(settings)
    assert status is not None
    backup_status.path_of(settings).write_bytes(replace(status, daily=True).as_bytes())
    for days, wrong in ((1, False), (2.9, False), (3.1, True)):
        assert bool(backup_status.problem(settings, WHEN + days * 86400)) is wrong
    with pytest.raises(Conflict):
        own.backup(keep=3)
    assert "exists" in backup_status.problem(settings, WHEN)
    [found] = check_backups(settings)
    assert not found.ok
    for content in (b"", b"[]", b"null", b'{"tried": "x"}', b"\xff"):
        backup_status.path_of(settings).write_bytes(content)
        assert backup_status.read(settings) is None
        [found] = check_backups(settings)
        assert found.ok
        assert found.repair


def test_root_follows_no_link_that_the_service_could_have_made(own: Installation) -> None:
    key = own.root / "state/key"
    text = (own.root / "etc/pvemcp.toml").read_text()
    more = f'ssh_host = "pve1"\nssh_key_path = "{key}"\n'
    (own.root / "etc/pvemcp.toml").write_text(text + more)
    key.symlink_to("/etc/shadow")
    with pytest.raises(Misconfigured, match="cannot be read"):
        own.backup()
    key.unlink()
    os.mkfifo(key)
    with pytest.raises(Misconfigured, match="is not a file"):
        own.backup()
    key.unlink()
    cert = own.root / "etc/cert.pem"  # but an administrator's link, like certbot's, is followed
    cert.rename(own.root / "etc/cert1.pem")
    cert.symlink_to("cert1.pem")
    assert own.open(own.backup()).members["files/tls_cert"] == b"the cert.pem\n"
