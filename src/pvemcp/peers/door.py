"""The door for other nodes of the cluster: they ask for commands of their clients here.

It listens on this node's own address in the cluster, once there are other nodes, and only their
addresses are let in. The caller proves which node it is (see host/identity.py), and is not believed
more than that: see requests.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from pvemcp.access.replies import TurnedAway, nobody_told
from pvemcp.errors import Conflict, Denied, Fault, Invalid, Unavailable
from pvemcp.host import identity
from pvemcp.host.cluster import Cluster
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
from pvemcp.peers import hearing
from pvemcp.peers.requests import LOOK_EVERY, Requests

logger = logging.getLogger(__name__)

MOST = 192
"""Connections at once."""
GREETING_SECONDS = 10


@dataclass(slots=True)
class PeerDoor:
    """Serves the other nodes: `requests` does what they ask for.

    `turned_away` is told who does not prove to be a node, and whose freezes are refused; a refused
    command is a call in the audit.
    """

    cluster: Cluster
    requests: Requests
    turned_away: TurnedAway = nobody_told
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
            await self._answer(own, source, reader, link)
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

    async def _answer(
        self, own: Identity, source: str, reader: asyncio.StreamReader, link: Link
    ) -> None:
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                members = self.cluster.members()
                with self._noting("foreign_node", source):
                    caller = await _greet(own, members, reader, link)
                frame = await _next(reader, "R", REQUEST_LIMIT)
                request = read_request(frame.payload)
        except TimeoutError:
            raise Invalid("the other node said nothing in time") from None
        noting = self._noting("node_freezes", source)
        with noting if request.get("do") == hearing.DO else contextlib.nullcontext():
            await self.requests.answer(caller, request, reader, link)

    @contextlib.contextmanager
    def _noting(self, reason: str, source: str) -> Iterator[None]:
        try:
            yield
        except (Denied, Invalid, Conflict):
            self.turned_away(reason, source, "")
            raise


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


def _end(listening: socket.socket | None, accepting: asyncio.Task[None] | None) -> None:
    if accepting is not None:
        accepting.cancel()
    if listening is not None:
        listening.close()
