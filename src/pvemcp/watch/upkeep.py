"""What runs beside the calls: limits and sessions, readiness and metrics, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mcp.server.lowlevel import Server
from starlette.types import ASGIApp

from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.access.limits import Gate
from pvemcp.access.presence import Presence
from pvemcp.access.refusals import Refusals
from pvemcp.access.sessions import Sessions
from pvemcp.access.told import Told
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Principal
from pvemcp.errors import Fault
from pvemcp.host.executor import Executor
from pvemcp.metrics import Metrics
from pvemcp.pve.alive import Alive
from pvemcp.pve.client import PveClient
from pvemcp.settings import Settings
from pvemcp.store import Store
from pvemcp.syslog import Syslog
from pvemcp.watch import control
from pvemcp.watch.alerts import Alerts
from pvemcp.watch.channels import channels
from pvemcp.watch.clock import Clock
from pvemcp.watch.exposition import Exposition, Frozen
from pvemcp.watch.figures import listening
from pvemcp.watch.lookout import Lookout
from pvemcp.watch.probes import Figures, Probes
from pvemcp.watch.process import noted
from pvemcp.watch.readiness import Readiness

logger = logging.getLogger(__name__)

UNCLEAN = (
    "The process before this one was ended without notice (killed, a crash, the watchdog, or a "
    "power cut). The service runs again; calls that it cut short are unfinished in the audit."
)
EVERY = 2.0
"""Seconds between two looks whether the grants of those who are connected still hold."""


@dataclass(frozen=True, slots=True)
class Watched:
    """The parts of a service that are looked after. `token` is the configured PVE token."""

    store: Store
    grants: Grants
    pve: PveClient
    audit: Audit
    metrics: Metrics
    executor: Executor
    token: ApiToken | None
    mask: Callable[[str], str] = str
    """Hides secrets in what is told."""
    syslog: Syslog | None = None
    spread: Callable[[], Awaitable[None]] | None = None
    """Tells the other nodes what is frozen here."""


class Upkeep:
    """What looks after one service."""

    def __init__(self, settings: Settings, watched: Watched, clock: Clock) -> None:
        self._settings = settings
        self._grants = watched.grants
        self._token = watched.token
        self.refused = Alive(watched.pve.transport).refused
        self._metrics = watched.metrics
        self._presence: Presence | None = None
        self.gate = Gate(settings)
        self.sessions = Sessions(settings)
        self.clock = clock
        self.readiness = Readiness(
            settings,
            store=watched.store,
            audit=watched.audit,
            pve=watched.pve,
            executor=watched.executor,
            token=watched.token,
            clock=clock,
            syslog=watched.syslog,
        )
        self.sent: Counter[str] = Counter()
        self.alerts = Alerts(
            watched.store,
            channels(settings, watched.executor),
            sent=self.sent,
            mask=watched.mask,
        )
        self._freezes = Freezes(watched.store)
        self._refusals = Refusals(watched.audit.event, clock.steady)
        self._lookout = Lookout(
            settings,
            readiness=self.readiness,
            alerts=self.alerts,
            grants=watched.grants,
            freezes=self._freezes,
            told=Told(watched.store),
            clock=clock,
        )
        self._store = watched.store
        self._spread = watched.spread
        self._exposition = Exposition(
            settings, self._metrics, self.gate, self.sessions, watched.audit, self.sent,
            self._count_freezes,
        )  # fmt: skip

    def guard(self, app: ASGIApp, server: Server[Any]) -> ASGIApp:
        """Return the application behind the limits; `server` is the MCP server in it."""
        self._presence = Presence(app, self.gate, self.sessions, self._refusals.note)
        server.middleware.append(self._presence.note)
        return Probes(self._presence, self.readiness.look, self._exposition.text)

    def turned_away(self, reason: str, address: str, client: str) -> None:
        """Note a request that was not let in."""
        self._metrics.refuse(reason)
        self._lookout.turned_away(reason, address)
        self._refusals.note(reason, address, client)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the service until the end of the block."""
        orders = {
            "sessions": self._list,
            "end": self._end,
            "alerts": self._list_alerts,
            "alert-test": self._test_alert,
            "spread": self._tell_nodes,
        }
        figures = Figures(self.readiness.look, self._exposition.text)
        running = [asyncio.create_task(each) for each in (self._look(), self._lookout.run())]
        try:
            with noted(self._store, self.clock.now()) as unclean:
                if unclean:
                    self._lookout.restarted(UNCLEAN)
                async with (
                    control.serve(self._settings.state_dir, orders),
                    listening(self._settings.metrics_listen, figures),
                ):
                    yield
        finally:
            for task in running:
                task.cancel()

    async def _list_alerts(self, _: Mapping[str, Any]) -> list[dict[str, object]]:
        return [asdict(entry) for entry in self.alerts.entries]

    async def _test_alert(self, _: Mapping[str, Any]) -> dict[str, str]:
        return await self.alerts.test(self.clock.now())

    async def _tell_nodes(self, _: Mapping[str, Any]) -> None:
        if self._spread is not None:
            await self._spread()

    def connected(self) -> list[dict[str, object]]:
        """Return who is connected, as an administrator sees it."""
        raised = {one.grant: f"{one.effect} (raised)" for one in Elevations(self._store).all()}

        def may(who: Principal) -> str:
            frozen = self._freezes.of(who.name)
            return f"frozen: {frozen.mode}" if frozen else raised.get(who.grant, str(who.ceiling))

        return [{**one.as_dict(), "may": may(one.principal)} for one in self.sessions.list()]

    async def _list(self, _: Mapping[str, Any]) -> list[dict[str, object]]:
        return self.connected()

    def _count_freezes(self) -> Frozen:
        try:
            held = self._freezes.all()
            behind = Told(self._store).behind(self._freezes.own())
        except Fault:
            return Frozen()  # the check of the store says so
        return Frozen(len(held), sum(bool(each.origin) for each in held), len(behind))

    async def _end(self, request: Mapping[str, Any]) -> dict[str, object]:
        session = self.sessions.find(str(request.get("id")))
        seen = session.as_dict()
        await self._finish(session.id)
        return {**seen, "cut": seen["requests"]}

    async def _finish(self, id: str) -> None:
        if self._presence is not None:
            await self._presence.end(self.sessions.find(id))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            self._refusals.sweep()
            try:
                await self._end_revoked()
            except Fault as fault:
                logger.warning("whose grants still hold is unknown: %s", fault)
            except Exception:
                logger.exception("looking after the sessions failed")

    async def _refused(self) -> set[ApiToken]:
        """Return the tokens of those who are connected that PVE does not accept any more."""
        tokens = list({one.principal.token for one in self.sessions.list()} - {self._token})
        answers = await asyncio.gather(*map(self.refused, tokens))
        return {token for token, no in zip(tokens, answers, strict=True) if no}

    async def _end_revoked(self) -> None:
        """End what clients have under way whose grant, or whose own PVE token, is no more."""
        refused = await self._refused()
        for session in self.sessions.list():
            who = session.principal
            if who.token in refused or not self._grants.holds(who.grant):
                logger.info("grant %s ended: its session is closed", session.principal.name)
                await self._finish(session.id)
