"""Who is connected.

The protocol before 2026-07-28 has sessions; since then every request stands alone. What counts as
a session there is a grant, an address, and the name and version that the client gives of itself.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pvemcp.call import Principal
from pvemcp.errors import Limited, Missing
from pvemcp.settings import Settings

PAUSE = 60.0
"""Seconds for which a session that was ended here is refused, where it has no id to forget."""
MORE = "Close clients that are not used. An administrator can raise it in the settings of pvemcp."


_KEPT = (
    "type", "asgi", "http_version", "scheme", "path", "raw_path", "query_string", "root_path",
    "user", "auth", "pvemcp.principal",
)  # fmt: skip
"""Of the scope that opened a session: what a request in its name needs; no secret among it."""


@dataclass(slots=True, eq=False)
class Visit:
    """One HTTP request that is being served."""

    principal: Principal
    scope: Mapping[str, Any] = field(repr=False)
    """Its ASGI scope."""
    session: Session | None = None
    patience: asyncio.Timeout | None = None
    """Ends it early: see `give_up`."""
    answered: bool = False
    """The answer has begun."""
    ended: bool = False
    """It was given up."""
    refusal: Limited | None = None
    """Why it is refused, when that was found out inside the MCP SDK."""

    def give_up(self) -> None:
        """Cancel whatever is done for this request."""
        self.ended = True
        if self.patience is not None:
            self.patience.reschedule(asyncio.get_running_loop().time())


@dataclass(slots=True, eq=False)
class Session:
    """A client that is connected. Times are in seconds since the epoch."""

    principal: Principal
    since: float
    seen: float
    """Of the clock that never goes back: when its last request began or ended."""
    client: str = ""
    """Name and version that the MCP client gave of itself."""
    mcp_id: str = ""
    """The Mcp-Session-Id; empty since 2026-07-28."""
    stateful: bool = False
    scope: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The ASGI scope of the request that opened it."""
    calls: int = 0
    last_call: float | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    visits: set[Visit] = field(default_factory=set)

    @property
    def key(self) -> Hashable:
        """What it is known by."""
        if self.stateful:
            return self.id
        return _key(self.principal, self.client)

    def as_dict(self) -> dict[str, object]:
        """Return what an administrator sees."""
        return {
            "id": self.id,
            "client": self.client,
            "address": self.principal.address,
            "grant": self.principal.name,
            "since": self.since,
            "last_call": self.last_call,
            "calls": self.calls,
            "requests": len(self.visits),
            "protocol": "session" if self.stateful else "stateless",
        }


def _key(principal: Principal, client: str) -> Hashable:
    return (principal.grant, principal.address, client)


class Sessions:
    """All sessions. `clock` never goes back, `now` is the time of day."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._each = settings.sessions_per_grant
        self._all = settings.sessions
        self._idle = settings.session_idle
        self._clock = clock
        self._now = now
        self._known: dict[Hashable, Session] = {}
        self._by_mcp_id: dict[str, Session] = {}
        self._paused: dict[Hashable, float] = {}
        """Until when a client since 2026-07-28 is refused, because its session was ended."""

    def __len__(self) -> int:
        return len(self._known)

    def open(self, visit: Visit) -> None:
        """Begin a session of the protocol before 2026-07-28. Raises Limited."""
        self._refuse_more(visit.principal)
        session = self._add(visit.principal, stateful=True)
        session.scope = {name: visit.scope[name] for name in _KEPT if name in visit.scope}
        self._enter(visit, session)

    def name(self, session: Session, mcp_id: str) -> None:
        """Say which Mcp-Session-Id a session has got."""
        session.mcp_id = mcp_id
        self._by_mcp_id[mcp_id] = session

    def enter(self, visit: Visit, mcp_id: str) -> None:
        """Begin a request with an Mcp-Session-Id, which may be unknown or another grant's."""
        session = self._by_mcp_id.get(mcp_id)
        if session is not None and session.principal.grant == visit.principal.grant:
            self._enter(visit, session)

    def join(self, visit: Visit, client: str) -> None:
        """Begin a request of the protocol since 2026-07-28. Raises Limited."""
        key = _key(visit.principal, client)
        if key in self._paused:
            self._refuse_paused(key)
        session = self._known.get(key)
        if session is None:
            self._refuse_more(visit.principal)
            session = self._add(visit.principal, client=client)
        self._enter(visit, session)

    def leave(self, visit: Visit) -> None:
        """End a request."""
        if visit.session is not None:
            visit.session.seen = self._clock()
            visit.session.visits.discard(visit)

    def called(self, session: Session) -> None:
        """Count a call."""
        session.calls += 1
        session.last_call = self._now()

    def list(self) -> list[Session]:
        """Return all sessions, the oldest first."""
        self._forget_idle()
        return sorted(self._known.values(), key=lambda one: one.since)

    def find(self, id: str) -> Session:
        """Return the session of that id. Raises Missing."""
        for session in self.list():
            if session.id == id:
                return session
        raise Missing(f"No session has the id {id[:40]}.", hint="pvemcp sessions lists them.")

    def drop(self, session: Session) -> None:
        """Forget a session that is no more."""
        self._known.pop(session.key, None)
        self._by_mcp_id.pop(session.mcp_id, None)

    def end(self, session: Session) -> None:
        """Cut everything that a session has under way, and refuse it for a while."""
        self.drop(session)
        if not session.stateful:
            self._paused[session.key] = self._clock() + PAUSE
        for visit in [*session.visits]:
            visit.give_up()

    def _enter(self, visit: Visit, session: Session) -> None:
        visit.session = session
        session.seen = self._clock()
        session.visits.add(visit)

    def _add(self, principal: Principal, *, client: str = "", stateful: bool = False) -> Session:
        session = Session(principal, self._now(), self._clock(), client, stateful=stateful)
        self._known[session.key] = session
        return session

    def _forget_idle(self) -> None:
        oldest = self._clock() - self._idle
        for session in [*self._known.values()]:
            if not session.visits and session.seen < oldest:
                self.drop(session)
        now = self._clock()
        self._paused = {key: until for key, until in self._paused.items() if until > now}

    def _refuse_more(self, principal: Principal) -> None:
        if len(self._known) < min(self._each, self._all):
            return
        self._forget_idle()
        own = [one for one in self._known.values() if one.principal.grant == principal.grant]
        if len(own) >= self._each:
            name, said = "sessions_per_grant", f"this grant has {self._each} sessions already"
        elif len(self._known) >= self._all:
            name, said = "sessions", f"{self._all} sessions are open"
        else:
            return
        raise Limited(name, f"{name}: {said}.", hint=MORE, wait=60.0)

    def _refuse_paused(self, key: Hashable) -> None:
        left = self._paused[key] - self._clock()
        if left <= 0:
            del self._paused[key]
            return
        raise ended(left)


def ended(left: float) -> Limited:
    """Return the refusal of a session that was ended here; so many seconds are left of it."""
    return Limited(
        "session_ended",
        "An administrator has ended this session, or revoked its grant. What it had under way was "
        "cancelled.",
        hint=f"Ask them before you connect again; it is refused for {left:.0f} s.",
        wait=left,
    )
