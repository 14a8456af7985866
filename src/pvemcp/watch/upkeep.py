"""What runs beside the calls: limits and sessions, readiness and metrics, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcp.server.lowlevel import Server
from starlette.types import ASGIApp

from pvemcp.access.grants import Grants
from pvemcp.access.limits import Gate
from pvemcp.access.presence import Presence
from pvemcp.access.sessions import Sessions
from pvemcp.audit import Audit
from pvemcp.call import ApiToken
from pvemcp.errors import Fault
from pvemcp.host.executor import Executor
from pvemcp.metrics import Metrics
from pvemcp.pve.client import PveClient
from pvemcp.settings import Settings
from pvemcp.store import Store
from pvemcp.watch import control
from pvemcp.watch.clock import Clock
from pvemcp.watch.exposition import Exposition
from pvemcp.watch.figures import listening
from pvemcp.watch.probes import Figures, Probes
from pvemcp.watch.readiness import Readiness

logger = logging.getLogger(__name__)

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


class Upkeep:
    """What looks after one service."""

    def __init__(self, settings: Settings, watched: Watched, clock: Clock) -> None:
        self._settings = settings
        self._grants = watched.grants
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
        )
        self.sent: Counter[str] = Counter()
        self._exposition = Exposition(
            settings, self._metrics, self.gate, self.sessions, watched.audit, self.sent
        )

    def guard(self, app: ASGIApp, server: Server[Any]) -> ASGIApp:
        """Return the application behind the limits; `server` is the MCP server in it."""
        self._presence = Presence(app, self.gate, self.sessions)
        server.middleware.append(self._presence.note)
        return Probes(self._presence, self.readiness.look, self._exposition.text)

    def turned_away(self, reason: str, address: str) -> None:
        """Note a request that was not let in."""
        self._metrics.refuse(reason, address)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the service until the end of the block."""
        orders = {"sessions": self._list, "end": self._end}
        figures = Figures(self.readiness.look, self._exposition.text)
        looking = asyncio.create_task(self._look())
        try:
            async with (
                control.serve(self._settings.state_dir, orders),
                listening(self._settings.metrics_listen, figures),
            ):
                yield
        finally:
            looking.cancel()

    async def _list(self, _: Mapping[str, Any]) -> list[dict[str, object]]:
        return [session.as_dict() for session in self.sessions.list()]

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
            try:
                await self._end_revoked()
            except Fault as fault:
                logger.warning("whose grants still hold is unknown: %s", fault)
            except Exception:
                logger.exception("looking after the sessions failed")

    async def _end_revoked(self) -> None:
        """End what clients have under way whose grant was revoked or has expired."""
        for session in self.sessions.list():
            if not self._grants.holds(session.principal.grant):
                logger.info("grant %s ended: its session is closed", session.principal.name)
                await self._finish(session.id)
