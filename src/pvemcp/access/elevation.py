"""Elevations: a person has raised a client's ceiling for some minutes, then it falls back.

They stand in the database and are looked at for every step above the client's own ceiling, so that
the end counts at once, whoever ends it, and a restart changes nothing. An elevation lifts the
ceiling alone: what the policy asks or denies, and what PVE lets the token do, stays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pvemcp.access.events import Event, untold
from pvemcp.call import GRANT, Call, Effect, Intent, Principal, Step, ToolsChanged, Verdict
from pvemcp.errors import Denied, Invalid, Missing, NotPlanned
from pvemcp.store import Store

_COLUMNS = "grant_id, client, base, effect, since, until, person, reason, approval"


@dataclass(frozen=True, slots=True)
class Elevation:
    """One elevation. Times are in seconds since the epoch."""

    grant: str
    """Id of the grant; the name of a caller that has none."""
    client: str
    base: Effect
    """The ceiling to which it falls back."""
    effect: Effect
    since: float
    until: float
    by: str
    reason: str
    approval: str

    def __str__(self) -> str:
        until = time.strftime("%H:%M:%SZ", time.gmtime(self.until))
        return (
            f"{self.client} may {self.effect} until {until} instead of {self.base}, "
            f"by {self.by} ({self.approval}): {self.reason}"
        )


class Elevations:
    """The elevations of one service. `most`: minutes of the longest; 0: nobody is elevated."""

    def __init__(
        self,
        store: Store,
        *,
        most: int = 60,
        event: Event = untold,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.most = most
        self._store = store
        self._event = event
        self._now = now
        self._listeners: dict[str, ToolsChanged] = {}

    def ceiling(self, who: Principal) -> Effect:
        """Return a caller's ceiling now."""
        if who.ceiling is Effect.DESTROY:
            return who.ceiling
        rows = self._store.rows(
            "SELECT effect FROM elevations WHERE grant_id = ? AND until > ?",
            (who.owner, self._now()),
        )
        return max(who.ceiling, Effect.parse(rows[0][0])) if rows and self.most else who.ceiling

    def all(self) -> list[Elevation]:
        """Return the elevations that hold, by client."""
        rows = self._store.rows(
            f"SELECT {_COLUMNS} FROM elevations WHERE until > ? ORDER BY client",  # noqa: S608
            (self._now(),),
        )
        return [_elevation(row) for row in rows]

    def give(self, call: Call, effect: Effect, minutes: int, reason: str) -> Elevation:
        """Elevate the caller from now on; an elevation that is there already becomes this one."""
        who, now = call.principal, self._now()
        made = Elevation(
            who.owner, who.name, who.ceiling, effect, now, now + minutes * 60,
            call.approved_by, " ".join(reason.split()), call.approval,
        )  # fmt: skip
        self._store.write(
            f"INSERT OR REPLACE INTO elevations ({_COLUMNS}) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                made.grant, made.client, str(made.base), str(made.effect), made.since, made.until,
                made.by, made.reason, made.approval,
            ),
        )  # fmt: skip
        self._listeners[made.grant] = call.tools_changed
        self._event("elevation", {**_about(made), "minutes": minutes, "reason": made.reason})
        return made

    def end(self, client: str, *, by: str) -> Elevation:
        """End a client's elevation now. Raises Missing when there is none."""
        found = next((each for each in self.all() if each.client == client), None)
        if found is None:
            raise Missing(f"{client} is not elevated", hint="pvemcp elevation list shows who is.")
        self._store.write("DELETE FROM elevations WHERE grant_id = ?", (found.grant,))
        self._event("elevation ended", {**_about(found), "ended_by": by})
        return found

    async def sweep(self) -> None:
        """Note what has ended by itself, and tell those whose list of tools changed."""
        rows = self._store.rows(
            f"DELETE FROM elevations WHERE until <= ? RETURNING {_COLUMNS}",  # noqa: S608
            (self._now(),),
        )
        for over in map(_elevation, rows):
            self._event("elevation over", _about(over))
        if self._listeners:
            live = {each.grant for each in self.all()}
            for grant in [*self._listeners]:
                if grant not in live:
                    await tell(self._listeners.pop(grant))


class Raising:
    """Raises the ceiling of one call's client: planned and approved like a write."""

    def __init__(
        self, elevations: Elevations, call: Call, check: Callable[[Call, Effect], None]
    ) -> None:
        self._elevations = elevations
        self._call = call
        self._check = check

    async def to(self, effect: Effect, minutes: int, reason: str) -> Elevation | None:
        """Elevate the caller; None while that is only planned.

        Raises Denied, and Invalid for what would be no elevation.
        """
        call = self._call
        self._refuse(effect, minutes)
        self._check(call, effect)
        intent = Intent(
            GRANT,
            f"clients/{call.principal.name}/ceiling",
            effect,
            params={
                "grant": call.principal.owner, "from": str(call.principal.ceiling),
                "effect": str(effect), "minutes": minutes, "reason": reason,
            },
        )  # fmt: skip
        if call.planning is not None:
            call.planning.append(intent)
            return None
        if not call.license.take(intent):
            raise NotPlanned("this elevation is not in the plan of this call")
        if not call.approval:
            raise Denied("nobody has approved this elevation")
        made = self._elevations.give(call, effect, minutes, reason)
        call.steps.append(Step(GRANT, intent.path, effect, Verdict.ALLOW, 200, 0.0))
        await tell(call.tools_changed)
        return made

    def _refuse(self, effect: Effect, minutes: int) -> None:
        most, own = self._elevations.most, self._call.principal.ceiling
        if not most:
            raise Denied(
                "elevation is off",
                hint="An administrator turns it on: the setting elevation_minutes.",
            )
        if minutes > most:
            raise Invalid(f"{minutes} minutes are too many", hint=f"At most {most} here.")
        if effect <= own:
            raise Invalid(
                f"the ceiling of {self._call.principal.name} is {own} already",
                hint="Make the call that needs it.",
            )


async def tell(changed: Callable[[], Awaitable[None]]) -> None:
    """Say that the list of tools has changed; a client that has gone hears nothing."""
    with contextlib.suppress(Exception):
        await changed()


def _about(one: Elevation) -> dict[str, Any]:
    return {
        "client": one.client, "grant": one.grant, "effect": str(one.effect), "from": str(one.base),
        "until": one.until, "by": one.by, "approval": one.approval,
    }  # fmt: skip


def _elevation(row: tuple[Any, ...]) -> Elevation:
    grant, client, base, effect, *others = row
    return Elevation(grant, client, Effect.parse(base), Effect.parse(effect), *others)
