"""The client of the PVE API: each request is matched, validated, permitted, sent and noted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pvemcp.call import Call, Permit, Principal, Step, Verdict
from pvemcp.errors import Denied, Fault, Unavailable
from pvemcp.pve.decode import Answer, decode
from pvemcp.pve.description import Description
from pvemcp.pve.explain import better
from pvemcp.pve.faults import Asked, fault_of
from pvemcp.pve.load import REMOTE, load_description
from pvemcp.pve.request import Prepared, prepare
from pvemcp.pve.sharing import Flights, Kept
from pvemcp.pve.transport import TOTAL, Address, Reply, Transport, parse_fingerprint
from pvemcp.pve.upid import upid_in
from pvemcp.pve.visibility import gap

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
            holder=who.grant or who.name,
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a shared request ended: its status, and its data or its Fault."""

    status: int
    data: Any = None
    fault: Fault | None = None


class Pve:
    """The PVE API for one call, with the token of its principal.

    Paths may hold `{name}` placeholders, which are filled from the parameters. None as a
    parameter's value means "not given". Every request leaves a Step in the call.
    """

    def __init__(self, client: PveClient, call: Call) -> None:
        self._client = client
        self.call = call

    async def get(self, path: str, /, **params: Any) -> Any:
        """Read, and return PVE's `data`."""
        return (await self.request("GET", path, params)).data

    async def post(self, path: str, /, **params: Any) -> Any:
        """POST, and return PVE's `data`: often the UPID of a task that has only begun."""
        return (await self.request("POST", path, params)).data

    async def put(self, path: str, /, **params: Any) -> Any:
        """PUT, and return PVE's `data`."""
        return (await self.request("PUT", path, params)).data

    async def delete(self, path: str, /, **params: Any) -> Any:
        """DELETE, and return PVE's `data`."""
        return (await self.request("DELETE", path, params)).data

    async def description(self) -> Description:
        """Return what this PVE can be asked."""
        return await self._client.description()

    async def request(
        self, verb: str, path: str, params: Mapping[str, Any] | None = None
    ) -> Answer:
        """Make one request; names in `params` are PVE's own, such as `max-workers`.

        Raises Invalid before anything is sent when path or parameters are wrong, Denied when the
        policy or PVE says no, and the Fault of whatever PVE answers.
        """
        prepared, asked = await self._begin(verb, path, params or {})
        return await self._complete(prepared, asked)

    async def poll(self, path: str, /, **params: Any) -> Any:
        """Read again what the call has read before: leaves a Step only when it fails."""
        prepared, asked = await self._begin("GET", path, params)
        return (await self._complete(prepared, asked, again=True)).data

    async def resources(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return `/cluster/resources`, perhaps of one kind (vm, node, storage, sdn).

        The list is kept for a second and shared: do not change it or its rows.
        """
        found: list[dict[str, Any]] = await self._kept(
            self._client.resources, "/cluster/resources", {"type": kind} if kind else {}
        )
        return found

    async def permissions(self, path: str = "") -> dict[str, dict[str, int]]:
        """Return the token's own rights: ACL path → privilege → propagates. Kept for 30 s.

        With a path, PVE resolves exactly that one, which a list of all may leave out.
        """
        found: dict[str, dict[str, int]] = await self._kept(
            self._client.permissions, "/access/permissions", {"path": path} if path else {}
        )
        return found

    async def blind(self, path: str, privilege: str) -> str:
        """Say in one sentence why a list may be incomplete, or "" when the token sees all.

        A list is complete when the token holds the privilege on the ACL path, with propagation.
        """
        try:
            permissions = await self.permissions()
        except Fault:
            return "PVE does not say what this token may see, so the list may be incomplete."
        return gap(permissions, path, privilege=privilege, token=self.call.principal.token.id)

    async def _begin(
        self, verb: str, path: str, params: Mapping[str, Any]
    ) -> tuple[Prepared, Asked]:
        description = await self._client.description()
        prepared = self._client.prepare(description, verb, path, params=params)
        self._permit(prepared)
        asked = Asked(
            prepared.method, prepared.path, self.call.principal.token.id, prepared.node, time.time()
        )
        return prepared, asked

    def _permit(self, prepared: Prepared) -> None:
        call, path = self.call, prepared.path
        try:
            verdict = self._client.permit(call, prepared.verb, path, prepared.effect)
            if verdict is not Verdict.ALLOW:
                raise Denied(f"the policy does not allow {prepared.verb} {path}")
        except Fault:
            self._note(prepared, Verdict.DENY, 0, ms=0.0)
            raise

    async def _complete(self, prepared: Prepared, asked: Asked, *, again: bool = False) -> Answer:
        step = self._step(prepared)
        status, upid = 0, ""
        try:
            reply = await self._client.exchange(prepared, self.call.principal)
            status = reply.status
            if status == 200:
                answer = await _answer(reply)
                upid = answer.upid if prepared.verb != "GET" else ""
        finally:
            if status != 200 or not again:
                step(status, upid)
        if status != 200:
            raise await self._refused(reply, asked)
        return answer

    def _step(self, prepared: Prepared) -> Callable[[int, str], None]:
        started = time.perf_counter()

        def step(status: int, upid: str) -> None:
            ms = (time.perf_counter() - started) * 1000
            self._note(prepared, Verdict.ALLOW, status, ms=ms, upid=upid)

        return step

    def _note(
        self, prepared: Prepared, verdict: Verdict, status: int, *, ms: float, upid: str = ""
    ) -> None:
        self.call.steps.append(
            Step(prepared.verb, prepared.path, prepared.effect, verdict, status, ms, upid)
        )

    async def _refused(self, reply: Reply, asked: Asked) -> Fault:
        fault, clue = fault_of(reply, asked)
        if reply.status == 501:
            self._client.reread()
        return fault if clue is None else await better(self, fault, clue)

    async def _kept(self, kept: Kept[Outcome], path: str, params: Mapping[str, Any]) -> Any:
        prepared, asked = await self._begin("GET", path, params)
        key = (self.call.principal.token, prepared.target)
        step = self._step(prepared)
        status = 0
        try:
            outcome = kept.get(key) or await kept.share(
                key, partial(self._outcome, prepared, asked)
            )
            status = outcome.status
        finally:
            step(status, "")
        if outcome.fault is not None:
            kept.drop(key)
            raise outcome.fault
        return outcome.data

    async def _outcome(self, prepared: Prepared, asked: Asked) -> Outcome:
        reply = await self._client.exchange(prepared, self.call.principal)
        if reply.status != 200:
            return Outcome(reply.status, fault=fault_of(reply, asked)[0])
        return Outcome(200, (await _answer(reply)).data)


async def _answer(reply: Reply) -> Answer:
    body = await decode(reply)
    if not isinstance(body, dict):
        return Answer(body)
    data, total = body.get("data"), body.get("total")
    return Answer(data, total if isinstance(total, int) else None, upid_in(data))
