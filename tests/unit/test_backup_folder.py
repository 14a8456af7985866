"""The folders that backups are kept in, and the key that they are made for."""

from __future__ import annotations

import datetime as dt
import socket
import stat
from pathlib import Path

import pytest

from pvemcp.errors import Conflict, Fault, Invalid, Misconfigured, Unavailable
from pvemcp.setup.backup.begin import begin
from pvemcp.setup.backup.folder import delete_old, file_name, folder_of_storage, kept_in, usable
from pvemcp.setup.backup.sealing import (
    new_identity,
    parse_key,
    read_key,
)
from tests.unit.backups import NAME, WHEN, Installation, install


@pytest.fixture
def own(tmp_path: Path) -> Installation:
    return install(tmp_path / "own")


def test_old_backups_of_this_host_go_and_nothing_else_does(own: Installation) -> None:
    folder = own.root / "backups"
    host = NAME.removeprefix("pvemcp-").rpartition("-")[0]
    paths = [own.backup(at=WHEN + day * 86400) for day in range(5)]
    others = {
        folder / f"pvemcp-{host}x-20200101T000000Z.age": paths[0].read_bytes(),
        folder / f"pvemcp-{host}-2-20200101T000000Z.age": paths[0].read_bytes(),
        folder / f"pvemcp-{host}-20200101T000000Z.age": b"not a backup",
        folder / f"pvemcp-{host}-20200101T000001Z.age.bak": b"mine",
        folder / f"pvemcp-{host}-20209999T000000Z.age": b"no date",
        folder / "notes.txt": b"mine",
    }
    for path, content in others.items():
        path.write_bytes(content)
    link = folder / f"pvemcp-{host}-20200102T000000Z.age"
    link.symlink_to(paths[0])
    assert delete_old(folder, host, 2) == paths[:3]
    assert set(folder.iterdir()) == {*paths[3:], *others, link}
    assert file_name("pve1.example.org", WHEN) == "pvemcp-pve1-20300317T174640Z.age"


def test_a_key_is_made_once_and_named_in_the_settings(own: Installation, tmp_path: Path) -> None:
    now = dt.datetime(2030, 1, 2, tzinfo=dt.UTC)
    made = begin(own.places, own.settings, tmp_path / "key", now, "pve1")
    assert own.settings.backup_recipient == made.recipient
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    key = read_key(tmp_path / "key")
    assert key.signer == own.key.signer
    assert made.key.startswith("# Key of the backups of pve1, made 2030-01-02.")
    with pytest.raises(Conflict, match="--again"):
        begin(own.places, own.settings, None, now, "pve1")
    begin(own.places, own.settings, None, now, "pve1", again=True)
    assert own.settings.backup_recipient != made.recipient
    text = (own.root / "etc/pvemcp.toml").read_text()
    assert text.count("backup_recipient") == 1
    assert text.startswith("# of ")


def test_a_key_file_that_others_can_read_is_refused(own: Installation, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(own.key.text)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(Misconfigured, match="every user"):
        read_key(tmp_path / "key")
    with pytest.raises(Invalid, match="no age identity"):
        parse_key("nothing")
    with pytest.raises(Invalid, match="more than one"):
        parse_key(f"{own.key.text}\n{new_identity()[0].text}")


def test_a_locked_folder_says_what_to_do(own: Installation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be written"):
        own.backup(tmp_path / "file" / "below")


def test_what_is_in_a_folder_is_listed_by_its_age(own: Installation) -> None:
    for day in (2, 0, 1):
        own.backup(at=WHEN + day * 86400)
    listed = kept_in(own.root / "backups")
    assert [each.made for each in listed] == [WHEN + day * 86400 for day in range(3)]
    assert kept_in(own.root / "nothing") == []


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"type": "lvmthin", "vgname": "pve"}, r"\(lvmthin\) has no path"),
        ({"type": "zfspool", "pool": "tank"}, "has no path"),
        ({"type": "dir", "path": "relative"}, "has no path"),
        ({"type": "dir", "path": "{}", "disable": 1}, "is disabled"),
        ({"type": "dir", "path": "{}", "nodes": "elsewhere, nowhere"}, "only on: elsewhere"),
        ({"type": "nfs", "path": "{}"}, "not mounted at"),
        ({"type": "dir", "path": "{}", "is_mountpoint": "1"}, "not mounted at"),
        ({"type": "dir", "path": "{}", "is_mountpoint": "/proc/self"}, "not mounted at /proc/self"),
    ],
)
def test_a_storage_that_cannot_hold_files_now_is_refused(
    tmp_path: Path, config: dict[str, object], problem: str
) -> None:
    given = {
        name: tmp_path.as_posix() if value == "{}" else value for name, value in config.items()
    }
    with pytest.raises(Fault, match=problem):
        usable("nas", given)


def test_a_storage_gets_a_folder_of_ours(tmp_path: Path) -> None:
    host = socket.gethostname().partition(".")[0]
    config = {"type": "dir", "path": str(tmp_path), "nodes": f"other,{host}", "is_mountpoint": "no"}
    assert usable("local", config) == tmp_path / "pvemcp-backup"
    assert usable("proc", {"type": "nfs", "path": "/proc"}) == Path("/proc/pvemcp-backup")
    with pytest.raises(Invalid, match="not the name of a storage"):
        folder_of_storage("--help")
