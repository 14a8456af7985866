"""Who was not let in, in the audit: wrong secrets, foreign names, too many requests.

Whoever hammers at the door must not fill the audit: the first of a kind from an address is written
at once, those of the minute after it as one event with their number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pvemcp.access.attempts import group
from pvemcp.access.events import Event
from pvemcp.errors import Fault

log = logging.getLogger(__name__)

REFUSED = "refused"
"""Kind of the event."""
WINDOW = 60.0
"""Seconds that are told as one."""
MOST = 64
"""Kinds and addresses that are told apart at once; all others count as one address, "others"."""
NOTHING_TRIED = frozenset({"unauthenticated", "unavailable"})
"""Reasons that are no attempt: a request without any secret, a database that cannot be read."""


@dataclass(slots=True)
class _Counted:
    since: float
    more: int = 0


class Refusals:
    """Tells the audit. `clock` returns seconds that never go back."""

    def __init__(self, event: Event, clock: Callable[[], float]) -> None:
        self._event = event
        self._clock = clock
        self._counted: dict[tuple[str, str, str], _Counted] = {}

    def note(self, reason: str, address: str, client: str = "") -> None:
        """Note one refusal; `client` is the grant's name, where it is known. Never raises."""
        if reason in NOTHING_TRIED:
            return
        self.sweep()
        key = (reason, group(address), client)
        if key not in self._counted and len(self._counted) >= MOST:
            key = (reason, "others", "")
        found = self._counted.get(key)
        if found is None:
            self._counted[key] = _Counted(self._clock())
            self._tell(key, 1)
        else:
            found.more += 1

    def sweep(self) -> None:
        """Tell of what has been counted for a minute. Never raises."""
        now = self._clock()
        for key, found in [*self._counted.items()]:
            if now - found.since >= WINDOW:
                del self._counted[key]
                if found.more:
                    self._tell(key, found.more)

    def _tell(self, key: tuple[str, str, str], count: int) -> None:
        reason, address, client = key
        about = {"reason": reason, "address": address, "client": client, "count": count}
        try:
            self._event(REFUSED, about)
        except Fault as fault:
            log.warning("a refusal is not in the audit: %s", fault)
