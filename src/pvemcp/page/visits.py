"""Who has logged in on the page, and who is about to. In memory alone: a restart ends them all."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pvemcp.page.people import Challenge, Ticket

IDLE = 1800.0
"""Seconds without a request of the person's own (a page that reloads itself is none)."""
LIFE = 7200.0
"""Seconds that PVE's ticket holds; it is not renewed."""
CHALLENGE_LIFE = 120.0
"""Seconds in which PVE takes the answer to a challenge."""
TRIES = 3
"""Codes that may be tried for one challenge."""
MOST = 64
"""Visits, and challenges under way; the oldest one goes first."""
MOST_OF_ONE = 8


@dataclass(slots=True)
class Visit:
    """A person's session. Times are of a clock that never goes back."""

    ticket: Ticket
    address: str
    since: float
    seen: float
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """Must come with every form of this session."""
    held: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict)
    """What PVE said of the person's rights, by ACL path, and when."""

    @property
    def userid(self) -> str:
        """`USER@REALM`, as PVE has it."""
        return self.ticket.userid


@dataclass(slots=True)
class Pending:
    """Somebody who still owes the second factor."""

    challenge: Challenge
    next: str
    since: float
    tries: int = 0


class Visits:
    """All sessions of the page. Cookies are kept as hashes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._visits: dict[bytes, Visit] = {}
        self._pending: dict[bytes, Pending] = {}

    def open(self, ticket: Ticket, address: str) -> str:
        """Begin a session and return its cookie, which is always a new one."""
        now = self._clock()
        cookie = secrets.token_urlsafe(32)
        own = [key for key, each in self._visits.items() if each.userid == ticket.userid]
        for key in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
            del self._visits[key]
        self._visits[_hash(cookie)] = Visit(ticket, address, now, now)
        _trim(self._visits)
        return cookie

    def find(self, cookie: str, *, touch: bool = True) -> Visit | None:
        """Return the session of a cookie, if it has not ended."""
        key = _hash(cookie)
        found = self._visits.get(key)
        if found is None:
            return None
        now = self._clock()
        if now - found.seen > IDLE or now - found.since > LIFE:
            del self._visits[key]
            return None
        if touch:
            found.seen = now
        return found

    def close(self, cookie: str) -> None:
        """End a session."""
        self._visits.pop(_hash(cookie), None)

    def challenge(self, cookie: str, challenge: Challenge, next_: str) -> None:
        """Keep a challenge until the second factor comes."""
        self._pending.pop(_hash(cookie), None)
        self._pending[_hash(cookie)] = Pending(challenge, next_, self._clock())
        _trim(self._pending)

    def pending(self, cookie: str) -> Pending | None:
        """Return the challenge of who has this cookie, if it can still be answered."""
        key = _hash(cookie)
        found = self._pending.get(key)
        if found is None:
            return None
        if found.tries >= TRIES or self._clock() - found.since > CHALLENGE_LIFE:
            del self._pending[key]
            return None
        return found

    def answered(self, cookie: str) -> None:
        """Forget a challenge."""
        self._pending.pop(_hash(cookie), None)

    def now(self) -> float:
        """Return the clock's time."""
        return self._clock()

    def __len__(self) -> int:
        return len(self._visits)


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()


def _trim(kept: dict[bytes, Visit] | dict[bytes, Pending]) -> None:
    while len(kept) > MOST:
        del kept[next(iter(kept))]
