"""What becomes of recordings: killed in the middle, too old, too many, altered by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvemcp.audit import Audit
from pvemcp.errors import Misconfigured, Unavailable
from pvemcp.recordings import Recording, Recordings
from pvemcp.settings.policy import rules
from pvemcp.store import Store
from tests.unit.test_cli import Commands

ABOUT = {"columns": 80, "rows": 24, "title": "t", "client": "laptop", "node": "pve1"}
WRITER = """
import sys
from pathlib import Path
from pvemcp.audit import Audit
from pvemcp.recordings import Recordings
from pvemcp.store import Store
with Store(Path(sys.argv[1])) as store:
    about = {"columns": 80, "rows": 24, "title": "t", "client": "laptop"}
    one = Recordings(store).start("shell-1", about, Audit(store, None).event, str)
    for number in range(1_000_000):
        one.wrote(b"line %d\\r\\n" % number)
        if number % 3 == 0:
            one.seal()
        print(number, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database."""
    with Store(tmp_path / "state") as made:
        yield made


def record(store: Store, name: str, text: bytes = b"hello\r\n") -> Recording:
    """Begin a recording and write to it."""
    made = Recordings(store).start(name, ABOUT, Audit(store, None).event, str)
    made.wrote(text)
    return made


@pytest.mark.parametrize("acknowledged", [1, 50, 333])
def test_a_kill_loses_nothing_that_was_written(store: Store, acknowledged: int) -> None:
    folder = str(store.path.parent)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(acknowledged):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept, audit = Recordings(store), Audit(store, None)
    assert any(f"line {last}\\r\\n" in line for line in kept.read("shell-1"))
    assert list(kept.problems()) == []
    kept.end_cut_off(audit.event)
    (one,) = kept.all()
    assert one.end == "the service was killed"
    assert one.size == kept.path("shell-1").stat().st_size
    with kept.path("shell-1").open("ab") as file:
        file.write(b"more")
    assert "more than it ended with" in next(kept.problems())


def test_what_was_altered_after_a_kill_is_not_sealed_as_it_is(store: Store) -> None:
    record(store, "a").seal()
    kept = Recordings(store)
    kept.path("a").write_bytes(b"another")
    kept.end_cut_off(Audit(store, None).event)
    assert "a was changed" in next(kept.problems())


def test_old_ones_are_deleted_and_the_audit_says_so(store: Store) -> None:
    record(store, "a").close("closed")
    kept = Recordings(store)
    kept.forget(before=time.time() + 1, most=1 << 30, tell=Audit(store, None).event)
    (one,) = kept.all()
    assert (one.deleted, kept.path("a").exists()) == ("age", False)
    assert list(kept.problems()) == []


def test_the_oldest_go_until_the_others_fit_and_open_ones_stay(store: Store) -> None:
    for name in ("a", "b", "c"):
        record(store, name, b"x" * 1000).close("closed")
    running = record(store, "d", b"x" * 1000)
    kept = Recordings(store)
    kept.forget(before=0.0, most=2500, tell=Audit(store, None).event)
    assert [one.name for one in kept.all() if not one.deleted] == ["c", "d"]
    kept.forget(before=0.0, most=0, tell=Audit(store, None).event)
    assert [one.name for one in kept.all() if not one.deleted] == ["d"]
    running.wrote(b"still\r\n")
    running.close("closed")
    assert list(kept.problems()) == []


def test_files_whose_records_went_with_the_audit_are_deleted(store: Store) -> None:
    record(store, "a").close("closed")
    kept = Recordings(store)
    old = kept.folder / "older.cast"
    old.write_text("{}")
    os.utime(old, (1, 1))
    assert list(kept.problems()) == []
    kept.forget(before=0.0, most=1 << 30, tell=Audit(store, None).event)
    assert [path.name for path in kept.folder.iterdir()] == ["a.cast"]


def test_a_link_in_its_place_is_not_followed(store: Store, tmp_path: Path) -> None:
    kept = Recordings(store)
    kept.folder.mkdir()
    kept.path("a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="File exists"):
        record(store, "a")
    assert not (tmp_path / "elsewhere").exists()


def test_a_terminal_obeys_nothing_of_the_file_itself(store: Store) -> None:
    hostile = "\x9b2J\x1b[2J\u202e\x7f é"
    record(store, "a", hostile.encode()).close("closed")
    _, event = Recordings(store).read("a")
    assert not set("\x9b\x1b\u202e\x7f") & set(event)
    assert json.loads(event)[2] == hostile
    assert list(Recordings(store).problems()) == []


def test_the_command_line_lists_prints_and_verifies(tmp_path: Path) -> None:
    pvemcp = Commands(tmp_path)
    with Store(pvemcp.state) as store:
        record(store, "shell-1", b"hi \x1b[31mred\r\n").close("closed")
        path = Recordings(store).path("shell-1")
    assert "shell-1" in (listed := pvemcp("audit", "recordings").stdout)
    assert "closed" in listed
    assert pvemcp("audit", "recording", "shell-1").stdout == path.read_text()
    read = pvemcp("audit", "recording", "shell-1", "--text").stdout
    assert read.endswith("< hi \\x1b[31mred\n")
    assert "no recording other" in pvemcp("audit", "recording", "other", answer=2).stderr
    assert "The audit is whole" in pvemcp("audit", "verify").stdout
    path.unlink()
    said = pvemcp("audit", "verify", answer=1).stderr
    assert "BROKEN: the recording shell-1 is missing" in said


@pytest.mark.parametrize("key", ["tag", "path", "effect", "tool"])
def test_a_rule_that_records_takes_conditions_of_shells_alone(key: str) -> None:
    with pytest.raises(Misconfigured, match=f"records shells, and has the key '{key}'"):
        rules("policy", [{"name": "r", "verdict": "record", key: ["read"]}])


def test_a_recording_that_the_audit_cannot_know_is_none(store: Store) -> None:
    def full(_kind: str, _about: object) -> None:
        raise Unavailable("no room")

    with pytest.raises(Unavailable, match="no room"):
        Recordings(store).start("a", ABOUT, full, str)
    assert list(Recordings(store).folder.iterdir()) == []
