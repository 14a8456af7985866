"""The values that travel through a call: Effect, Principal, Verdict, Step, Call."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
    """What the policy says about a step. Asking is for whole calls: a step is allowed or denied."""

    ALLOW = "allow"
    ASK = "ask"
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

    @property
    def owner(self) -> str:
        """Whose things are: the grant's id, or the name of a caller without a grant."""
        return self.grant or self.name

    opened: float = field(default=0.0, compare=False)
    """Since when its connection is open, in seconds since the epoch; 0: it is no network's."""


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


GRANT = "GRANT"
"""The verb of an intent that raises a ceiling."""
_GUEST = re.compile(r"/nodes/[^/]+/(?:qemu|lxc)/[0-9]+")


@dataclass(frozen=True, slots=True)
class Intent:
    """One write that a call is about to make: a request to PVE, a command (verb RUN), or a
    raised ceiling (verb GRANT).

    `template` is PVE's own path with placeholders, `params` the checked parameters, those of the
    path too. They may hold secrets, so they stay out of its repr.
    """

    verb: str
    path: str
    effect: Effect
    template: str = ""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    node: str = ""

    @property
    def said(self) -> str:
        """The whole write as one canonical text, secrets and all."""
        said = [self.verb, self.path, self.effect.value, self.node, self.params]
        return json.dumps(said, sort_keys=True, default=str)

    @property
    def digest(self) -> str:
        """What identifies the write, as hexadecimal SHA-256."""
        return hashlib.sha256(self.said.encode()).hexdigest()

    @property
    def scope(self) -> tuple[str, str]:
        """The node, and the guest's path or else the whole path."""
        guest = _GUEST.match(self.path)
        return self.node, guest[0] if guest else f"{self.verb} {self.path}"


@dataclass(frozen=True, slots=True)
class Target:
    """What an intent works on, as far as the policy asks about it."""

    kind: str
    """guest, snapshot, volume, storage, node, network, firewall, pool, command, or `other`."""
    id: str
    """PVE's own id: `qemu/105`, `local-zfs`, `pve1`, a volid, a path."""
    name: str = ""
    vmid: int = 0
    node: str = ""
    pool: str = ""
    tags: tuple[str, ...] = ()
    protected: bool = False
    """PVE's protection flag is set, or could not be seen."""
    known: bool = True
    """Tags and pool could be seen."""
    pools_seen: bool = True
    """No pool means that it is in none: PVE leaves out the pools that a token may not see."""


class License:
    """The writes that a call may make: those that were planned, each as often as planned.

    With `open_ended` the plan could not see to the end, because it hung on PVE's answers: then
    what follows must stay with the guests (or paths) and the effects that were planned.
    """

    def __init__(self, intents: Iterable[Intent], *, open_ended: bool = False) -> None:
        planned = list(intents)
        self._left = Counter(intent.digest for intent in planned)
        self._scopes: dict[tuple[str, str], Effect] = {}
        for intent in planned if open_ended else []:
            before = self._scopes.get(intent.scope, Effect.READ)
            self._scopes[intent.scope] = max(before, intent.effect)

    def take(self, intent: Intent) -> bool:
        """Use up one planned write; False when it was not planned."""
        digest = intent.digest
        if self._left[digest] > 0:
            self._left[digest] -= 1
            return True
        return intent.effect <= self._scopes.get(intent.scope, Effect.READ)


class Unplanned(License):
    """Lets every write through that the ceiling allows: for callers that judge in another way."""

    def __init__(self) -> None:
        super().__init__(())

    def take(self, intent: Intent) -> bool:  # noqa: ARG002
        """Allow it."""
        return True


class PlanEnds(BaseException):
    """Planning cannot go on: what comes next hangs on the answer to a write that was not sent."""


def planned(answer: object) -> bool:
    """Whether it stands for the answer to a write that was only planned."""
    return isinstance(answer, Unknown)


class Unknown:
    """The answer to a write that was only planned. Whoever looks into it ends the planning."""

    def _end(self, *_: Any) -> Any:
        raise PlanEnds

    __getattr__ = __getitem__ = __iter__ = __bool__ = __len__ = __str__ = __eq__ = _end
    __contains__ = __int__ = __float__ = __lt__ = __gt__ = __add__ = _end
    __hash__ = None  # type: ignore[assignment]


Progress = Callable[[float, float | None, str], Awaitable[None]]
"""Reports `(progress, total, message)` to the client; `total` is None when it is unknown."""


async def no_progress(progress: float, total: float | None, message: str) -> None:
    """Report to nobody: the client asked for no progress."""


ToolsChanged = Callable[[], Awaitable[None]]
"""Tells the client of a call that its list of tools is another now."""


async def nobody_told() -> None:
    """Tell nobody."""


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
    ceiling: Effect = Effect.READ
    """To what a person has raised the principal's ceiling when the call began, if above it."""
    tools_changed: ToolsChanged = field(default=nobody_told, repr=False)
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    clock: float = field(default_factory=time.perf_counter, repr=False)
    steps: list[Step] = field(default_factory=list)
    planning: list[Intent] | None = field(default=None, repr=False)
    """While the call is only planned: the writes so far. None: it is real."""
    license: License = field(default_factory=lambda: License(()), repr=False)
    seen: dict[str, Any] = field(default_factory=dict, repr=False)
    """PVE's answers while planning, by request: the real run begins with the same ones."""
    approval: str = ""
    """The approval that the call used."""
    approved_by: str = ""
    """Who gave it, and by which channel."""
    session: str = ""
    """The session that it came in, as `pvemcp sessions` shows it; none over stdio."""
    plan: Sequence[str] = ()
    """What it would write, in at most three lines; empty of what only reads."""
    tool_use: str = ""
    """The client's own id of the tool's use, as far as it sends one."""
    trace: str = ""
    """The trace id of the client's request (W3C), if it sent one."""
    tainted: list[str] = field(default_factory=list)
    """Whose text the answer shows, as `qemu/105 notes`: text that others wrote."""
    result_size: int = 0
    """Characters of the answer."""
    changes: list[Any] = field(default_factory=list, repr=False)
    """What the journal has still to close of it."""
    automatic: bool = False
    """The service itself takes back a change that nobody has confirmed, or ends a command: no
    freeze and no ceiling stands in the way."""
    whole: str = ""
    """How what it writes is taken back as one change. Empty: every write is a change of its own."""
    told: list[str] = field(default_factory=list, repr=False)
    """What its plan says besides the writes; an approval holds on to it."""
    told_by: str = ""
    """Whose text that is, as `tainted` has it: the call shows it only with its plan."""
    undoes: str = ""
    """The change that it takes back."""
    row: int = 0
    """Number of its row in the audit; 0: it has none yet."""
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
