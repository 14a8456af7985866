"""The time of a simulated cluster."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the epoch. It stands still until moved, or runs with the machine."""

    def __init__(self, *, running: bool = False) -> None:
        self._running = running
        self._start = float(int(time.time()))
        self._moved = 0.0

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return (time.time() if self._running else self._start) + self._moved

    def seconds(self) -> int:
        """Return the time in whole seconds since the epoch."""
        return int(self.now())

    def advance(self, seconds: float) -> None:
        """Move the clock forward (or back, if negative)."""
        self._moved += seconds
