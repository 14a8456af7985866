"""Whose text a client has read lately: a rule of the policy may ask about changes after it.

A client is a grant at an address: since protocol 2026-07-28 there are no sessions.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from pvemcp.call import Call

MOST_CLIENTS = 1000
MOST_SOURCES = 20


class Taints:
    """What was read, by client; in memory: after a restart a client has read nothing."""

    def __init__(self, seconds: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._read: OrderedDict[tuple[str, str], OrderedDict[str, float]] = OrderedDict()

    def observe(self, call: Call) -> None:
        """Remember the sources of a call that has ended."""
        if not call.tainted:
            return
        key = _key(call)
        read = self._read.setdefault(key, OrderedDict())
        self._read.move_to_end(key)
        for source in call.tainted:
            read[source] = self._now()
            read.move_to_end(source)
        while len(read) > MOST_SOURCES:
            read.popitem(last=False)
        while len(self._read) > MOST_CLIENTS:
            self._read.popitem(last=False)

    def of(self, call: Call) -> Sequence[str]:
        """Return whose text this call's client has read, the newest last; and this call's own."""
        after = self._now() - self._seconds
        read = self._read.get(_key(call), OrderedDict[str, float]())
        return [*(source for source, at in read.items() if at >= after), *call.tainted]


def _key(call: Call) -> tuple[str, str]:
    who = call.principal
    return who.owner, who.address
