"""Signs of trouble: a client that destroys, is denied, or fails with approvals too often in a
minute is frozen by the service itself.

Destroys are counted before they are sent, so the one that is too many does not happen. What a
person has approved counts once a call, whatever it destroys.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.access.freeze import Freezes
from pvemcp.call import Call, Effect
from pvemcp.errors import Fault

logger = logging.getLogger(__name__)

WINDOW = 60.0
"""Seconds."""
BY = "pvemcp itself"
_MEANS = {
    "destroys": "steps that destroy",
    "denials": "calls that were denied",
    "approvals": "approvals that a person refused or that did not hold",
}


class Trouble:
    """Counts the signs of every client. `most`: how many of each sign a minute may have; 0: any."""

    def __init__(
        self,
        freezes: Freezes,
        most: Mapping[str, int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._freezes = freezes
        self._most = most
        self._clock = clock
        self._seen: dict[tuple[str, str], deque[float]] = {}
        self._approved: deque[str] = deque(maxlen=1000)
        """Approved calls that are counted already."""

    def step(self, call: Call, effect: Effect) -> None:
        """Count a step that is about to be made. Raises Unavailable when a freeze cannot be."""
        if effect is not Effect.DESTROY or call.planning is not None:
            return
        if call.approval:
            if call.id in self._approved:
                return
            self._approved.append(call.id)
        self._note(call.principal.name, "destroys")

    def ended(self, call: Call) -> None:
        """Count a closed call that failed. Never raises a Fault."""
        try:
            if call.outcome == "denied":
                self._note(call.principal.name, "denials")
            if call.outcome in ("denied", "not_found") and call.arguments.get("approval"):
                self._note(call.principal.name, "approvals")
        except Fault as fault:
            logger.error("a client could not be frozen: %s", fault)  # noqa: TRY400

    def told(self, kind: str, about: Mapping[str, Any]) -> None:
        """Count what happened to an approval."""
        if kind == "approval denied":
            self._note(str(about.get("client", "")), "approvals")

    def _note(self, client: str, sign: str) -> None:
        most, now = self._most.get(sign, 0), self._clock()
        if not most or not client:
            return
        seen = self._seen.setdefault((client, sign), deque(maxlen=most + 1))
        seen.append(now)
        if len(seen) <= most or now - seen[0] > WINDOW or self._freezes.of(client) is not None:
            return
        seen.clear()
        reason = f"more than {most} {_MEANS[sign]} in a minute"
        logger.warning("client %s is frozen: %s", client, reason)
        self._freezes.freeze("read-only", client=client, by=BY, reason=reason)
