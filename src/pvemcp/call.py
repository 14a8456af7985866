"""The values that travel through a call: Effect, Principal, Verdict, Step, Call."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Effect(IntEnum):
    """The one word for power: read < change < destroy."""

    READ = 1
    CHANGE = 2
    DESTROY = 3

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> Effect:
        """Return the effect named `word`. Raises KeyError for any other word."""
        return cls[word.upper()]


class Verdict(StrEnum):
    """What the policy says about a step."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A PVE API token: `id` is `USER@REALM!NAME`, `secret` its UUID."""

    id: str
    secret: str = field(repr=False)

    @property
    def header(self) -> str:
        """The value of the Authorization header that PVE expects."""
        return f"PVEAPIToken={self.id}={self.secret}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the grant's name and id, its ceiling, and the PVE token that it works with."""

    name: str
    ceiling: Effect
    token: ApiToken
    grant: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One request to PVE, or one command, made for a call.

    `status` is the HTTP status, 0 when none came. A command's method is RUN, its path the profile
    and what is run; `note` says how it ended.
    """

    method: str
    path: str
    effect: Effect
    verdict: Verdict
    status: int
    ms: float
    upid: str = ""
    note: str = ""
    ended: float = field(default_factory=time.time, compare=False)
    """Seconds since the epoch."""


Progress = Callable[[float, float | None, str], Awaitable[None]]
"""Reports `(progress, total, message)` to the client; `total` is None when it is unknown."""


async def no_progress(progress: float, total: float | None, message: str) -> None:
    """Report to nobody: the client asked for no progress."""


@dataclass(slots=True)
class Call:
    """One tool call from the door to the answer. `arguments` are redacted when it is opened."""

    principal: Principal
    tool: str
    arguments: Mapping[str, Any]
    effect: Effect = Effect.READ
    client: str = ""
    """Name and version that the MCP client gave of itself."""
    detachable: bool = False
    """The client declared the tasks extension: a single PVE task may be handed back at once."""
    progress: Progress = no_progress
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    clock: float = field(default_factory=time.perf_counter, repr=False)
    steps: list[Step] = field(default_factory=list)
    outcome: str = "open"
    """`open`, `ok`, `cancelled` or the code of a Fault."""
    error: str = ""
    ms: float = 0.0

    def close(self, outcome: str, error: str = "") -> None:
        """End the call once; later calls change nothing."""
        if self.outcome == "open":
            self.outcome = outcome
            self.error = error
            self.ms = (time.perf_counter() - self.clock) * 1000


Permit = Callable[[Call, str, str, Effect], Verdict]
"""`(call, method, path, effect)`: returns ALLOW, or raises Denied.

The method is HTTP's with a PVE path, or RUN with host/…. The PVE client and the host runner ask it
before every step, so that a tool cannot forget it.
"""
