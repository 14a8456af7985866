"""The audit: what is written, when, and that a kill loses nothing that was answered."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from pvemcp.audit import RUNNING, UNFINISHED, Audit, as_json
from pvemcp.call import ApiToken, Call, Effect, Principal, Step, Verdict
from pvemcp.errors import Unavailable
from pvemcp.store import Store

WHO = Principal("laptop", Effect.CHANGE, ApiToken("a@pve!b", "s3cr3t"), "g1", "192.0.2.1")
UPID = "UPID:pve1:0000:0000:66AABBCC:qmstart:100:a@pve!b:"


def call(who: Principal = WHO, **values: Any) -> Call:
    return Call(who, "guest_power", {"guest": 100}, client="claude-code 2.1", **values)


def closed(who: Principal = WHO, **values: Any) -> Call:
    made = call(who, **values)
    made.close("ok")
    return made


def test_a_read_is_one_row_and_one_line(tmp_path: Path) -> None:
    journal = io.StringIO()
    with Store(tmp_path) as store:
        audit = Audit(store, journal)
        made = call()
        made.steps.append(Step("GET", "/nodes/pve1", Effect.READ, Verdict.ALLOW, 200, 1.23))
        made.close("invalid", "no such guest")
        audit.record(made)
        [entry] = audit.rows()
    assert (entry.client, entry.grant, entry.address) == ("laptop", "g1", "192.0.2.1")
    assert (entry.tool, entry.arguments, entry.mcp_client) == (
        "guest_power",
        {"guest": 100},
        "claude-code 2.1",
    )
    assert (entry.outcome, entry.error) == ("invalid", "no such guest")
    assert entry.steps[0]["path"] == "/nodes/pve1"
    line = json.loads(journal.getvalue())
    assert line["event"] == "call"
    assert line["arguments"] == {"guest": 100}
    assert line["steps"] == list(entry.steps)
    assert line["time"].endswith("+00:00")
    assert json.loads(as_json(entry))["time"] == line["time"]
    assert "s3cr3t" not in journal.getvalue()


def test_a_change_is_written_before_it_happens_and_completed_afterwards(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        audit = Audit(store, None)
        made = call(effect=Effect.CHANGE)
        audit.opened(made)
        assert [entry.outcome for entry in audit.rows()] == [RUNNING]
        step = Step("POST", "/x", Effect.CHANGE, Verdict.ALLOW, 200, 1.0, upid=UPID)
        made.steps.append(step)
        made.close("ok")
        audit.record(made)
        [entry] = audit.rows()
        assert entry.outcome == "ok"
        assert entry.steps[0]["upid"] == UPID


def test_a_change_is_refused_when_its_row_cannot_be_written(tmp_path: Path) -> None:
    with Store(tmp_path) as store, Store(tmp_path) as other:
        other.write("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="before anything was changed"):
            Audit(store, None).opened(call())
        other.write("ROLLBACK")


def test_a_record_that_fails_is_loud_and_the_journal_still_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = io.StringIO()
    with Store(tmp_path) as store:
        audit = Audit(store, journal)
        made = call()
        audit.opened(made)
        store.write("PRAGMA query_only = ON")
        made.close("ok")
        with caplog.at_level(logging.ERROR):
            audit.record(made)
        assert "AUDIT LOST" in caplog.text
        assert json.loads(journal.getvalue())["outcome"] == "ok"
        assert [entry.outcome for entry in audit.rows()] == [RUNNING]


def test_a_journal_whose_reader_has_gone_stops_nothing(tmp_path: Path) -> None:
    journal = io.StringIO()
    journal.close()
    with Store(tmp_path) as store:
        audit = Audit(store, journal)
        audit.record(closed())
        audit.record(closed())
        assert len(audit.rows()) == 2


def test_rows_are_chosen_by_time_client_and_limit(tmp_path: Path) -> None:
    other = Principal("ci", Effect.READ, WHO.token)
    with Store(tmp_path) as store:
        audit = Audit(store, None)
        for second in range(4):
            audit.record(closed(started=float(second)))
            audit.record(closed(other, started=float(second)))
        assert [entry.time for entry in audit.rows(client="ci")] == [0, 1, 2, 3]
        assert [entry.time for entry in audit.rows(since=2.0, client="laptop")] == [2, 3]
        assert [entry.client for entry in audit.rows(limit=2)] == ["laptop", "ci"]


def test_what_a_client_makes_up_is_bounded(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        audit = Audit(store, None)
        made = Call(WHO, "t" * 5000, {"x": ["y" * 2000] * 100}, client="c" * 5000)
        made.close("invalid", "password=hunter2 " + "e" * 5000)
        audit.record(made)
        [entry] = audit.rows()
    assert len(as_json(entry)) < 10_000
    assert "left out" in entry.arguments
    assert "hunter2" not in as_json(entry)


KILLED = """
    import asyncio, sys
    from pathlib import Path
    from pvemcp.audit import Audit
    from pvemcp.call import ApiToken, Call, Effect, Principal
    from pvemcp.store import Store

    audit = Audit(Store(Path(sys.argv[1])), None)
    who = Principal("laptop", Effect.CHANGE, ApiToken("a@pve!b", "s"), "g1")

    async def caller():
        while True:
            call = Call(who, "guest_power", {"guest": 100}, effect=Effect.CHANGE)
            audit.opened(call)
            await asyncio.sleep(0)
            call.close("ok")
            audit.record(call)
            print(call.id, flush=True)
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(caller() for _ in range(100)))

    asyncio.run(main())
"""


def test_a_kill_during_a_hundred_calls_loses_none_that_was_answered(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(350)]  # amid a round
        process.kill()
        # The last line may be half: the kill came while it was written.
        answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    with Store(tmp_path) as store:
        assert store.check() == "ok"
        entries = {entry.id: entry for entry in Audit(store, None).rows(limit=1_000_000)}
    assert len(answered) >= 350
    assert [entries[id_].outcome for id_ in answered] == ["ok"] * len(answered)
    open_ones = {entry.outcome for entry in entries.values()} - {"ok"}
    assert open_ones == {UNFINISHED}
