"""The time of a simulated cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds since the epoch. It stands still until moved, or runs with the machine."""

    def __init__(self, *, running: bool = False) -> None:
        self._running = running
        self._start = float(int(time.time()))
        self._moved = 0.0
        self._held: float | None = None

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        if self._held is not None:
            return self._held
        return (time.time() if self._running else self._start) + self._moved

    @contextmanager
    def at(self, moment: float) -> Iterator[None]:
        """Hold the clock at a moment, for what was due then and is only done now."""
        before, self._held = self._held, moment
        try:
            yield
        finally:
            self._held = before

    def seconds(self) -> int:
        """Return the time in whole seconds since the epoch."""
        return int(self.now())

    def advance(self, seconds: float) -> None:
        """Move the clock forward (or back, if negative)."""
        self._moved += seconds
