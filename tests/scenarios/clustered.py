"""Nodes of a cluster in one process: each a service with a store, a door and loopback address.

Their certificates are made as Proxmox VE makes them; the mirror is a folder for each. PVE is one
simulated cluster, and commands run unboxed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import ipaddress
import json
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from mcp import Client

from pvemcp.access.approvals import Approvals
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grant, Grants, fresh_grant
from pvemcp.access.held import held
from pvemcp.access.policy import Open, permit
from pvemcp.access.refusals import REFUSED, Refusals
from pvemcp.access.shared import SharedClient as SharedFileClient
from pvemcp.access.shared import SharedClients, take_over
from pvemcp.access.told import Told
from pvemcp.approving import Gate
from pvemcp.audit import Audit, Entry
from pvemcp.call import ApiToken, Effect, Principal
from pvemcp.gating import cutting
from pvemcp.host.cluster import Cluster
from pvemcp.host.runner import Runner
from pvemcp.masking import Masker
from pvemcp.peers.door import PeerDoor
from pvemcp.peers.hearing import Hearing
from pvemcp.peers.requests import Client as SharedClient
from pvemcp.peers.requests import Requests
from pvemcp.peers.spread import Spread
from pvemcp.pve.client import PveClient
from pvemcp.running import Rights, elsewhere
from pvemcp.server import Service, build
from pvemcp.sim.http import serve
from pvemcp.sim.world import World, make_world
from pvemcp.store import Store
from tests.scenarios.rig import Caller, journaled
from tests.scenarios.unboxed import Unboxed

EXAMPLE = ("pve1", "pve2", "pve3")


@functools.cache
def key(_: str) -> rsa.RSAPrivateKey:
    """Return the key of somebody, the same in all tests: making one takes a while."""
    return rsa.generate_private_key(65537, 2048)


@dataclass(frozen=True)
class Authority:
    """A cluster's authority."""

    name: str = "cluster"

    @functools.cached_property
    def subject(self) -> x509.Name:
        """Return what it calls itself."""
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"PVE {self.name}")])

    def certificate(self) -> bytes:
        """Return its own certificate."""
        return self._sign(self.subject, key(self.name), [x509.BasicConstraints(True, None)])

    def issue(
        self,
        node: str,
        *,
        of: str = "",
        names: tuple[str, ...] = (),
        addresses: tuple[str, ...] = (),
        days: int = 730,
        issuer: Authority | None = None,
    ) -> bytes:
        """Return a node's certificate, as PVE makes them: for servers only.

        `of` is whose key it is for, `issuer` who is said to have signed it.
        """
        places = ("127.0.0.1", "::1", *addresses)
        ips = [x509.IPAddress(ipaddress.ip_address(each)) for each in places]
        dns = [x509.DNSName(each) for each in (names or ("localhost", node))]
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        extensions: list[x509.ExtensionType] = [
            x509.BasicConstraints(False, None),
            usage,
            x509.SubjectAlternativeName([*ips, *dns]),
        ]
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{node}.lan")])
        return self._sign(subject, key(of or node), extensions, days=days, issuer=issuer)

    def _sign(
        self,
        subject: x509.Name,
        of: rsa.RSAPrivateKey,
        extensions: list[x509.ExtensionType],
        *,
        days: int = 3650,
        issuer: Authority | None = None,
    ) -> bytes:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name((issuer or self).subject)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=800))
            .not_valid_after(now + timedelta(days=days))
        )
        for extension in extensions:
            made = made.add_extension(extension, critical=False)
        return made.sign(key(self.name), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(of: str) -> bytes:
    """Return somebody's key as PVE writes it."""
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    return key(of).private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())


