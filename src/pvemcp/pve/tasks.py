"""PVE tasks: following one to its end. A UPID only says that something has begun."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pvemcp.call import no_progress, planned
from pvemcp.errors import Denied, Fault, Missing, Rejected, TaskFailed, Unavailable
from pvemcp.pve.faults import clean, explained
from pvemcp.pve.progress import percent
from pvemcp.pve.upid import Upid, is_upid

if TYPE_CHECKING:
    from pvemcp.pve.client import Pve

__all__ = ["NO_ANSWER", "TaskEnd", "Upid", "follow_ha", "is_upid", "peek", "run_task", "task_log"]

FIRST_LOOK = 0.1
"""Seconds between the first two looks; each pause is longer, up to LAST_LOOK."""
LAST_LOOK = 2.0
GROWTH = 1.6
TAIL = 10
"""Log lines that come with a task's end."""
PAGE = 500
"""Log lines read at once."""
PAGES = 40
"""Pages read in one go; the rest follows with the next look."""
HALF_WAY = 30.0
"""Seconds after which a task without a percentage is shown as 0.5, without a total."""
REPORT_EVERY = 0.4
"""Seconds between progress reports."""

Status = Literal["ok", "warnings", "failed", "running"]
PLANNED = "UPID:planned:00000000:00000000:00000000:planned::planned:"
"""Stands for the task of a request that was only planned."""
_STATUS = "/nodes/{node}/tasks/{upid}/status"
_LOG = "/nodes/{node}/tasks/{upid}/log"
NO_ANSWER = "PVE does not answer"
"""How the last line of a running task begins when nobody knows whether it still runs."""
_NOTHING = ("no content", "unable to open file")


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended, or that it still runs. `log_tail` holds its last lines.

    `seconds` is how long it has run; None for an ended task of which PVE does not say.
    """

    upid: str
    status: Status
    exitstatus: str
    log_tail: tuple[str, ...]
    seconds: float | None


async def run_task(pve: Pve, upid: str | Upid, *, wait: float) -> TaskEnd:
    """Follow a task to its end, but not longer than `wait` seconds.

    Reports progress to the call. Trouble with a single look is overcome. Raises TaskFailed with
    PVE's reason and the log's last lines, Missing for a task that PVE does not know.
    """
    if planned(upid):
        return TaskEnd(PLANNED, "ok", "planned", (), None)
    watch = _Watch(pve, upid)
    until = time.monotonic() + wait
    pause = FIRST_LOOK
    while True:
        end = await watch.look()
        if end is not None:
            if end.status == "failed":
                raise _failure(end)
            return end
        left = until - time.monotonic()
        if left <= 0:
            return await watch.unfinished()
        await watch.report()
        await asyncio.sleep(min(pause, max(left, 0.0)))
        pause = min(pause * GROWTH, LAST_LOOK)


async def peek(pve: Pve, upid: str | Upid) -> TaskEnd:
    """Look at a task once: a failed one is returned, not raised."""
    watch = _Watch(pve, upid)
    return await watch.look() or await watch.unfinished()


async def task_log(pve: Pve, upid: str | Upid, *, tail: int) -> list[str]:
    """Return the last `tail` lines of a task's log."""
    name = upid if isinstance(upid, Upid) else Upid.parse(upid)
    where = {"node": name.node, "upid": name.text}
    answer = await pve.request("GET", _LOG, {**where, "start": 0, "limit": max(tail, 1)})
    if answer.total is not None and answer.total > tail:
        start = max(answer.total - tail, 0)
        answer = await pve.request("GET", _LOG, {**where, "start": start, "limit": max(tail, 1)})
    return _lines(answer.data)[-tail:] if tail > 0 else []


