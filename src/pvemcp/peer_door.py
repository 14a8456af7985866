"""The door for other nodes of the cluster: they ask for commands of their clients here.

It listens on this node's own address in the cluster, once there are other nodes, and only their
addresses are let in. The caller proves which node it is (see host/identity.py), and is not believed
more than that: the client that it names must be one that the whole cluster shares, its ceiling must
cover the command, and PVE is asked about its token once more. Each command leaves its own row in
the audit here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Call, Effect, Principal
from pvemcp.errors import Conflict, Denied, Fault, Internal, Invalid, Unavailable
from pvemcp.host import identity
from pvemcp.host.cluster import Cluster
from pvemcp.host.ended import PROFILES, ended_of
from pvemcp.host.frames import Frame, Link, read_frame, refusal
from pvemcp.host.greeting import (
    GREETING_LIMIT,
    NONCE,
    OLDEST,
    REQUEST_LIMIT,
    VERSION,
    Challenge,
    Hello,
    keep_alive,
    read_request,
)
from pvemcp.host.identity import Identity
from pvemcp.host.members import Members
from pvemcp.host.runner import Host, Runner
from pvemcp.host.transcript import Transcript, Unmasked
from pvemcp.pve.client import PveClient
from pvemcp.tools import container
from pvemcp.tools.container import GUEST, READING, WRITING

logger = logging.getLogger(__name__)

MOST, MOST_EACH = 192, 24
"""Connections, and commands of one client, at once."""
GREETING_SECONDS = 10
LOOK_EVERY = 2.0
"""Seconds between two looks at the cluster, and at the client of a command that runs."""
EFFECTS = {profile: effect for effect, profile in PROFILES.items()}

Client = tuple[str, Effect, ApiToken]
"""Name, ceiling and PVE token of a client that the cluster shares."""


@dataclass(slots=True)
class PeerDoor:
    """Serves the other nodes.

    `client` finds a shared client that is in force, by its id; `limit` refuses too many calls.
    """

    cluster: Cluster
    runner: Runner
    pve: PveClient
    audit: Audit
    client: Callable[[str], Client | None]
    limit: Callable[[Call], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
    _busy: dict[str, int] = field(default_factory=dict)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    _new: set[socket.socket] = field(default_factory=set)
    _said: str = ""

    async def run(self) -> None:
        """Listen while there are other nodes, until cancelled."""
        listening: socket.socket | None = None
        accepting: asyncio.Task[None] | None = None
        try:
            while True:
                wanted = self._place()
                if wanted != (listening.getsockname()[0] if listening else None):
                    _end(listening, accepting)
                    listening = self._listen(wanted) if wanted else None
                    accepting = asyncio.create_task(self._accept(listening)) if listening else None
                await asyncio.sleep(LOOK_EVERY)
        finally:
            _end(listening, accepting)
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            for connection in self._new:  # whose task never began
                connection.close()

    def _place(self) -> str | None:
        """Return the address to listen on; None while there is no other node."""
        try:
            members = self.cluster.members()
            address = members.address(members.own)
            if not self.cluster.port or not members.others() or address is None:
                return None
            self.cluster.identity()
        except Fault as fault:
            if self.cluster.others():
                self._say(str(fault))
            return None
        return str(address)

    def _listen(self, place: str) -> socket.socket | None:
        family = socket.AF_INET6 if ":" in place else socket.AF_INET
        try:
            bound = socket.create_server((place, self.cluster.port), family=family, backlog=64)
        except OSError as error:
            self._say(f"commands of other nodes are not served: {place}: {error.strerror}")
            return None
        bound.settimeout(0)
        self._say(f"commands of other nodes: {place} port {self.cluster.port}")
        return bound

    def _say(self, text: str) -> None:
        """Log what was not the last thing said."""
        if text != self._said:
            self._said = text
            logger.warning("%s", text)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # no more files, perhaps
                logger.warning("a node's connection was not accepted: %s", error.strerror)
                await asyncio.sleep(1)
                continue
            if len(self._serving) >= MOST or not self._is_node(address[0]):
                connection.close()
                continue
            self._new.add(connection)
            task = asyncio.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _is_node(self, address: str) -> bool:
        try:
            nodes = self.cluster.members().nodes.values()
        except Unavailable:
            return False
        return ip_address(address.partition("%")[0]) in {node.address for node in nodes}

    async def _serve(self, connection: socket.socket) -> None:
        self._new.discard(connection)
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            source = connection.getpeername()[0]
            own = self.cluster.identity()
            keep_alive(connection)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=own.server,
                ssl_handshake_timeout=GREETING_SECONDS,
                ssl_shutdown_timeout=GREETING_SECONDS,
            )
        except (OSError, Fault) as error:
            connection.close()
            logger.info("a node's connection did not come about: %s", error)
            return
        except BaseException:
            connection.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        link = Link(reader, writer)
        try:
            await self._answer(own, reader, link)
        except Fault as fault:
            logger.warning("a node's request from %s was refused: %s", source, fault.message)
            with contextlib.suppress(Fault):
                await link.send_object("F", refusal(fault))
        except Exception:
            logger.exception("a node's request from %s failed", source)
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), GREETING_SECONDS)

    async def _answer(self, own: Identity, reader: asyncio.StreamReader, link: Link) -> None:
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                members = self.cluster.members()
                caller = await _greet(own, members, reader, link)
                frame = await _next(reader, "R", REQUEST_LIMIT)
                request = read_request(frame.payload)
        except TimeoutError:
            raise Invalid("the other node said nothing in time") from None
        if request.get("do") == "describe":
            await link.send_object("A", {})
            await link.send("O", (await self.runner.executor.allowed()).encode())
            await link.send_object("X", {"code": 0})
            return
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
        try:
            if call.effect > Effect.READ:
                self.audit.opened(call)
            yield call
            call.close("ok")
        except Fault as fault:
            call.close(fault.code, str(fault))
            raise
        except asyncio.CancelledError:
            call.close("cancelled", "the service stopped")
            raise
        except Exception:
            logger.exception("call %s: %s failed", call.id, call.tool)
            call.close(Internal.code, "see the journal")
            raise Internal(f"the service's journal has it as call {call.id}") from None
        finally:
            self.audit.record(call)

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
                await self._pass(owner, reader, inner, down)
                if down.cancelled():
                    call.close("cancelled", "the other node ended it, or has gone")
                    return None
                return _noted(call, down.result())
            finally:
                inner.close()
        finally:
            self._busy[owner] -= 1

    async def _begin(self, host: Host, call: Call, request: Mapping[str, Any]) -> Link:
        if request.get("name") != GUEST:
            label = f"host/{request.get('profile') or request.get('name')}"
            return await host.open(request, effect=call.effect, label=label)
        params = request.get("params")
        vmid = params.get("vmid") if isinstance(params, dict) else None
        if type(vmid) is not int:
            raise Invalid("vmid is no number")
        needs = READING if call.effect is Effect.READ else WRITING
        await container.require(self.pve.bind(call), vmid, needs)
        return await host.open(request, effect=call.effect, label=f"lxc/{vmid}", guarded=False)

    async def _pass(
        self,
        owner: str,
        reader: asyncio.StreamReader,
        inner: Link,
        down: asyncio.Task[Frame | None],
    ) -> None:
        """Pass frames between the caller and the command until either ends, or the client does."""
        up = asyncio.create_task(_up(reader, inner))
        watching = asyncio.create_task(self._until_revoked(owner))
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

    async def _until_revoked(self, owner: str) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._client(owner)


async def _greet(own: Identity, members: Members, reader: asyncio.StreamReader, link: Link) -> str:
    """Challenge the caller; return which node it is. Raises Denied, Invalid."""
    nonce = secrets.token_bytes(NONCE)
    await link.send_object("N", Challenge(members.own, nonce).encoded())
    hello = Hello.read((await _next(reader, "H", GREETING_LIMIT)).payload)
    if not OLDEST <= hello.version <= VERSION:
        raise Invalid(f"version {hello.version} is not spoken here", hint="Update the package.")
    if hello.to != members.own:
        raise Denied(f"this is {members.own}, not {hello.to}", hint="See /etc/pve/.members.")
    if hello.node not in members.others():
        raise Denied(f"{hello.node} is not another node of this cluster", hint="See pvecm status.")
    identity.check(
        own, hello.certificate, hello.proof, name=hello.node, to=members.own, nonce=nonce
    )
    return hello.node


async def _next(reader: asyncio.StreamReader, kind: str, most: int) -> Frame:
    frame = await read_frame(reader, kind, most)
    if frame is None:
        raise Unavailable("the other node hung up")
    return frame


def effect_of(request: Mapping[str, Any]) -> Effect:
    """Return the effect of a request, whatever its sender thinks of it. Raises Invalid."""
    match request.get("do"):
        case "run" | "job":
            found = EFFECTS.get(str(request.get("profile")))
        case "operation" if request.get("name") == GUEST:
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


def _end(listening: socket.socket | None, accepting: asyncio.Task[None] | None) -> None:
    if accepting is not None:
        accepting.cancel()
    if listening is not None:
        listening.close()