def put(path: Path, content: bytes) -> None:
    """Write a file as the mirror does: whole, by a rename."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.rename(path)


@dataclass
class Node:
    """One node: its mirror, its service, and the door."""

    name: str
    address: str
    folder: Path
    store: Store
    pve: PveClient
    executor: Unboxed
    port: int
    journal: StringIO = field(default_factory=StringIO)
    work: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mirror = self.folder / "mirror"
        self.mirror.mkdir()
        self.grants = Grants(self.store)
        secrets = held(self.store)
        self.cluster = Cluster(self.mirror, self.port)
        self.audited = Audit(self.store, self.journal, secrets.known)
        self.freezes = Freezes(self.store, event=self.audited.event)
        self.told = Told(self.store)
        self.spread = Spread(self.cluster, self.freezes, self.told)
        self.policy = Open(freezes=self.freezes)
        self.pve.permit = self.policy.permit
        self.runner = Runner(
            self.executor,
            self.policy.permit,
            Rights(self.pve).require,
            lambda: Masker(secrets),
            elsewhere(self.cluster),
        )
        self.runner.stops = self.policy.stops
        hearing = Hearing(self.freezes)
        requests = Requests(self.runner, self.pve, self.audited, self._client, hearing)
        refusals = Refusals(self.audited.event, time.monotonic)
        self.door = PeerDoor(self.cluster, requests, refusals.note)
        self.secrets = secrets

    def start(self) -> None:
        """Open the door, and look after the freezes."""
        works = (self.door.run(), cutting(self.runner, self.policy, self.grants))
        self.work = [asyncio.create_task(each) for each in works]

    async def stop(self) -> None:
        """Close the door."""
        for task in self.work:
            task.cancel()
        await asyncio.gather(*self.work, return_exceptions=True)

    def _client(self, id_: str) -> SharedClient | None:
        found = self.grants.shared(id_)
        return (found.name, found.ceiling, found.token) if found and found.token else None

    def audit(self) -> list[Entry]:
        """Return the audit, oldest first."""
        return Audit(self.store, None).rows(limit=1000)

    def refused(self) -> list[tuple[str, str]]:
        """Return what the audit says of who was turned away: reason and address."""
        events = (one for one in self.audited.events() if one.kind == REFUSED)
        return [(one.about["reason"], one.about["address"]) for one in events]

    @contextlib.asynccontextmanager
    async def client(self, grant: Grant) -> AsyncIterator[Caller]:
        """Connect an MCP client that has passed the door of this node with a grant."""
        assert grant.token is not None
        principal = Principal(grant.name, grant.ceiling, grant.token, grant.id)
        service = Service(
            self.pve,
            self.runner,
            self.audited,
            lambda _: principal,
            self.secrets.answer,
            Gate(self.policy, Approvals(self.store), b"k" * 32, journaled(self.store)),
            b"s" * 32,
        )
        async with Client(build(service)[0], mode="2026-07-28") as mcp:
            yield Caller(mcp)


@dataclass
class Nodes:
    """The cluster."""

    world: World
    port: int
    by_name: dict[str, Node]
    authority: Authority

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def members(self, *, offline: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> None:
        """Show every node which nodes there are."""
        listed = {
            node.name: {"id": number, "online": int(node.name not in offline), "ip": node.address}
            for number, node in enumerate(self.by_name.values(), 1)
            if node.name not in without
        }
        for node in self.by_name.values():
            found = {"nodename": node.name, "version": 5, "nodelist": listed}
            put(node.mirror / "members.json", json.dumps(found).encode())

    def share(
        self,
        name: str = "laptop",
        *,
        ceiling: Effect = Effect.DESTROY,
        token: tuple[str, str] | None = None,
        on: tuple[str, ...] = (),
    ) -> Grant:
        """Make a client that all nodes know, or those `on`."""
        grant = fresh_grant(
            name, ceiling, expires=None, token=ApiToken(*(token or self.world.token())), now=1.0
        )
        for each in on or tuple(self.by_name):
            self.learn(each, grant)
        return grant

    def learn(self, node: str, grant: Grant) -> None:
        """Let a node take a client over."""
        assert grant.token is not None
        client = SharedFileClient(
            id=grant.id,
            name=grant.name,
            hash=hashlib.sha256(grant.id.encode()).hexdigest(),
            ceiling=str(grant.ceiling),
            created=1.0,
            token_id=grant.token.id,
            token_secret=grant.token.secret,
        )
        take_over(self[node].store, SharedClients(1, (client,)))

    async def listening(self, name: str) -> None:
        """Wait until a node's door is open."""
        async with asyncio.timeout(10):
            while True:
                with socket.socket() as probe:
                    probe.bind((self[name].address, 0))
                    if probe.connect_ex((self[name].address, self.port)) == 0:
                        return
                await asyncio.sleep(0)


def free_port(nodes: int) -> int:
    """Return a port that is free at the addresses of all nodes, and that no connection gets.

    One that the kernel gives to connections could be taken again before each node listens.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    while True:
        port = random.randrange(first // 2, first)  # noqa: S311 - no secret
        try:
            for number in range(1, nodes + 1):
                with socket.socket() as probe:
                    probe.bind((f"127.0.0.{number}", port))
        except OSError:
            continue
        return port


@contextlib.asynccontextmanager
async def nodes(
    names: tuple[str, ...] = EXAMPLE[:2],
    *,
    certificates: Callable[[Authority, str], bytes] = Authority.issue,
) -> AsyncIterator[Nodes]:
    """Start the nodes of a cluster, whose doors are open. `certificates` gives each its own."""
    authority, world = Authority(), make_world("cluster")
    port = free_port(len(names))
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pvemcp-test-")))
        uds = str(folder / "pve.sock")
        await stack.enter_async_context(serve(world, uds=uds, tls=False))
        made: dict[str, Node] = {}
        for number, name in enumerate(names, 1):
            own = folder / name
            own.mkdir()
            store = stack.enter_context(Store(own / "state"))
            client = PveClient(
                "https://localhost:8006", socket=uds, permit=permit, cache_dir=own / "state"
            )
            pve = await stack.enter_async_context(client)
            executor = Unboxed(name)
            stack.push_async_callback(executor.close)
            node = Node(name, f"127.0.0.{number}", own, store, pve, executor, port)
            put(node.mirror / "ca.crt", authority.certificate())
            put(node.mirror / "peer.crt", certificates(authority, name))
            put(node.mirror / "peer.key", pem(name))
            made[name] = node
        found = Nodes(world, port, made, authority)
        found.members()
        for node in made.values():
            node.start()
            stack.push_async_callback(node.stop)
            stack.push_async_callback(node.runner.shells.close_all)
        for name in names:
            await found.listening(name)
        yield found


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is not one that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
