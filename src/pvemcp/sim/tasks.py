"""PVE tasks: work that outlives the request that started it."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pvemcp.sim.clock import Clock
from pvemcp.sim.refusal import TaskFailure

Progress = Literal["immediate", "manual", "timed"]
OK = "OK"


_FAILING = 0.5
"""Seconds until a task ends that cannot be done, in timed mode."""


def nothing() -> None:
    """The effect of a task that changes nothing."""


def _unheard(_task: Task, _message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a task does.

    `check` raises TaskFailure when it cannot be done, `begin` runs after it (takes locks), `apply`
    has the effect and may raise TaskFailure, `undo` runs when the task ends without effect.
    `lines` are the log; `seconds` the duration in timed mode.
    """

    apply: Callable[[], None] = nothing
    check: Callable[[], None] = nothing
    begin: Callable[[], None] = nothing
    undo: Callable[[], None] = nothing
    lines: tuple[str, ...] = ()
    seconds: float = 1.0
    after: Callable[[], None] = nothing
    """Runs once the task has ended well: what PVE does later on its own account."""


@dataclass(slots=True)
class Task:
    """A task; `endtime` 0 while it runs. `user` is `user@realm` or `user@realm!token`."""

    upid: str
    node: str
    type: str
    id: str
    user: str
    starttime: int
    pid: int
    pstart: int
    work: Work = field(repr=False)
    endtime: int = 0
    exitstatus: str = ""
    log: list[str] = field(default_factory=list)
    doomed: str = ""
    """The check failed: the exit status that it will end with."""
    shown: int = 0
    """How many of the work's lines are in the log."""
    due: float = 0.0
    """When it ends in timed mode."""

    @property
    def running(self) -> bool:
        """Whether the task has not ended."""
        return not self.exitstatus

    @property
    def failed(self) -> bool:
        """Whether the task ended in an error (warnings are none)."""
        return bool(self.exitstatus) and not self.exitstatus.startswith((OK, "WARNINGS"))


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a task that has ended; `log` is without its last line."""

    node: str
    type: str
    id: str
    user: str
    seconds: float = 2.0
    log: tuple[str, ...] = ()
    exitstatus: str = OK


class Tasks:
    """The tasks of a cluster, in the order of their start."""

    def __init__(self, clock: Clock, progress: Progress) -> None:
        self.progress: Progress = progress
        self.failures: Mapping[str, str] = {}
        """Task type to the exit status that every task of it ends with: a fault."""
        self.changed: Callable[[], None] = nothing
        self.said: Callable[[Task, str], None] = _unheard
        """Called with what the cluster log says about a task."""
        self._clock = clock
        self._all: dict[str, Task] = {}
        self._running: dict[str, Task] = {}
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._pid = 1200

    def __iter__(self) -> Iterator[Task]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def get(self, upid: str) -> Task | None:
        """Return a task; a UPID may come with or without its last colon."""
        return self._all.get(upid if upid.endswith(":") else f"{upid}:")

    def newest(self) -> list[Task]:
        """Return all tasks, newest first."""
        return list(reversed(self._all.values()))

    def start(self, node: str, type_: str, *, id: str, user: str, work: Work) -> str:
        """Start a task and return its UPID. In immediate mode it has ended by then."""
        task = self._add(Past(node, type_, id, user), work)
        self._running[task.upid] = task
        self._attempt(task)
        if self.progress == "immediate":
            self._end(task, OK)
        elif self.progress == "timed":
            seconds = _FAILING if task.doomed else work.seconds
            task.due = self._clock.now() + seconds
            self.later(seconds, lambda: self.finish(task.upid))
        return task.upid

    def remember(self, past: Past, *, at: float) -> None:
        """Add a task that was started at this time and has ended; oldest first."""
        with self._clock.at(at):
            task = self._add(past, Work())
        task.log.extend(past.log)
        with self._clock.at(at + past.seconds):
            self._close(task, past.exitstatus)

    def _add(self, about: Past, work: Work) -> Task:
        self._pid += 7
        now = self._clock.seconds()
        pstart = (self._pid * 13) & 0xFFFFFFFF
        upid = (
            f"UPID:{about.node}:{self._pid:08X}:{pstart:08X}:{now:08X}:{about.type}:{about.id}"
            f":{about.user}:"
        )
        task = Task(
            upid, about.node, about.type, about.id, about.user, now, self._pid, pstart, work
        )
        self._all[upid] = task
        self.said(task, f"starting task {upid}")
        return task

    def _attempt(self, task: Task) -> None:
        try:
            task.work.check()
        except TaskFailure as failure:
            task.doomed = str(failure)
        else:
            task.work.begin()

    def advance(self, upid: str, lines: int = 1) -> None:
        """Let a running task write so many lines of its log; past the last one it ends."""
        task = self._all[upid]
        if not task.running:
            return
        if task.doomed or task.shown >= len(task.work.lines):
            self._end(task, OK)
        else:
            self._show(task, task.shown + lines)

    def finish(self, upid: str, exitstatus: str = OK) -> None:
        """End a running task. A failed check or a fault decides its exit status before this one."""
        task = self._all[upid]
        if task.running:
            self._end(task, exitstatus)

    def stop(self, task: Task) -> None:
        """Interrupt a task: it ends without its effect."""
        if task.running:
            self._end(task, "interrupted by signal", forced=True)

    def settle(self) -> None:
        """Bring timed tasks and follow-ups up to the clock."""
        now = self._clock.now()
        while self._due and self._due[0][0] <= now:
            moment, action = self._due.pop(0)
            with self._clock.at(moment):
                action()
        if self.progress == "timed":
            for task in self._running.values():
                share = 1 - (task.due - now) / max(task.work.seconds, 0.001)
                self._show(task, int(len(task.work.lines) * share))

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something when the clock has moved so far; at once in immediate mode."""
        if self.progress == "immediate":
            action()
            return
        insort(self._due, (self._clock.now() + seconds, action), key=lambda item: item[0])

    def _show(self, task: Task, upto: int) -> None:
        lines = task.work.lines[task.shown : upto]
        task.log.extend(lines)
        task.shown += len(lines)

    def _end(self, task: Task, wanted: str, *, forced: bool = False) -> None:
        status = wanted if forced else self.failures.get(task.type) or task.doomed or wanted
        good = status.startswith((OK, "WARNINGS"))
        if good:
            status = self._apply(task, status)
        elif not task.doomed:
            task.work.undo()
        self._close(task, status)
        self.changed()
        if not task.failed:
            task.work.after()

    def _close(self, task: Task, status: str) -> None:
        task.endtime = max(self._clock.seconds(), task.starttime)
        task.exitstatus = status
        self._running.pop(task.upid, None)
        task.log.append(f"TASK ERROR: {status}" if task.failed else f"TASK {status}")
        self.said(task, f"end task {task.upid} {status}")

    def _apply(self, task: Task, status: str) -> str:
        try:
            task.work.apply()
        except TaskFailure as failure:
            task.work.undo()
            return str(failure)
        self._show(task, len(task.work.lines))
        return status
