"""Whether the service can do its work, and if not, why.

Everything is looked at once for all who ask within a few seconds, and never for longer than a few:
asking often costs PVE nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path

from pvemcp.access import shared
from pvemcp.access.freeze import Freezes
from pvemcp.access.told import Told
from pvemcp.audit import Audit
from pvemcp.call import ApiToken
from pvemcp.errors import Fault
from pvemcp.host.executor import Executor, Helper, Nowhere
from pvemcp.pve.client import PveClient
from pvemcp.pve.transport import Reply
from pvemcp.settings import Settings
from pvemcp.store import Store
from pvemcp.syslog import Syslog
from pvemcp.tls import own_certificate, validity
from pvemcp.watch.clock import Clock

FRESH = 5.0
"""Seconds that a look counts."""
PATIENCE = 5.0
"""Seconds for one check."""
HELPER_EVERY = 600.0
"""Seconds that a good answer of the helper counts: asking starts it."""
LEAST_FREE, LITTLE_FREE, LITTLE_PART = 8 << 20, 128 << 20, 0.05
"""Bytes of the disk below which it is full; below which, or which part, it is filling."""
SKEWED, LITTLE_SKEWED = 60.0, 10.0
"""Seconds between the clocks; the Date header has whole seconds."""
SOON, LATE_PART = timedelta(days=14), 0.2
"""A certificate is worth a warning that ends within that time, in the last part of its life."""


class State(StrEnum):
    """How a check ended. OFF: there is nothing to check, or no way to."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    name: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """One look at everything. `at` is in seconds since the epoch."""

    findings: tuple[Finding, ...]
    at: float

    @property
    def ready(self) -> bool:
        """Whether nothing fails."""
        return not any(finding.state is State.FAIL for finding in self.findings)


Said = tuple[State, str]


class Readiness:
    """Looks at what the service depends on. `token` is the configured PVE token."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        audit: Audit,
        pve: PveClient,
        executor: Executor,
        token: ApiToken | None,
        clock: Clock,
        syslog: Syslog | None = None,
    ) -> None:
        self._syslog = syslog
        self._settings = settings
        self._store = store
        self._audit = audit
        self._pve = pve
        self._executor = executor
        self._token = token
        self._clock = clock
        self._last: tuple[float, Report] | None = None
        self._looking: asyncio.Task[Report] | None = None
        self._helper: tuple[float, Said] | None = None

    async def look(self, fresh: float = FRESH) -> Report:
        """Return what was found within the last seconds, or look."""
        if self._last is not None and time.monotonic() - self._last[0] < min(fresh, FRESH):
            return self._last[1]
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> Report:
        (pve, clock), helper = await asyncio.gather(
            self._ask_pve(), _said(self._ask_helper, "the helper")
        )
        found = {
            "pve": pve,
            "store": self._judge_store(),
            "helper": helper,
            "certificate": self._judge_certificate(),
            "clock": clock,
            "disk": self._judge_disk(),
            "clients": self._judge_clients(),
            "freezes": self._judge_freezes(),
            "syslog": self._judge_syslog(),
        }
        findings = tuple(Finding(name, *said) for name, said in found.items())
        report = Report(findings, self._clock.now())
        self._last = (time.monotonic(), report)
        return report

    async def _ask_pve(self) -> tuple[Said, Said]:
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await self._pve.transport.send(
                    "GET",
                    "/api2/json/version",
                    headers={"Authorization": self._token.header} if self._token else {},
                    lane=("readiness", 1),
                )
        except TimeoutError:
            silent = f"PVE gave no answer within {PATIENCE:.0f} s"
            return (State.FAIL, silent), (State.OFF, silent)
        except Fault as fault:
            return (State.FAIL, fault.message), (State.OFF, "PVE does not tell its time")
        return self._judge_pve(reply), self._judge_clock(reply)

    def _judge_pve(self, reply: Reply) -> Said:
        if self._token is None and reply.status == 401:
            return State.OK, "answers"  # each client has a token of its own
        if self._token is not None and reply.status == 401:
            token = self._token.id
            return State.FAIL, f"PVE refuses the token {token}: revoked, expired, or another secret"
        if reply.status >= 500:
            return State.FAIL, f"PVE answers {reply.status} {reply.reason[:100]}"
        return State.OK, "answers, and knows the token"

    def _judge_clock(self, reply: Reply) -> Said:
        if jumped := self._clock.jumped():
            return State.WARN, jumped
        try:
            skew = parsedate_to_datetime(reply.date).timestamp() - self._clock.now()
        except ValueError:
            return State.OFF, "PVE does not tell its time"
        if abs(skew) <= LITTLE_SKEWED:
            return State.OK, "this machine and PVE agree"
        direction = "ahead of" if skew > 0 else "behind"
        state = State.FAIL if abs(skew) > SKEWED else State.WARN
        return state, f"PVE is {abs(skew):.0f} s {direction} this machine"

    async def _ask_helper(self) -> Said:
        if isinstance(self._executor, Nowhere):
            return State.OFF, self._executor.reason
        if not isinstance(self._executor, Helper):
            return State.OFF, f"commands run elsewhere: {self._executor.place}"
        if self._helper is not None and time.monotonic() - self._helper[0] < HELPER_EVERY:
            return self._helper[1]
        await self._executor.alive()
        said = State.OK, "answers"
        self._helper = (time.monotonic(), said)
        return said

    def _judge_store(self) -> Said:
        try:
            self._store.rows("SELECT count(*) FROM key")
        except Fault as fault:
            return State.FAIL, fault.message
        if self._audit.trouble:
            return State.FAIL, f"the audit cannot be written: {self._audit.trouble}"
        return State.OK, "answers"

    def _judge_disk(self) -> Said:
        folder: Path = self._settings.state_dir
        try:
            usage = shutil.disk_usage(folder)
        except OSError as error:
            return State.FAIL, f"{folder}: {error.strerror}"
        if not os.access(folder, os.W_OK):
            return State.FAIL, f"{folder} cannot be written"
        left = f"{usage.free >> 20} MiB are left for the audit"
        if usage.free < LEAST_FREE:
            return State.FAIL, f"full: {left}; what changes something is refused"
        if usage.free < max(LITTLE_FREE, LITTLE_PART * usage.total):
            return State.WARN, f"filling: {left}"
        return State.OK, left

    def _judge_clients(self) -> Said:
        path = self._settings.mirror_dir / shared.FILE
        try:
            problem = shared.doubt(self._store, path)
        except Fault as fault:
            return State.WARN, fault.message
        if not problem and not path.exists():
            return State.OFF, "no cluster shares its clients with this node"
        return (State.WARN, problem) if problem else (State.OK, "as the cluster has them")

    def _judge_freezes(self) -> Said:
        try:
            freezes = Freezes(self._store)
            found = [str(each) for each in freezes.all()]
            found += [each.behind for each in Told(self._store).behind(freezes.own())]
        except Fault as fault:
            return State.FAIL, fault.message
        return (State.WARN, "; ".join(found)) if found else (State.OK, "nobody is frozen")

    def _judge_syslog(self) -> Said:
        if self._syslog is None:
            return State.OFF, "the audit goes to no syslog"
        lost = f"; {self._syslog.lost} lines were dropped" if self._syslog.lost else ""
        if self._syslog.trouble:
            waiting = f"{self._syslog.waiting} lines wait{lost}"
            return State.WARN, f"{self._syslog.receiver}: {self._syslog.trouble}; {waiting}"
        return (
            State.WARN if lost else State.OK
        ), f"the audit goes to {self._syslog.receiver}{lost}"

    def _judge_certificate(self) -> Said:
        if self._settings.tls_cert is None:
            return State.OFF, "no TLS"
        try:
            start, end = validity(own_certificate(self._settings.tls_cert))
        except (OSError, ValueError) as error:
            return State.FAIL, f"{self._settings.tls_cert} cannot be read: {error}"
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        if now > end:
            return State.FAIL, f"expired on {end:%Y-%m-%d %H:%M} UTC"
        if now < start:
            return State.FAIL, f"not valid before {start:%Y-%m-%d %H:%M} UTC: is the clock right?"
        if end - now < min(SOON, LATE_PART * (end - start)):
            return State.WARN, f"expires on {end:%Y-%m-%d %H:%M} UTC"
        return State.OK, f"valid until {end:%Y-%m-%d}"


async def _said(ask: Callable[[], Awaitable[Said]], who: str) -> Said:
    try:
        async with asyncio.timeout(PATIENCE):
            return await ask()
    except TimeoutError:
        return State.FAIL, f"{who} gave no answer within {PATIENCE:.0f} s"
    except Fault as fault:
        return State.FAIL, fault.message
