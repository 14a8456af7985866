"""Commands on another node of the cluster: by the pvemcp there, which has its own say in it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from pvemcp.errors import Fault, Misconfigured, Unavailable
from pvemcp.host import identity
from pvemcp.host.cluster import Cluster
from pvemcp.host.ended import output_of
from pvemcp.host.frames import Frame, Link, Reader, fault_of, read_frame
from pvemcp.host.greeting import GREETING_LIMIT, OLDEST, Challenge, Hello, keep_alive
from pvemcp.host.members import Address

CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
"""Until the other node says yes or no; it asks PVE first."""


class PeerLink(Link):
    """A command on another node. Closing it ends the command there."""

    def __init__(self, node: str, reader: Reader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._node = node
        self._transport = writer.transport
        self._over = False

    async def receive(self) -> Frame | None:
        """Return the next frame; raises Unavailable when the connection broke before the end."""
        if self._over:
            return None
        frame = await read_frame(self._reader, "BOeXAFZ")
        if frame is None and not self._over:
            raise Unavailable(
                f"the connection to {self._node} broke off; without it, the command ends there",
                hint="Look at what it has done before you repeat it. See cluster_overview.",
            )
        if frame is not None and frame.kind == "F":
            raise from_node(self._node, fault_of(frame.payload))
        self._over = frame is None or frame.kind in "XZ"
        return None if frame is None or frame.kind == "Z" else frame

    def close(self) -> None:
        """End the command now, also when the other node takes nothing any more."""
        self._over = True
        self._transport.abort()


class Peer:
    """Runs commands by the pvemcp of another node."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self.node = node
        self.place = node

    async def ready(self) -> None:
        """Raise Missing or Unavailable for a node that cannot be there."""
        self._cluster.members().reachable(self.node)

    async def open(
        self, request: Mapping[str, Any], *, needs: int = OLDEST, offline: bool = False
    ) -> Link:
        """Call the node, prove who calls, and send the request. Raises a Fault that names it.

        `needs` is the version of the frames from which on a node knows such a request. With
        `offline` it calls a node that the cluster does not see, too: it may be up all the same.
        """
        members, own = self._cluster.members(), self._cluster.identity()
        address = members.reachable(self.node, offline=offline)
        reader, writer = await self._connect(own, address, members.address(members.own))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                link = PeerLink(self.node, reader, writer)
                challenge = await self._challenge(reader)
                hello = self._hello(own, members.own, challenge, writer)
                if challenge.version < needs:
                    raise self._too_old(challenge)
                await link.send_object("H", hello.encoded())
                await link.send_object("R", request)
                if (answer := await link.receive()) is None or answer.kind != "A":
                    raise Unavailable(f"{self.node} did not answer", hint=self._journal())
                return link
        except TimeoutError:
            writer.transport.abort()
            raise Unavailable(
                f"{self.node} did not answer within {ANSWER_SECONDS} s", hint=self._journal()
            ) from None
        except BaseException:
            writer.transport.abort()
            raise

    async def allowed(self) -> str:
        """Return exec.toml as that node has it."""
        return await output_of(await self.open({"do": "describe"}), "a look at exec.toml")

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _connect(
        self, own: identity.Identity, address: Address, source: Address | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await asyncio.open_connection(
                    str(address),
                    self._cluster.port,
                    ssl=own.client,
                    server_hostname=self.node,
                    # There, only the nodes' own addresses are listened to.
                    local_addr=(str(source), 0) if source else None,
                )
        except ssl.SSLCertVerificationError as error:
            raise Misconfigured(
                f"what answers at {address} for {self.node} has a certificate that is not its: "
                f"{error.verify_message}",
                hint=identity.REPAIR,
            ) from None
        except TimeoutError:
            raise self._unreachable(address, "no answer", self._firewall(source)) from None
        except ConnectionRefusedError:
            there = (
                f"On {self.node}: apt install pvemcp if it is not there; systemctl status pvemcp."
            )
            raise self._unreachable(address, "nothing listens", there) from None
        except ConnectionError:
            known = f"On {self.node}: journalctl -u pvemcp; it may not know {source} as a node."
            raise self._unreachable(address, "it hung up", known) from None
        except OSError as error:  # an ssl.SSLError too
            said = error.strerror or str(error)
            raise self._unreachable(address, said, self._firewall(source)) from None
        keep_alive(connection[1].get_extra_info("socket"))
        return connection

    async def _challenge(self, reader: asyncio.StreamReader) -> Challenge:
        frame = await read_frame(reader, "NF", GREETING_LIMIT)
        if frame is None:
            raise Unavailable(f"{self.node} hung up", hint=self._journal())
        if frame.kind == "F":
            raise from_node(self.node, fault_of(frame.payload))
        return Challenge.read(frame.payload)

    def _hello(
        self, own: identity.Identity, name: str, said: Challenge, writer: asyncio.StreamWriter
    ) -> Hello:
        version = said.agreed()
        theirs: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        proof = identity.proof(own, own=name, to=self.node, nonce=said.nonce, server=theirs)
        return Hello(name, self.node, own.certificate, proof, version)

    def _too_old(self, said: Challenge) -> Misconfigured:
        return Misconfigured(
            f"the pvemcp of {self.node} ({said.pvemcp}) is too old to understand this",
            hint=f"On {self.node}: apt install pvemcp.",
        )

    def _unreachable(self, address: Address, why: str, hint: str) -> Unavailable:
        place = f"{address} port {self._cluster.port}"
        return Unavailable(f"the pvemcp of {self.node} ({place}) is not reached: {why}", hint=hint)

    def _firewall(self, source: Address | None) -> str:
        allow = f"pvemcp firewall allow {source or 'CIDR'}"
        return f"A firewall may be in the way. On {self.node}: {allow}"

    def _journal(self) -> str:
        return f"On {self.node}: journalctl -u pvemcp."


def from_node(node: str, fault: Fault) -> Fault:
    """Return a node's fault with its name in it."""
    return type(fault)(f"{node}: {fault.message}", hint=fault.hint)
