"""The client of the PVE API: each request is matched, validated, permitted, sent and noted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pvemcp.call import Call, Permit, Principal
from pvemcp.errors import Fault, Unavailable
from pvemcp.pve.calling import Learn, Outcome, Pve, Watch, unwatched
from pvemcp.pve.decode import Answer
from pvemcp.pve.description import Description
from pvemcp.pve.load import REMOTE, load_description
from pvemcp.pve.request import Prepared, prepare
from pvemcp.pve.sharing import Flights, Kept
from pvemcp.pve.transport import TOTAL, Address, Reply, Transport, parse_fingerprint

__all__ = ["Answer", "Pve", "PveClient"]

logger = logging.getLogger(__name__)

REREAD = 600.0
"""Seconds after which the description is looked at again, when it is used."""
REREAD_SOON = 30.0
"""The least seconds between two looks, whatever PVE says."""
RESOURCES = 1.0
"""Seconds that a list of resources is kept: PVE refreshes its source every 10."""
PERMISSIONS = 30.0
"""Seconds that a token's permissions are kept."""
KEPT_REQUESTS = 256
STALE, QUICK = "Broken pipe", 1.0
"""How pveproxy says that its connection to pvedaemon broke, and within how many seconds."""
WORKERS = 3
"""Processes of pveproxy: each may hold a stale connection."""


class PveClient:
    """One PVE for all principals: connections, description, kept answers.

    `concurrency` bounds the requests to one node; four times as many run in all.
    """

    def __init__(
        self,
        url: str,
        *,
        permit: Permit,
        ca_file: Path | None = None,
        fingerprint: str = "",
        socket: str | None = None,
        concurrency: int = 8,
        cache_dir: Path | None = None,
        apidoc_file: Path | None = None,
        timeout: float = TOTAL,
    ) -> None:
        """Raises Misconfigured for a bad URL, CA file or fingerprint. Nothing is sent yet."""
        self.permit = permit
        self.learn: Learn | None = None
        self.watch: Watch = unwatched
        self.transport = Transport(
            Address.parse(url, socket),
            ca_file=ca_file,
            fingerprint=parse_fingerprint(fingerprint),
            concurrency=concurrency,
            timeout=timeout,
        )
        self.flights: Flights[Reply] = Flights()
        self.resources: Kept[Outcome] = Kept(RESOURCES)
        self.permissions: Kept[Outcome] = Kept(PERMISSIONS)
        self._cache_dir = cache_dir
        self._apidoc_file = apidoc_file
        self._description: Description | None = None
        self._loads: Flights[Description] = Flights()
        self._read_at = 0.0
        self._rereading: asyncio.Task[None] | None = None
        self._prepared: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; requests under way are given up."""
        if self._rereading is not None:
            self._rereading.cancel()
        await self.transport.close()

    def bind(self, call: Call) -> Pve:
        """Return the API as this call's principal sees it."""
        return Pve(self, call)

    async def description(self) -> Description:
        """Return the API description: loaded once, and looked at again in the background.

        Raises Unavailable when PVE cannot be reached and there is no kept copy.
        """
        if self._description is None:
            return await self._loads.share("description", self._load)
        if time.monotonic() - self._read_at > REREAD:
            self.reread()
        return self._description

    def reread(self) -> None:
        """Look at the description again in the background, unless that was done just now."""
        busy = self._rereading is not None and not self._rereading.done()
        if not busy and time.monotonic() - self._read_at > REREAD_SOON:
            self._rereading = asyncio.create_task(self._reread())

    def prepare(
        self, description: Description, verb: str, path: str, *, params: Mapping[str, Any]
    ) -> Prepared:
        """Prepare a request; reads with few and plain parameters are remembered."""
        plain = len(params) <= 3 and all(type(value) in (str, int) for value in params.values())
        if params and not (verb == "GET" and plain):
            return prepare(description, verb, path, params=params)
        # The types are part of the key: 1 and True are equal, and not the same to PVE.
        key = (verb, path, *((name, type(value), value) for name, value in params.items()))
        found = self._prepared.get(key)
        if found is None:
            found = self._prepared[key] = prepare(description, verb, path, params=params)
            while len(self._prepared) > KEPT_REQUESTS:
                self._prepared.popitem(last=False)
        return found

    async def exchange(self, prepared: Prepared, who: Principal) -> Reply:
        """Send a request with the principal's token. Identical GETs under way share one."""
        if prepared.verb == "GET":
            return await self.flights.share(
                (who.token, prepared.target), partial(self._read, prepared, who)
            )
        try:
            return await self._send(prepared, who)
        finally:
            self.flights.forget()
            self.resources.forget()

    async def _read(self, prepared: Prepared, who: Principal) -> Reply:
        """Send a GET, and again when pveproxy's own connection to pvedaemon had gone stale.

        That is answered at once; a worker that dies over the request takes 5 s (seen on PVE 9.1).
        """
        until = time.monotonic() + QUICK
        for _ in range(WORKERS):
            reply = await self._send(prepared, who)
            if reply.status != 596 or reply.reason != STALE or time.monotonic() > until:
                return reply
        return await self._send(prepared, who)

    async def _send(self, prepared: Prepared, who: Principal) -> Reply:
        headers = {"Authorization": who.token.header}
        if prepared.content_type:
            headers["Content-Type"] = prepared.content_type
        return await self.transport.send(
            prepared.verb,
            prepared.target,
            headers=headers,
            body=prepared.body,
            lane=prepared.lane,
            holder=who.owner,
        )

    async def _load(self) -> Description:
        self._read_at = time.monotonic()
        found = await load_description(
            file=self._apidoc_file, fetch=self._fetch, cache_dir=self._cache_dir
        )
        if self._description is None or found.digest != self._description.digest:
            logger.info("API description: %d methods from %s", len(found), found.source)
            self._prepared.clear()
            self._description = found
        return self._description

    async def _reread(self) -> None:
        try:
            await self._load()
        except Fault as fault:
            logger.warning("the API description could not be read again: %s", fault.message)

    async def _fetch(self) -> str:
        reply = await self.transport.send("GET", REMOTE, headers={}, lane=("description", 1))
        if reply.status != 200:
            raise Unavailable(
                f"PVE gives no API description ({reply.status} {reply.reason[:100]})",
                hint=f"GET {REMOTE} must work without authentication; it comes from pve-docs.",
            )
        return reply.body.decode("utf-8", "replace")
