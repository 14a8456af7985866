"""The PVE API for one call: every request is prepared, permitted, sent and noted here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pvemcp.call import Call, Effect, Intent, Step, Unknown, Verdict
from pvemcp.errors import Denied, Fault, NotPlanned
from pvemcp.pve.decode import Answer, decode
from pvemcp.pve.description import Description
from pvemcp.pve.explain import better
from pvemcp.pve.faults import Asked, fault_of
from pvemcp.pve.request import Prepared
from pvemcp.pve.sharing import Kept
from pvemcp.pve.transport import Reply
from pvemcp.pve.upid import upid_in
from pvemcp.pve.visibility import gap
from pvemcp.pve.volumes import owner

if TYPE_CHECKING:
    from pvemcp.pve.client import PveClient

INVENTORY = "/cluster/resources"
PERMISSIONS = "/access/permissions"
Learn = Callable[
    [
        Call,
        Callable[[str], Awaitable[list[dict[str, Any]]]],
        Callable[[str, str], Awaitable[str]],
    ],
    Awaitable[None],
]
"""`(call, resources, blind)`: lets the policy learn what it asks about, before each request."""
Watch = Callable[["Pve", Intent], AbstractAsyncContextManager[Callable[[Answer], None]]]
"""Stands around every write that is sent: entered before, told of PVE's answer, left after."""


@contextlib.asynccontextmanager
async def unwatched(_pve: Pve, _intent: Intent) -> AsyncIterator[Callable[[Answer], None]]:
    """Watch nothing."""
    yield lambda _answer: None


def _intent(prepared: Prepared) -> Intent:
    return Intent(
        prepared.verb,
        prepared.path,
        prepared.effect,
        template=prepared.method.path,
        params=prepared.checked,
        node=prepared.node,
    )


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

    def of(self, call: Call) -> Pve:
        """Return the same PVE for another call."""
        return self._client.bind(call)

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
        if prepared.effect > Effect.READ:
            return await self._write(prepared, asked)
        seen, target = self.call.seen, prepared.target
        if self.call.planning is None and target in seen:
            answer: Answer = seen.pop(target)
            return answer
        answer = await self._complete(prepared, asked)
        if self.call.planning is not None:
            seen[target] = answer
        return answer

    async def _write(self, prepared: Prepared, asked: Asked) -> Answer:
        """Send a write that was planned, or note it while planning."""
        call, intent = self.call, _intent(prepared)
        if call.planning is not None:
            call.planning.append(intent)
            return Answer(Unknown(), upid=Unknown())  # type: ignore[arg-type]
        if not call.license.take(intent):
            self._note(prepared, Verdict.DENY, 0, ms=0.0)
            raise NotPlanned(
                f"{prepared.verb} {prepared.path} is not in the plan of this call: not sent",
                hint="Something changed since it was planned. Look again, then repeat the call.",
            )
        async with self._client.watch(self, intent) as done:
            call.seen.clear()
            answer = await self._complete(prepared, asked)
            done(answer)
        return answer

    async def poll(self, path: str, /, **params: Any) -> Any:
        """Read again what the call has read before: leaves a Step only when it fails."""
        prepared, asked = await self._begin("GET", path, params)
        return (await self._complete(prepared, asked, again=True)).data

    async def resources(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return `/cluster/resources`, perhaps of one kind (vm, node, storage, sdn).

        The list is kept for a second and shared: do not change it or its rows.
        """
        found: list[dict[str, Any]] = await self._kept(
            self._client.resources, INVENTORY, {"type": kind} if kind else {}
        )
        return found

    async def permissions(self, path: str = "") -> dict[str, dict[str, int]]:
        """Return the token's own rights: ACL path → privilege → propagates. Kept for 30 s.

        With a path, PVE resolves exactly that one, which a list of all may leave out.
        """
        found: dict[str, dict[str, int]] = await self._kept(
            self._client.permissions, PERMISSIONS, {"path": path} if path else {}
        )
        return found

    async def held(self) -> frozenset[str] | None:
        """Return the privileges that the token has anywhere; None when PVE does not say."""
        try:
            found = await self.permissions()
        except Fault:
            return None
        return frozenset(name for names in found.values() for name in names)

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
        own = prepared.method.path in (INVENTORY, PERMISSIONS)  # with which it learns
        if self._client.learn is not None and not own:
            await self._client.learn(self.call, self.resources, self.blind)
        self._permit(prepared)
        asked = Asked(
            prepared.method, prepared.path, self.call.principal.token.id, prepared.node, time.time()
        )
        return prepared, asked

    def _permit(self, prepared: Prepared) -> None:
        call, path = self.call, prepared.path
        try:
            verdict = self._client.permit(call, prepared.verb, path, prepared.effect)
            volume = str(prepared.checked.get("volume", "")) if prepared.verb == "GET" else ""
            if vmid := owner(volume):  # its text is his
                for kind in ("qemu", "lxc"):
                    guest = f"/nodes/{prepared.node}/{kind}/{vmid}"
                    self._client.permit(call, "GET", guest, prepared.effect)
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
        if reply.status == 403:
            self._client.permissions.forget()
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
    changes = str(body.get("changes") or "")
    return Answer(data, total if isinstance(total, int) else None, upid_in(data), changes)
