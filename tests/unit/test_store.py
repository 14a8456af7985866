"""The database file: modes, migrations, keys, and what a damaged one says."""

from __future__ import annotations

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.freeze import Freeze, Freezes
from pvemcp.errors import Misconfigured, Unavailable
from pvemcp.migrations import MIGRATIONS
from pvemcp.store import FILE, Store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_store_is_closed_to_everybody_else(tmp_path: Path) -> None:
    with Store(tmp_path / "a" / "b") as store:
        store.key("x")
        assert mode(store.path.parent) == 0o700
        assert [mode(path) for path in store.path.parent.iterdir()] == [0o600] * 3


def test_a_database_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.path.chmod(0o644)
    with Store(tmp_path) as store:
        assert mode(store.path) == 0o600


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a folder of another user's, as the service's is for root."""
    ours = [each for each in tmp_path.parents if each.name.startswith(("pytest-", "popen-"))]
    for folder in (tmp_path, *ours):
        folder.chmod(0o755)
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    os.chown(made, 65534, 65534)
    return made


class Swap:
    """Somebody who puts a link to a file of root's in place of the database, when he is called."""

    def __init__(self, state: Path) -> None:
        self.state, self.victim = state, state.with_name("victim")

    def __call__(self) -> None:
        (self.state / FILE).unlink(missing_ok=True)
        (self.state / FILE).symlink_to(self.victim)

    def once_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Do it as soon as the file is there."""
        real = os.open

        def opened(path: Any, *arguments: Any, **more: Any) -> int:
            found = real(path, *arguments, **more)
            if path == self.state / FILE:
                self()
            return found

        monkeypatch.setattr(os, "open", opened)

    def before_sqlite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Do it just before SQLite opens the file."""
        real: Any = sqlite3.connect

        def connected(*arguments: Any, **more: Any) -> Any:
            self()
            return real(*arguments, **more)

        monkeypatch.setattr(sqlite3, "connect", connected)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could be led elsewhere")
@pytest.mark.parametrize("when", [Swap.once_made, Swap.before_sqlite])
def test_a_link_put_there_in_the_last_moment_leads_root_to_no_file_of_its_own(
    state: Path, monkeypatch: pytest.MonkeyPatch, when: Any
) -> None:
    swap = Swap(state)
    swap.victim.write_text("root's")
    swap.victim.chmod(0o644)
    when(swap, monkeypatch)
    with pytest.raises((Unavailable, Misconfigured)):
        Store(state)
    found = swap.victim.stat()
    assert (swap.victim.read_text(), mode(swap.victim), found.st_uid) == ("root's", 0o644, 0)
    assert (os.geteuid(), os.getegid()) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could be led elsewhere")
@pytest.mark.parametrize("when", [Swap.once_made, Swap.before_sqlite])
def test_a_link_put_there_in_the_last_moment_has_root_make_nothing(
    state: Path, monkeypatch: pytest.MonkeyPatch, when: Any
) -> None:
    swap = Swap(state)
    when(swap, monkeypatch)
    with pytest.raises((Unavailable, Misconfigured)):
        Store(state)
    assert not swap.victim.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_is_the_service_users(state: Path) -> None:
    with Store(state) as store:
        store.key("x")
        assert {(path.stat().st_uid, mode(path)) for path in state.iterdir()} == {(65534, 0o600)}
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_a_folder_that_everybody_may_write_is_refused_and_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Misconfigured, match="chmod 0700"):
        Store(tmp_path)
    assert mode(tmp_path) == 0o777


def test_a_state_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="state_dir"):
        Store(tmp_path / "file" / "below")


def test_a_key_is_made_once_and_survives(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        key = store.key("request-state")
        assert len(key) == 32
        assert store.key("other") != key
    with Store(tmp_path) as store:
        assert store.key("request-state") == key


def test_two_processes_get_the_same_key(tmp_path: Path) -> None:
    with Store(tmp_path) as one, Store(tmp_path) as two:
        assert one.key("request-state") == two.key("request-state")


def test_many_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    def open_and_read(folder: Path) -> bytes:
        with Store(folder) as store:
            return store.key("k")

    with ThreadPoolExecutor(8) as pool:
        for number in range(30):
            folder = tmp_path / str(number)
            folder.mkdir(mode=0o700)
            assert len(set(pool.map(open_and_read, [folder] * 16))) == 1


def test_a_newer_schema_is_refused_and_not_touched(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.write(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(Misconfigured, match="newer pvemcp"):
        Store(tmp_path)


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "pvemcp.db")
    database.execute("CREATE TABLE calls (x)")  # in the way of the first migration
    database.close()
    with pytest.raises(Unavailable):
        Store(tmp_path)
    database = sqlite3.connect(tmp_path / "pvemcp.db")
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("calls",)]
    database.close()


def test_a_freeze_of_before_nodes_told_each_other_still_holds(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "pvemcp.db")
    before = next(n for n, script in enumerate(MIGRATIONS) if "own_freezes" in script)
    for script in MIGRATIONS[:before]:
        database.executescript(script)
    database.execute("INSERT INTO freezes VALUES ('laptop', 'all', 'root', 'odd', 1.0)")
    database.execute(f"PRAGMA user_version = {before}")
    database.commit()
    database.close()
    with Store(tmp_path) as store:
        assert Freezes(store).all() == [Freeze("laptop", "all", "root", "odd", 1.0)]


def test_a_damaged_file_says_so_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pvemcp.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Unavailable, match="move the file away"):
        Store(tmp_path)


def test_a_locked_database_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    with Store(tmp_path) as holder, Store(tmp_path) as other:
        holder.write("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another process"):
            other.key("x")
        holder.write("COMMIT")
        assert other.key("x")


def test_a_full_disk_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        pages = store.rows("PRAGMA page_count")[0][0]
        store.rows(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Unavailable, match="Make room"):
            store.write("INSERT INTO key VALUES ('big', zeroblob(100000))")
        assert store.check() == "ok"


def test_reading_anew_sees_that_the_file_has_gone(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.read()
        store.path.unlink()
        with pytest.raises(Unavailable):
            store.read()
