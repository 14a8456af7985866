"""Tasks: their names, their end, their progress, and what HA does later."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import Invalid, Missing, TaskFailed
from pvemcp.pve.client import Pve
from pvemcp.pve.progress import percent
from pvemcp.pve.tasks import Upid, follow_ha, is_upid, peek, run_task, task_log
from pvemcp.pve.upid import upid_in
from tests.unit.pve_server import Request, answer, client_of, new_call, raw

UPID = "UPID:pve1:0000A1B2:00C3D4E5:65F00000:qmclone:100:ops@pve!mcp:"
REAL = "UPID:pve1:0000A1B3:00C3D4E6:65F00008:qmstart:100:root@pam:"
GUEST = "/nodes/pve1/qemu/100"

RUNNING: dict[str, Any] = {"status": "running"}


def ended(exitstatus: str) -> dict[str, Any]:
    return {"status": "stopped", "exitstatus": exitstatus}


class Tasks:
    """Answers for tasks: each look takes the next state, the last one stays."""

    def __init__(
        self, *states: dict[str, Any] | bytes | None, log: list[str] | None = None
    ) -> None:
        self.states = deque(states)
        self.log = log or []
        self.growing: Callable[[int], None] = lambda _: None
        self.looks = 0
        self.others: Callable[[Request], bytes | None] = lambda _: answer(None)

    async def __call__(self, request: Request) -> bytes | None:
        parts = urlsplit(request.target)
        if parts.path.endswith("/log"):
            return self._log_page(parse_qs(parts.query))
        if not parts.path.endswith(":/status"):
            return self.others(request)
        self.looks += 1
        self.growing(self.looks)
        state = self.states.popleft() if len(self.states) > 1 else self.states[0]
        return answer(state) if isinstance(state, dict) else state

    def _log_page(self, query: dict[str, list[str]]) -> bytes:
        start, limit = (int(query.get(name, ["0"])[0]) for name in ("start", "limit"))
        rows = [{"n": n, "t": t} for n, t in enumerate(self.log, 1)] or [
            {"n": 1, "t": "no content"}
        ]
        return answer(rows[start : start + limit], total=len(rows))


@asynccontextmanager
async def working(tasks: Tasks) -> AsyncIterator[Pve]:
    async with client_of(tasks) as (client, _):
        yield client.bind(new_call())


def test_a_upid_is_taken_apart() -> None:
    upid = Upid.parse(UPID)
    assert (upid.node, upid.pid, upid.type, upid.id, upid.user) == (
        "pve1", 0xA1B2, "qmclone", "100", "ops@pve!mcp")  # fmt: skip
    assert upid.start == 0x65F00000
    assert str(upid) == UPID


@pytest.mark.parametrize(
    "text",
    [
        "UPID:pve1:00002123:000536CD:6B03DE71:download:x.iso:root@pam!full:",
        "UPID:pve-1:00002123:1000536CD:6B03DE71:aptupdate::root@pam:",
        "UPID:n:00002123:000536CD:6B03DE71:imgdel:local@vm-1-disk-0.qcow2:root@pam:",
    ],
)
def test_upids_are_known_by_their_value(text: str) -> None:
    assert is_upid(text)
    assert upid_in(text) == upid_in({"upid": text, "port": "5900"}) == text


@pytest.mark.parametrize(
    "value",
    ["", "UPID:", "foo", None, 7, [], UPID[:-1], UPID + "x", "x" + UPID, UPID + "\n",
     UPID.replace("100", "a/b"), UPID.replace("pve1", "../x"), UPID.replace("100", "x" * 600)],
)  # fmt: skip
def test_other_values_are_no_upids(value: Any) -> None:
    assert not is_upid(value)
    assert upid_in(value) == upid_in({"upid": value}) == ""
    with pytest.raises(Invalid, match="not a UPID"):
        Upid.parse(value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("drive-scsi0: transferred 1.0 GiB of 32.0 GiB (3.12%) in 5s", 3.12),
        ("drive-scsi0: transferred 32.0 GiB of 32.0 GiB (100.00%) in 2m 5s, ready", 99),
        ("transferred 512.0 MiB of 2.0 GiB (25.00%)", 25),
        ("INFO:  42% (1.3 GiB of 3.2 GiB) in 9s, read: 150.0 MiB/s, write: 148.0 MiB/s", 42),
        ("progress 7% (read 300000 bytes, duration 2 sec)", 7),
        ("progress 55% (read 300000 bytes, zeroes = 10% (1 bytes), duration 2 sec)", 55),
        ("migration active, transferred 1.0 GiB of 4.0 GiB VM-state, 412.3 MiB/s", 25),
        ("migration active, transferred 512.0 MiB of 2.0 GiB VM-state, 1.1 GiB/s", 25),
        ("migration active, transferred 9.0 GiB of 4.0 GiB VM-state, 1.1 GiB/s", 99),
        ("migration active, transferred 1.0 GiB of 0.0 B VM-state, 1.1 GiB/s", None),
        ("  32768K ........ ........ ........ ........  3% 112M 9s", 3),
        ("Formatting 'x', fmt=raw size=100", None),
        ("", None),
    ],
)
def test_the_log_tells_how_far_a_task_is(line: str, expected: float | None) -> None:
    assert percent(["starting", line, "no number"]) == expected


@given(
    st.lists(st.text() | st.from_regex(r"migration active, transferred [\d.]* GiB of [\d.]+ MiB"))
)
def test_any_log_is_survived(lines: list[str]) -> None:
    found = percent(lines)
    assert found is None or 0 <= found <= 99


async def test_a_task_is_followed_to_its_end() -> None:
    async with working(Tasks(RUNNING, RUNNING, ended("OK"))) as pve:
        end = await run_task(pve, UPID, wait=10)
        assert (end.upid, end.status, end.exitstatus) == (UPID, "ok", "OK")
        assert len(pve.call.steps) == 1, "looks beyond the first leave no steps"


async def test_a_task_that_failed_raises_its_reason_and_the_end_of_its_log() -> None:
    log = ["a", "b", "TASK ERROR: VM is locked (backup)"]
    async with working(Tasks(RUNNING, ended("VM is locked (backup)"), log=log)) as pve:
        with pytest.raises(TaskFailed) as caught:
            await run_task(pve, UPID, wait=10)
        assert caught.value.message == "qmclone 100 on pve1 failed: VM is locked (backup)"
        for words in ("a backup of it runs", *log, UPID):
            assert words in caught.value.hint


@pytest.mark.parametrize(("exitstatus", "words"), [("", "killed"), ("unexpected status", "status")])
async def test_a_task_that_was_killed_has_failed(exitstatus: str, words: str) -> None:
    async with working(Tasks(ended(exitstatus))) as pve:
        with pytest.raises(TaskFailed, match=words):
            await run_task(pve, UPID, wait=0)


async def test_warnings_are_an_end_with_the_log() -> None:
    async with working(Tasks(ended("WARNINGS: 1"), log=["WARN: something"])) as pve:
        end = await run_task(pve, UPID, wait=0)
        assert (end.status, end.log_tail) == ("warnings", ("WARN: something",))


async def test_patience_ends_with_a_task_that_runs() -> None:
    async with working(Tasks(RUNNING, log=["line 1", "line 2"])) as pve:
        end = await run_task(pve, UPID, wait=0)
        assert (end.status, end.exitstatus, end.log_tail) == ("running", "", ("line 1", "line 2"))


async def test_trouble_while_looking_is_overcome() -> None:
    broken = raw(b"", status=595, reason="Connection refused")
    async with working(Tasks(broken, None, None, broken, RUNNING, ended("OK"))) as pve:
        assert (await run_task(pve, UPID, wait=20)).status == "ok"
        assert [step.status for step in pve.call.steps] == [595, 0, 595]


async def test_trouble_until_the_end_of_patience_is_told() -> None:
    async with working(Tasks(raw(b"", status=596, reason="Broken pipe"))) as pve:
        end = await run_task(pve, UPID, wait=0.1)
        assert end.status == "running"
        assert "PVE does not answer" in end.log_tail[-1]


async def test_a_task_that_pve_does_not_know_is_missing() -> None:
    unknown = answer(
        status=400, reason="Parameter verification failed.", errors={"upid": "no such task"}
    )
    async with working(Tasks(unknown)) as pve:
        with pytest.raises(Missing, match="no such task"):
            await run_task(pve, UPID, wait=10)


async def test_a_peek_returns_what_failed() -> None:
    async with working(Tasks(ended("boom"), log=["TASK ERROR: boom"])) as pve:
        end = await peek(pve, Upid.parse(UPID))
        assert (end.status, end.exitstatus, end.log_tail) == (
            "failed",
            "boom",
            ("TASK ERROR: boom",),
        )
    async with working(Tasks(RUNNING, log=["x"])) as pve:
        assert (await peek(pve, UPID)).status == "running"


async def test_progress_only_grows_and_is_in_percent_once_that_is_known() -> None:
    tasks = Tasks(*[RUNNING] * 6, ended("OK"))
    lines = ["create full clone", *(f"transferred 1 GiB of 2 GiB ({n}%)" for n in (50, 100, 11))]
    tasks.growing = lambda look: tasks.log.extend(lines[look - 1 : look])
    reports: list[tuple[float, float | None, str]] = []

    async def progress(done: float, total: float | None, message: str) -> None:
        reports.append((done, total, message))

    async with working(tasks) as pve:
        pve.call.progress = progress
        await run_task(pve, UPID, wait=20)
    values = [done for done, _, _ in reports]
    assert values == sorted(set(values))
    assert len(values) >= 2
    assert reports[0][1] is None
    assert reports[-1][1] == 100
    assert reports[-1][2].startswith("qmclone 100: transferred")


async def test_a_long_log_is_read_page_by_page_without_a_gap() -> None:
    log = [f"line {number}" for number in range(1234)]
    async with working(Tasks(ended("failed somehow"), log=log)) as pve:
        assert (await peek(pve, UPID)).log_tail == tuple(log[-10:])


@pytest.mark.parametrize(("tail", "count"), [(0, 0), (1, 1), (5, 5), (50, 30)])
async def test_the_tail_of_a_log(tail: int, count: int) -> None:
    log = [f"line {number}" for number in range(30)]
    async with working(Tasks(RUNNING, log=log)) as pve:
        assert await task_log(pve, UPID, tail=tail) == log[len(log) - count :]


async def test_an_empty_log_has_no_lines() -> None:
    async with working(Tasks(RUNNING)) as pve:
        assert await task_log(pve, UPID, tail=5) == []


HASTART = UPID.replace("qmclone", "hastart")


async def test_an_ha_start_is_followed_through_the_real_task() -> None:
    tasks = Tasks(ended("OK"), RUNNING, ended("start failed"), log=["TASK ERROR: start failed"])
    listed = 0

    def others(request: Request) -> bytes:
        nonlocal listed
        if "/tasks?" in request.target:
            listed += 1
            assert "vmid=100" in request.target
            rows = [{"upid": REAL, "type": "qmstart"}, {"upid": HASTART, "type": "hastart"}]
            return answer(rows if listed > 1 else rows[1:])
        return answer({"status": "stopped"})

    tasks.others = others
    async with working(tasks) as pve:
        with pytest.raises(TaskFailed, match="qmstart 100 on pve1 failed: start failed"):
            await follow_ha(pve, HASTART, guest_path=GUEST, state="running", wait=10)


async def test_an_ha_start_whose_task_is_hidden_is_followed_through_the_guest() -> None:
    states = deque(["stopped", "stopped", "running"])
    tasks = Tasks(ended("OK"))

    def others(request: Request) -> bytes:
        if "/tasks?" in request.target:
            return answer([])
        return answer({"status": states.popleft()})

    tasks.others = others
    async with working(tasks) as pve:
        end = await follow_ha(pve, HASTART, guest_path=GUEST, state="running", wait=10)
        assert (end.status, end.exitstatus) == ("ok", "OK, the guest is running")


async def test_an_ha_guest_that_moved_is_followed_to_its_new_node() -> None:
    tasks = Tasks(ended("OK"))

    def others(request: Request) -> bytes:
        if "/tasks?" in request.target:
            return answer([])
        if "resources" in request.target:
            return answer([{"vmid": 100, "node": "pve2", "type": "qemu"}])
        if "pve2" in request.target:
            return answer({"status": "running"})
        text = "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist"
        return raw(b"", status=500, reason=text)

    tasks.others = others
    async with working(tasks) as pve:
        end = await follow_ha(pve, HASTART, guest_path=GUEST, state="running", wait=10)
        assert end.status == "ok"


async def test_an_ha_manager_that_does_nothing_is_told() -> None:
    tasks = Tasks(ended("OK"))
    tasks.others = lambda request: answer(
        [] if "/tasks?" in request.target else {"status": "stopped"}
    )
    async with working(tasks) as pve:
        end = await follow_ha(pve, HASTART, guest_path=GUEST, state="running", wait=0.2)
        assert end.status == "running"
        assert "HA manager has not done it yet" in end.log_tail[-1]


async def test_a_task_that_is_not_of_the_ha_manager_is_just_followed() -> None:
    async with working(Tasks(ended("OK"))) as pve:
        end = await follow_ha(pve, REAL, guest_path=GUEST, state="running", wait=5)
        assert end.upid == REAL
