"""Freezes: a person, or the service itself, has stopped changes; of one client or of all.

They stand in the database, so that the command line, the approval page and a restart agree. Every
step looks there: it takes microseconds, and counts at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pvemcp.access.events import Event, untold
from pvemcp.call import Call, Effect
from pvemcp.errors import Denied, Missing
from pvemcp.store import Store

MODES = ("read-only", "all")
"""What still goes through: reads, or nothing at all."""
EVERYONE = ""


@dataclass(frozen=True, slots=True)
class Freeze:
    """One freeze. `client` is a grant's name, empty for all; `since` seconds since the epoch."""

    client: str
    mode: str
    by: str
    reason: str
    since: float

    def __str__(self) -> str:
        who = f"client {self.client}" if self.client else "every client"
        what = ("changes", "are") if self.mode == "read-only" else ("everything", "is")
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(self.since))
        why = f": {self.reason}" if self.reason else ""
        return f"{what[0]} of {who} {what[1]} frozen since {when} by {self.by}{why}"


class Freezes:
    """The freezes of one service."""

    def __init__(
        self,
        store: Store,
        *,
        event: Event = untold,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._event = event
        self._now = now
        self._version: tuple[int, int] | None = None
        self._kept: list[Freeze] = []

    def all(self) -> list[Freeze]:
        """Return every freeze, that of everyone first. Read anew when something was written."""
        version = self._store.version()
        if version != self._version:
            rows = self._store.rows("SELECT client, mode, person, reason, since FROM freezes")
            self._kept = sorted((Freeze(*row) for row in rows), key=lambda each: each.client)
            self._version = version
        return self._kept

    def freeze(self, mode: str, *, client: str = EVERYONE, by: str, reason: str = "") -> Freeze:
        """Freeze a client or all; a freeze that is there already becomes this one."""
        made = Freeze(client, mode, by[:100], reason[:500], self._now())
        self._store.insert(
            "INSERT OR REPLACE INTO freezes (client, mode, person, reason, since) "
            "VALUES (?, ?, ?, ?, ?)",
            (made.client, made.mode, made.by, made.reason, made.since),
        )
        self._event("freeze", {"client": client, "mode": mode, "by": by, "reason": reason})
        return made

    def thaw(self, *, client: str = EVERYONE, by: str) -> None:
        """End a freeze. Raises Missing when there is none of that client."""
        gone = self._store.write("DELETE FROM freezes WHERE client = ?", (client,))
        self._store.changed()
        if not gone:
            raise Missing(
                f"{f'client {client}' if client else 'the service'} is not frozen",
                hint="pvemcp freeze --status shows what is.",
            )
        self._event("thaw", {"client": client, "by": by})

    def of(self, client: str) -> Freeze | None:
        """Return the strictest freeze that holds for a client."""
        if not (held := self.all()):
            return None
        found = [each for each in held if each.client in (EVERYONE, client)]
        return max(found, key=lambda each: MODES.index(each.mode), default=None)

    def _stopping(self, client: str, effect: Effect) -> Freeze | None:
        found = self.of(client)
        reads = found is not None and found.mode == "read-only" and effect is Effect.READ
        return None if reads else found

    def stops(self, client: str, effect: Effect) -> str:
        """Say why something of a client with this effect may not go on; "" when it may."""
        found = self._stopping(client, effect)
        return str(found) if found is not None else ""

    def check(self, call: Call, effect: Effect) -> None:
        """Raise Denied when a freeze is in the way of a step with this effect."""
        found = self._stopping(call.principal.name, effect)
        if found is None:
            return
        client = f" --client {found.client}" if found.client else ""
        raise Denied(
            f"{found}. This step was not done.",
            hint=f"A person thaws it on the host: pvemcp thaw{client}.",
        )
