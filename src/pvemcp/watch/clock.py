"""The time of day, and whether somebody has moved it."""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP = 60.0
"""Seconds that the time of day may differ from what has passed, between two looks."""
KEPT = 600.0
"""Seconds that a jump is told."""


class Clock:
    """The time of day in seconds since the epoch, held against a clock that never jumps."""

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = now
        self.steady = steady
        self._seen = (now(), steady())
        self._jump: tuple[float, float] | None = None

    def look(self) -> float:
        """Return by how many seconds the time of day has jumped since the last look; mostly 0."""
        now, steady = self.now(), self.steady()
        jump = (now - self._seen[0]) - (steady - self._seen[1])
        self._seen = (now, steady)
        if abs(jump) < JUMP:
            return 0.0
        self._jump = (steady, jump)
        return jump

    def jumped(self) -> str:
        """Say that the clock has jumped lately, or nothing."""
        self.look()
        if self._jump is None or self.steady() - self._jump[0] > KEPT:
            return ""
        direction = "forward" if self._jump[1] > 0 else "back"
        return f"the clock of this machine was moved {direction} by {abs(self._jump[1]):.0f} s"
