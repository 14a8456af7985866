"""Whether PVE still knows a token: asked at the door, so that revoking in PVE ends a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pvemcp.call import ApiToken
from pvemcp.errors import Fault
from pvemcp.pve.sharing import Flights
from pvemcp.pve.transport import Transport

FRESH = 1.5
"""Seconds for which PVE's word counts. A refusal takes PVE 3 s: together less than 5."""
PATIENCE = 4.0
"""Seconds to wait for PVE's word. PVE says no only when it says so: it may be down."""
UNKNOWN = 10.0
"""Seconds until a PVE that did not answer is asked again."""
MOST = 1000


class Alive:
    """Remembers for a moment what PVE said of each token."""

    def __init__(
        self, transport: Transport, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._known: dict[ApiToken, tuple[float, bool]] = {}
        """Until when PVE's word counts, and whether it was no."""
        self._flights: Flights[bool] = Flights()

    async def refused(self, token: ApiToken) -> bool:
        """Whether PVE has just said that it does not accept the token."""
        until, refused = self._known.get(token, (0.0, False))
        if self._clock() < until:
            return refused
        return await self._flights.share(token, lambda: self._ask(token))

    async def _ask(self, token: ApiToken) -> bool:
        headers = {"Authorization": token.header}
        fresh, refused = FRESH, False
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await self._transport.send("GET", "/api2/json/version", headers=headers)
            refused = reply.status == 401
        except (Fault, TimeoutError):
            fresh = UNKNOWN
        if len(self._known) > MOST:
            self._known.clear()
        self._known[token] = (self._clock() + fresh, refused)
        return refused