async def follow_ha(pve: Pve, upid: str, *, guest_path: str, state: str, wait: float) -> TaskEnd:
    """Follow a start or stop of an HA-managed guest until the guest is in `state`.

    The task of the request (`hastart`, `hastop`) ends as soon as the HA manager has noted it; the
    real one comes some seconds later under another UPID (seen on PVE 9.1), perhaps on another
    node. Raises TaskFailed when the real task fails.
    """
    until = time.monotonic() + wait
    asked = await run_task(pve, upid, wait=wait)
    if asked.upid == PLANNED:
        return asked
    name = Upid.parse(upid)
    if asked.status == "running" or not name.type.startswith("ha"):
        return asked
    pause = FIRST_LOOK
    guest = _HaGuest(pve, guest_path, since=name.start)
    while True:
        real = await guest.real_task()
        if real:
            return await run_task(pve, real, wait=max(until - time.monotonic(), 0))
        if await guest.status() == state:
            return TaskEnd(upid, "ok", f"OK, the guest is {state}", (), time.time() - name.start)
        left = until - time.monotonic()
        if left <= 0:
            note = f"the HA manager has not done it yet; the guest is not {state}"
            return TaskEnd(upid, "running", "", (note,), time.time() - name.start)
        await pve.call.progress(time.time() - name.start, None, "waiting for the HA manager")
        await asyncio.sleep(min(pause, left))
        pause = min(pause * GROWTH, LAST_LOOK)


class _Watch:
    """What is known of one task while it is followed."""

    def __init__(self, pve: Pve, upid: str | Upid) -> None:
        self._pve = pve
        self._upid = upid if isinstance(upid, Upid) else Upid.parse(upid)
        self._where = {"node": self._upid.node, "upid": self._upid.text}
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._read = 0
        self._looks = 0
        self._percent: float | None = None
        self._reported = 0.0
        self._report_at = 0.0
        self._trouble = ""

    async def look(self) -> TaskEnd | None:
        """Look once: the end, or None while the task runs or PVE does not answer."""
        ask = self._pve.poll if self._looks else self._pve.get
        self._looks += 1
        try:
            status = await ask(_STATUS, **self._where)
        except Unavailable as fault:
            self._trouble = fault.message
            return None
        self._trouble = ""
        if not isinstance(status, Mapping) or status.get("status") == "running":
            return None
        return await self._ended(str(status.get("exitstatus") or ""), await self._ran())

    async def unfinished(self) -> TaskEnd:
        """Return the state of a task that still runs."""
        await self._read_log()
        lines = [*self._tail, *([f"{NO_ANSWER}: {self._trouble}"] if self._trouble else [])]
        return self._end("running", "", lines, seconds=self._age())

    async def report(self) -> None:
        """Tell the client how far the task is: in percent, or a growing share of 1."""
        if self._pve.call.progress is no_progress or time.monotonic() < self._report_at:
            return
        self._report_at = time.monotonic() + REPORT_EVERY
        await self._read_log()
        total = None if self._percent is None else 100.0
        # Progress only ever grows: below 1 as long as PVE tells no percentage, and several disks
        # go from 0 to 100 one after the other.
        waited = self._age() / (self._age() + HALF_WAY)
        value = waited if self._percent is None else self._percent
        self._reported = max(value, self._reported + 0.0001)
        what = f"{self._upid.type} {self._upid.id}".strip()
        last = self._tail[-1][:200] if self._tail else "running"
        await self._pve.call.progress(self._reported, total, f"{what}: {last}")

    async def _ended(self, exitstatus: str, ran: float | None) -> TaskEnd:
        if exitstatus == "OK":
            return self._end("ok", exitstatus, [], seconds=ran)
        await self._read_log()
        if exitstatus.startswith("WARNINGS"):
            return self._end("warnings", exitstatus, self._tail, seconds=ran)
        reason = clean(exitstatus) or "ended without an exit status, as a killed process does"
        return self._end("failed", reason, self._tail, seconds=ran)

    def _end(
        self,
        status: Status,
        exitstatus: str,
        lines: list[str] | deque[str],
        *,
        seconds: float | None,
    ) -> TaskEnd:
        return TaskEnd(self._upid.text, status, exitstatus, tuple(lines), seconds)

    async def _ran(self) -> float | None:
        """Return how long an ended task ran: its age if we saw it end, else as PVE's list says."""
        if self._looks > 1 or self._age() < LAST_LOOK:
            return self._age()
        start = self._upid.start
        try:
            rows = await self._pve.poll(
                "/nodes/{node}/tasks", node=self._upid.node, typefilter=self._upid.type,
                since=start, until=start, source="archive", limit=PAGE,
            )  # fmt: skip
        except Fault:
            return None
        ends = (row.get("endtime") for row in rows or () if row.get("upid") == self._upid.text)
        return next((float(end) - start for end in ends if end), None)

    def _age(self) -> float:
        return max(0.0, time.time() - self._upid.start)

    async def _read_log(self) -> None:
        """Read the lines that came since the last time."""
        try:
            for _ in range(PAGES):  # an endless log must not keep the call
                rows = await self._pve.poll(_LOG, **self._where, start=self._read, limit=PAGE)
                lines = _lines(rows)
                self._read += len(lines)
                self._tail.extend(line for line in lines if line.strip())
                found = percent(lines)
                self._percent = self._percent if found is None else found
                if len(lines) < PAGE:
                    return
        except Fault:
            return


