"""How far back the audit goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Call, Effect, Intent, Principal
from pvemcp.errors import Unavailable
from pvemcp.journal.book import Book
from pvemcp.retention import DAY, MOST_ROWS, delete_batch, most, used
from pvemcp.settings import Settings
from pvemcp.store import Store
from tests.unit.test_audit import closed

NOW = 1_900_000_000.0


def fill(store: Store, times: list[float], size: int = 10) -> None:
    """Record a call for each of the times, with arguments of that size."""
    for number, moment in enumerate(times):
        store.write(
            "INSERT INTO calls (id, process, time, client, grant_id, address, mcp_client, tool, "
            "arguments, steps, outcome, error, ms) "
            "VALUES (?, '', ?, '', '', '', '', '', ?, '[]', 'ok', '', 1)",
            (str(number), moment, f'"{"x" * size}"'),
        )


def ids(store: Store) -> list[int]:
    return [int(id_) for (id_,) in store.rows("SELECT id FROM calls ORDER BY number")]


def cut(store: Store, settings: Settings) -> int:
    """Delete all that is beyond the limits, and return in how many batches."""
    batches = 0
    while delete_batch(store, settings, NOW):
        batches += 1
    return batches


def test_calls_beyond_their_age_are_deleted_and_the_others_stay(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, [NOW - age * DAY for age in (30, 20, 11, 9, 1)])
        cut(store, Settings(audit_keep_days=10))
        assert ids(store) == [3, 4]


def test_a_call_of_a_wrong_clock_takes_no_newer_ones_with_it(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, [NOW - 30 * DAY, NOW, 0.0, NOW])  # the clock was in 1970 for a while
        cut(store, Settings(audit_keep_days=10))
        assert ids(store) == [1, 2, 3]


def test_zero_days_keep_everything(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.give_back(100)  # what the migrations have freed
        fill(store, [0.0, 1.0, NOW])
        assert cut(store, Settings(audit_keep_days=0)) == 0
        assert len(ids(store)) == 3


def test_the_newest_call_stays_whatever_its_age(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, [0.0, 1.0, 2.0])
        cut(store, Settings(audit_keep_days=1))
        assert ids(store) == [2]


def test_an_audit_beyond_its_size_loses_the_oldest_and_gives_the_disk_back(tmp_path: Path) -> None:
    settings = Settings(audit_max_mb=16, audit_keep_days=0)
    with Store(tmp_path) as store:
        store.write("BEGIN")
        fill(store, [NOW] * 800, size=30_000)
        store.write("COMMIT")
        store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        before = store.path.stat().st_size
        assert used(store) > most(settings)
        assert cut(store, settings) > 10
        store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        assert most(settings) * 0.9 < used(store) <= most(settings)
        assert store.path.stat().st_size <= most(settings) + 1024 * 1024 < before
        assert ids(store) == list(range(800 - len(ids(store)), 800))


def test_a_batch_is_small_whatever_there_is_to_delete(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.write("BEGIN")
        fill(store, [0.0] * 2000)
        store.write("COMMIT")
        delete_batch(store, Settings(audit_keep_days=1), NOW)
        assert len(ids(store)) == 2000 - MOST_ROWS


def test_a_locked_database_is_tried_again_later(tmp_path: Path) -> None:
    with Store(tmp_path) as holder, Store(tmp_path) as store:
        fill(store, [0.0, NOW])
        holder.write("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            delete_batch(store, Settings(audit_keep_days=1), NOW)
        holder.write("ROLLBACK")
        cut(store, Settings(audit_keep_days=1))
        assert ids(store) == [1]


def test_a_call_that_was_recorded_is_still_readable_after_a_cut(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, [0.0])
        audit = Audit(store, None)
        call = closed()
        with audit.running():
            audit.record(call)
        cut(store, Settings(audit_keep_days=1, audit_max_mb=16))
        assert [entry.id for entry in audit.rows()] == [call.id]


def test_changes_beyond_their_age_are_deleted_and_the_others_stay(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        book = Book(store)
        principal = Principal("a", Effect.CHANGE, ApiToken("a@pve!b", "s"))
        call = Call(principal, "api_change", {})
        intent = Intent("PUT", "/pools", Effect.CHANGE, template="/pools")
        old, new = (book.open(call, intent, "pool x", None) for _ in range(2))
        store.write("UPDATE changes SET time = ? WHERE id = ?", (NOW - 91 * DAY, old))
        store.write("UPDATE changes SET time = ? WHERE id = ?", (NOW - 89 * DAY, new))
        cut(store, Settings(changes_keep_days=90))
        assert [change.id for change in book.list()] == [new]


def test_contents_of_files_in_the_journal_do_not_push_the_audit_out(tmp_path: Path) -> None:
    settings = Settings(audit_max_mb=16, audit_keep_days=0, changes_keep_days=0)
    with Store(tmp_path) as store:
        fill(store, [NOW] * 500)
        book = Book(store)
        principal = Principal("a", Effect.DESTROY, ApiToken("a@pve!b", "s"))
        call = Call(principal, "guest_file_write", {})
        intent = Intent("WRITE", "lxc/105 /etc/x", Effect.DESTROY)
        made = [book.open(call, intent, "guest", {"_content": "x" * 500_000}) for _ in range(60)]
        store.insert(
            "INSERT INTO commits VALUES (?, 'network', ?, ?, 0, 'waiting')", (made[0], NOW, NOW)
        )
        store.write("UPDATE changes SET time = ?", (NOW,))
        assert used(store) > most(settings)
        cut(store, settings)
        assert used(store) <= most(settings)
        assert len(ids(store)) == 500
        left = [change.id for change in book.list()]
        assert left[-1] == made[0]  # it waits to be confirmed
        assert 5 < len(left) < 60
        assert left[:-1] == made[: -len(left) : -1]
