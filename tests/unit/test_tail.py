"""Rows of reads on their way into the database: killed, attacked, and with no room left."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Call, Effect, Principal
from pvemcp.chain import Chain, row_text
from pvemcp.errors import Unavailable
from pvemcp.ledger import TAIL_BROKEN
from pvemcp.store import FILE, Store
from pvemcp.tail import BATCH, FILES, Tail
from pvemcp.verifying import verify

WHO = Principal("laptop", Effect.DESTROY, ApiToken("a@pve!t", "s"), "g1")
SPAWN = multiprocessing.get_context("spawn")


def read(audit: Audit, number: int, error: str = "") -> str:
    """Record a call that only reads, and return its id."""
    call = Call(WHO, "guest_get", {"guest": number})
    call.close("missing" if error else "ok", error)
    audit.record(call)
    return call.id


def change(audit: Audit) -> str:
    call = Call(WHO, "guest_power", {"guest": 1}, effect=Effect.CHANGE)
    audit.opened(call)
    call.close("ok")
    audit.record(call)
    return call.id


def in_database(store: Store) -> list[str]:
    return [id_ for (id_,) in store.rows("SELECT id FROM calls ORDER BY number")]


def killed(folder: Path, count: int, ids: multiprocessing.SimpleQueue[list[str]]) -> None:
    """Record reads, and die without a word."""
    audit = Audit(Store(folder), None)
    ids.put([read(audit, number) for number in range(count)])
    os.kill(os.getpid(), signal.SIGKILL)


def left_by_a_kill(folder: Path, count: int) -> list[str]:
    """Return the ids of what a killed process has recorded."""
    ids: multiprocessing.SimpleQueue[list[str]] = SPAWN.SimpleQueue()
    process = SPAWN.Process(target=killed, args=(folder, count, ids))
    process.start()
    recorded = ids.get()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return recorded


def test_reads_wait_beside_the_database_and_everybody_sees_them(tmp_path: Path) -> None:
    with Store(tmp_path) as store, Store(tmp_path) as other:
        audit = Audit(store, None)
        ids = [read(audit, number) for number in range(3)]
        assert in_database(store) == []
        assert [entry.id for entry in Audit(other, None).rows()] == ids
        assert [entry.id for entry in Audit(other, None).rows(limit=2)] == ids[1:]
        assert Audit(other, None).rows(client="phone") == []
        assert Audit(other, None).clients() == {"laptop"}
        assert verify(Chain(other)) == ""


@pytest.mark.parametrize("newer", ["change", "event", "head", "batch", "end"])
def test_they_come_into_the_database_before_anything_newer(tmp_path: Path, newer: str) -> None:
    with Store(tmp_path) as store:
        audit = Audit(store, None)
        with audit.running():
            ids = [read(audit, number) for number in range(BATCH - 1)]
            assert in_database(store) == []
            match newer:
                case "change":
                    ids.append(change(audit))
                case "event":
                    audit.event("freeze", {"by": "root"})
                case "head":
                    assert audit.head() is not None
                case "batch":
                    ids.append(read(audit, BATCH))
            assert in_database(store) == ([] if newer == "end" else ids)
        assert in_database(store) == ids
        assert list(tmp_path.glob(FILES)) == []
        assert verify(Chain(store)) == ""
        kinds = [kind for (kind,) in store.rows("SELECT kind FROM chain ORDER BY number")]
        after = {"change": ["opened", "closed"], "event": ["freeze"], "batch": ["closed"]}
        assert kinds == ["start", *["closed"] * (BATCH - 1), *after.get(newer, [])]


def test_what_a_killed_process_has_recorded_is_there_and_is_moved_once(tmp_path: Path) -> None:
    count = BATCH + 7
    ids = left_by_a_kill(tmp_path, count)
    with Store(tmp_path) as store:
        assert in_database(store) == ids[:BATCH]
        assert [entry.id for entry in Audit(store, None).rows()] == ids
        [file] = tmp_path.glob(FILES)
        shutil.copy(file, tmp_path / "copy")
        for _ in range(2):  # the second time as after a kill between commit and removal
            with Audit(store, None).running():
                assert in_database(store) == ids
                assert list(tmp_path.glob(FILES)) == []
            shutil.copy(tmp_path / "copy", file)
        assert [entry.id for entry in Audit(store, None).rows()] == ids
        assert verify(Chain(store)) == ""


def test_the_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    with Store(tmp_path) as store, Store(tmp_path) as other:
        audit = Audit(store, None)
        with audit.running():
            first = read(audit, 1)
            with Audit(other, None).running():
                assert in_database(other) == []
            second = read(audit, 2)
        assert in_database(store) == [first, second]


def _changed(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b"guest_get", b"guest_set"), *lines[2:]]


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (_changed, 2),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines, lines[-1]], 6),
        (lambda lines: [*lines[:4], b"4 00 []", lines[4]], 5),
        (lambda _: [b"\xff\xfe"], 1),
    ],
    ids=["changed", "taken out", "moved", "put in again", "put in", "garbage"],
)
def test_what_is_changed_in_a_tail_is_found(
    tmp_path: Path, attack: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    ids = left_by_a_kill(tmp_path, 5)
    [file] = tmp_path.glob(FILES)
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join(attack(lines)) + b"\n")
    said = f"line {line} of {file.name} was changed, inserted or moved"
    with Store(tmp_path) as store:
        assert verify(Chain(store)) == said
        assert [entry.id for entry in Audit(store, None).rows()] == ids[: line - 1]
        with Audit(store, None).running():
            assert in_database(store) == ids[: line - 1]
        [event] = Chain(store).told(TAIL_BROKEN)
        assert event.about == {"problem": said}
        assert (tmp_path / f"{file.name}.broken").is_file()
        assert said in verify(Chain(store)).replace(".broken", "")


def test_lines_of_another_file_do_not_pass(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path, 2)
    [first] = tmp_path.glob(FILES)
    kept = first.read_bytes()
    first.unlink()
    left_by_a_kill(tmp_path, 2)
    [second] = tmp_path.glob(FILES)
    second.write_bytes(kept)
    with Store(tmp_path) as store:
        assert "line 1 of" in verify(Chain(store))


def test_a_line_that_a_kill_has_cut_off_is_no_line(tmp_path: Path) -> None:
    ids = left_by_a_kill(tmp_path, 3)
    [file] = tmp_path.glob(FILES)
    file.write_bytes(file.read_bytes()[:-9])
    with Store(tmp_path) as store:
        assert verify(Chain(store)) == ""
        with Audit(store, None).running():
            assert in_database(store) == ids[:2]


def test_reads_go_on_while_the_database_is_locked_and_come_in_later(tmp_path: Path) -> None:
    with Store(tmp_path) as store, (audit := Audit(store, None)).running():
        holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        ids = [read(audit, number) for number in range(BATCH + 3)]
        assert "locked" in audit.trouble
        with pytest.raises(Unavailable, match="Refused before anything was changed"):
            change(audit)
        assert audit.lost == 0
        holder.execute("ROLLBACK")
        holder.close()
        ids.append(change(audit))
        assert audit.trouble == ""
        assert in_database(store) == ids
        assert verify(Chain(store)) == ""


def without_room(folder: Path, results: multiprocessing.SimpleQueue[tuple[int, str]]) -> None:
    """Append rows to a tail while files may have 2,000 bytes."""
    with Store(folder) as store:
        chain = Chain(store)
        tail = Tail(chain)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        row = ("id", "1/1", 1e9, "laptop", "g", "::1", "c", "t", "{}", "[]", "ok", "", 1.0, "{}")
        try:
            for number in range(50):
                tail.append((f"id{number}", *row[1:]), row_text((f"id{number}", *row[1:])))
        except Unavailable as fault:
            results.put((len(tail.lines), str(fault)))


def test_without_room_a_tail_holds_whole_lines_and_says_so(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        Chain(store)  # the key is there
    results: multiprocessing.SimpleQueue[tuple[int, str]] = SPAWN.SimpleQueue()
    process = SPAWN.Process(target=without_room, args=(tmp_path, results))
    process.start()
    written, said = results.get()
    process.join(60)
    assert written > 3
    assert "Make room" in said
    with Store(tmp_path) as store:
        assert len(Audit(store, None).rows()) == written
        assert verify(Chain(store)) == ""


def test_half_characters_do_not_stop_the_audit(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        audit = Audit(store, None)
        with audit.running():
            read(audit, 1, error="PVE said \ud800")
        [entry] = audit.rows()
        assert entry.error == "PVE said \\ud800"
        assert verify(Chain(store)) == ""
