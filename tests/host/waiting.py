"""The one way in which these tests wait: for a condition, until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.host.images import HostFault

T = TypeVar("T")
PAUSE = 0.02
"""Seconds between two looks."""


def until(look: Callable[[], T | None], what: str, *, seconds: float = 10) -> T:
    """Look until there is something true, and return it. Raises HostFault at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise HostFault(f"waited {seconds:g} s in vain: {what}")
        time.sleep(PAUSE)
    return found