class _HaGuest:
    """An HA-managed guest, which may move while we wait."""

    def __init__(self, pve: Pve, path: str, *, since: int) -> None:
        self._pve = pve
        self._path = path
        self._since = since
        self._vmid = int(path.rstrip("/").rpartition("/")[2])

    async def real_task(self) -> str:
        """Return the UPID of the guest's own power task since the request, or ""."""
        node = self._path.strip("/").split("/")[1]
        try:
            rows = await self._pve.poll(
                "/nodes/{node}/tasks", node=node, vmid=self._vmid, since=self._since,
                source="all", limit=20,
            )  # fmt: skip
        except (Denied, Rejected, Unavailable):
            return ""
        kinds = ("qmstart", "vzstart", "qmstop", "vzstop", "qmshutdown", "vzshutdown")
        return next((str(r["upid"]) for r in rows or () if r.get("type") in kinds), "")

    async def status(self) -> str:
        """Return the guest's power state; "" while PVE does not say."""
        try:
            current = await self._pve.poll(f"{self._path}/status/current")
        except Missing:
            await self._find()
            return ""
        except Unavailable:
            return ""
        return str(current.get("status", ""))

    async def _find(self) -> None:
        for row in await self._pve.resources("vm"):
            if row.get("vmid") == self._vmid:
                self._path = f"/nodes/{row['node']}/{row['type']}/{self._vmid}"


def _failure(end: TaskEnd) -> TaskFailed:
    name = Upid.parse(end.upid)
    reason = end.exitstatus
    if reason == "job errors":  # a backup of several guests: the log says which one failed, and why
        errors = (line.removeprefix("ERROR: ") for line in end.log_tail if "ERROR: " in line[:7])
        reason = "; ".join([reason, *errors])
    _, hint, _ = explained(reason)
    what = f"{name.type} {name.id}".strip()
    log = "\n".join(["The end of its log:", *end.log_tail]) if end.log_tail else ""
    lines = [part for part in (hint, log, f"Its whole log: task {end.upid}") if part]
    return TaskFailed(f"{what} on {name.node} failed: {reason}", hint="\n".join(lines))


def _lines(rows: Any) -> list[str]:
    """Return the texts of a log page; PVE writes a line of its own for an empty or lost log."""
    texts = [
        " ".join(str(row.get("t", "")).splitlines())
        for row in rows or ()
        if isinstance(row, Mapping)
    ]
    return [] if len(texts) == 1 and texts[0].startswith(_NOTHING) else texts
