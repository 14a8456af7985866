"""What another node asks for, done in the name of its client.

The node that asks is not believed: the client that it names must be one that the whole cluster
shares, its ceiling must cover the command, and PVE is asked about its token once more. Each command
leaves its own row in the audit here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Call, Effect, Principal, Unplanned
from pvemcp.errors import Conflict, Denied, Invalid, Unavailable
from pvemcp.host.ended import EFFECTS, ended_of
from pvemcp.host.frames import PIECE, Frame, Link, read_frame
from pvemcp.host.runner import Host, Runner
from pvemcp.host.transcript import Transcript, Unmasked
from pvemcp.peers import hearing
from pvemcp.peers.hearing import Hearing
from pvemcp.pve.client import PveClient
from pvemcp.recording import recorded
from pvemcp.tools import container, jobs
from pvemcp.tools.container import READING, WRITING

logger = logging.getLogger(__name__)

MOST_EACH = 24
"""Commands of one client, at once."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the cluster, and at the client of a command that runs."""

Client = tuple[str, Effect, ApiToken]
"""Name, ceiling and PVE token of a client that the cluster shares."""


@dataclass(slots=True)
class Requests:
    """Does what other nodes ask for.

    `client` finds a shared client that is in force, by its id; `hearing` takes over what the
    others have frozen; `limit` refuses too many calls.
    """

    runner: Runner
    pve: PveClient
    audit: Audit
    client: Callable[[str], Client | None]
    hearing: Hearing
    limit: Callable[[Call], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
    _busy: dict[str, int] = field(default_factory=dict)

    async def answer(
        self, caller: str, request: Mapping[str, Any], reader: asyncio.StreamReader, link: Link
    ) -> None:
        """Do what a node asks for, and say so over the link. Raises the Fault of a refusal."""
        match request.get("do"):
            case "describe":
                await _say(link, await self.runner.executor.allowed())
            case hearing.DO:
                await _say(link, json.dumps(self.hearing.hear(caller, request)))
            case _:
                with self._recorded(caller, request) as call:
                    last = await self._carry_out(call, request, reader, link)
                if last is not None:  # not before the audit has it
                    await link.send(last.kind, last.payload)
                await link.send("Z")

    @contextlib.contextmanager
    def _recorded(self, caller: str, request: Mapping[str, Any]) -> Any:
        """Open and close a call of this node's own audit."""
        name, ceiling, token = self._client(str(request.get("owner", "")))
        principal = Principal(name, ceiling, token, str(request["owner"]), f"node {caller}")
        noted = {key: value for key, value in request.items() if key != "owner"}
        call = Call(principal, "node_command", self.audit.redact({"node": caller, **noted}))
        call.effect = effect_of(request)
        with recorded(self.audit, call, cancelled="the service stopped"):
            if call.effect > Effect.READ:
                self.audit.opened(call)
            yield call
            call.close("ok")

    def _client(self, owner: str) -> Client:
        found = self.client(owner)
        if found is None:
            raise Denied(
                "this client is not one that the whole cluster shares, or it was revoked",
                hint="pvemcp client list shows them; pvemcp client add makes one, as root.",
            )
        return found

    async def _carry_out(
        self, call: Call, request: Mapping[str, Any], reader: asyncio.StreamReader, link: Link
    ) -> Frame | None:
        """Do it; return the frame that tells the end, which has not been passed on."""
        call.license = Unplanned()  # planned, and approved, on the node that asks
        host, owner = self.runner.bind(call), call.principal.grant
        if self._busy.get(owner, 0) >= MOST_EACH:
            raise Conflict(
                f"{MOST_EACH} commands of {call.principal.name} run here for other nodes",
                hint="Wait until one has ended, or close a shell.",
            )
        self._busy[owner] = self._busy.get(owner, 0) + 1
        try:
            with self.limit(call):
                inner = await self._begin(host, call, request)
            try:
                await link.send_object("A", {})
                down = asyncio.create_task(_down(inner, link))
                await self._pass(call, reader, inner, down)
                if down.cancelled():
                    call.close("cancelled", "the other node ended it, or has gone")
                    return None
                return _noted(call, down.result())
            finally:
                inner.close()
        finally:
            self._busy[owner] -= 1

    async def _begin(self, host: Host, call: Call, request: Mapping[str, Any]) -> Link:
        match request:
            case {"do": "job"}:
                await host.ask(call.effect, "host/job")
                with host.runner.starting(call.principal.grant, jobs.MOST_EACH) as others:
                    await jobs.refuse_more(host, others)
                    return await self._open(host, call, request)
            case {"do": "operation", "name": "job-list"}:
                return _Answer(json.dumps(await jobs.own_jobs(host)).encode())
            case {"do": "operation", "name": "job-read" | "job-stop", "params": {"job": str(job)}}:
                await jobs.require_own(host, job)
            case {"do": "operation", "name": container.GUEST}:
                return await self._enter(host, call, request)
            case {"do": "operation"}:
                await _require_offered(host, str(request.get("name")))
            case _:
                pass
        return await self._open(host, call, request)

    async def _open(self, host: Host, call: Call, request: Mapping[str, Any]) -> Link:
        label = f"host/{request.get('profile') or request.get('name')}"
        return await host.open(request, effect=call.effect, label=label)

    async def _enter(self, host: Host, call: Call, request: Mapping[str, Any]) -> Link:
        params = request.get("params")
        vmid = params.get("vmid") if isinstance(params, dict) else None
        if type(vmid) is not int:
            raise Invalid("vmid is no number")
        needs = READING if call.effect is Effect.READ else WRITING
        await container.require(self.pve.bind(call), vmid, needs)
        return await host.open(request, effect=call.effect, label=f"lxc/{vmid}", guarded=False)

    async def _pass(
        self,
        call: Call,
        reader: asyncio.StreamReader,
        inner: Link,
        down: asyncio.Task[Frame | None],
    ) -> None:
        """Pass frames between the caller and the command until either ends, or the client does."""
        up = asyncio.create_task(_up(reader, inner))
        watching = asyncio.create_task(self._until_revoked(call))
        tasks = (down, up, watching)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            inner.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _until_revoked(self, call: Call) -> None:
        """Wait until the client, or the policy, says that a command may not go on."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._client(call.principal.grant)
            if why := self.runner.stops(call.principal, call.effect):
                raise Denied(f"the command was ended: {why}", hint="Only a person lets it go on.")


async def _require_offered(host: Host, name: str) -> None:
    """Raise Denied for what a service asks only of its own helper: no client may have it done."""
    if (await host.allowed()).get("operations", {}).get(name, {}).get("internal"):
        raise Denied(f"{name:.40} is no diagnostic", hint="host_diagnose() lists them.")


async def _say(link: Link, text: str) -> None:
    await link.send_object("A", {})
    await link.send("O", text.encode())
    await link.send_object("X", {"code": 0})


class _Answer(Link):
    """What a command would have written, from here."""

    def __init__(self, output: bytes) -> None:
        pieces = [output[start : start + PIECE] for start in range(0, len(output), PIECE)]
        self._frames = [*(Frame("O", piece) for piece in pieces), Frame("X", b'{"code": 0}')]

    async def receive(self) -> Frame | None:
        """Return the next frame."""
        return self._frames.pop(0) if self._frames else None

    async def send(self, kind: str, payload: bytes = b"") -> None:
        """Take input, which nobody reads."""

    def close(self) -> None:
        """There is nothing to end."""


def effect_of(request: Mapping[str, Any]) -> Effect:
    """Return the effect of a request, whatever its sender thinks of it. Raises Invalid."""
    match request.get("do"):
        case "run" | "job":
            found = EFFECTS.get(str(request.get("profile")))
        case "operation" if request.get("name") == container.GUEST:
            found = container.effect_of(request)
        case "operation":
            found = Effect.READ
        case _:
            found = None
    if found is None:
        raise Invalid("unknown request")
    return found


async def _down(inner: Link, link: Link) -> Frame | None:
    """Pass on what the command writes; return the frame that tells its end."""
    while frame := await inner.receive():
        if frame.kind == "X":
            return frame
        await link.send(frame.kind, frame.payload)
    return None


def _noted(call: Call, last: Frame | None) -> Frame | None:
    if last is not None and call.steps:
        end = ended_of(last.payload, Transcript(Unmasked))
        call.steps[-1] = replace(call.steps[-1], note=end.note)
    return last


async def _up(reader: asyncio.StreamReader, inner: Link) -> None:
    while frame := await read_frame(reader, "IEW"):
        with contextlib.suppress(Unavailable):  # it has ended; the frames that come say how
            await inner.send(frame.kind, frame.payload)
