"""Figures of what was done. Plain counters: a call costs some microseconds, whoever reads them.

`watch/exposition.py` shows them to Prometheus. Every label has few values: names that clients make
up are counted as one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterator
from itertools import accumulate

from pvemcp.call import GRANT, Call, Step, Verdict

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""
TASKS = ("tasks/get", "tasks/update", "tasks/cancel")


class Durations:
    """How often something took how long."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Return each upper bound, and how many took no longer."""
        names = (*map(str, BOUNDS), "+Inf")
        return zip(names, accumulate(self._counts), strict=True)


class Metrics:
    """Counts calls with their steps, and who was not let in. `tools` are the names that exist."""

    def __init__(self, tools: Container[str]) -> None:
        self._tools = tools
        self.calls: Counter[tuple[str, str, str]] = Counter()
        """By tool, effect, outcome."""
        self.seconds: dict[str, Durations] = {}
        """By tool."""
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """To PVE: by verb, effect, class of the status."""
        self.request_seconds: dict[str, Durations] = {}
        """By verb."""
        self.commands: Counter[tuple[str, str]] = Counter()
        """By effect, outcome."""
        self.refused: Counter[str] = Counter()
        """Requests without a grant, by reason."""

    def observe(self, call: Call) -> None:
        """Count a closed call."""
        tool = call.tool if call.tool in self._tools or call.tool in TASKS else "unknown"
        self.calls[tool, str(call.effect), call.outcome] += 1
        _add(self.seconds, tool, call.ms)
        for step in call.steps:
            if step.method == "RUN":
                self.commands[str(step.effect), _ended(step)] += 1
            elif step.method != GRANT:
                self.requests[step.method, str(step.effect), _class(step)] += 1
                _add(self.request_seconds, step.method, step.ms)

    def refuse(self, reason: str) -> None:
        """Count a request that was not let in, and why."""
        self.refused[reason] += 1


def _add(known: dict[str, Durations], name: str, ms: float) -> None:
    found = known.get(name)
    if found is None:
        found = known[name] = Durations()
    found.add(ms / 1000)


def _class(step: Step) -> str:
    if step.verdict is Verdict.DENY:
        return "denied"
    return f"{step.status // 100}xx" if step.status else "none"


def _ended(step: Step) -> str:
    if step.verdict is Verdict.DENY:
        return "denied"
    if step.note in ("exit 0", "started"):
        return "ok"
    return "cancelled" if step.note == "cancelled" else "failed"
