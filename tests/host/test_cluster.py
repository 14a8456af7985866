"""Two nodes of a cluster, as far as machines without Proxmox VE can be.

pmxcfs is not available: each machine has a folder for /etc/pve, and the test copies what pmxcfs
would replicate. The certificates are made as its authority makes them, the list of nodes is written
by hand, and both work the same simulated PVE.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.host import needs, network
from tests.host.images import HostFault, Suite
from tests.host.install import install
from tests.host.machine import Machine
from tests.host.served import SECRET, said_by, simulate
from tests.host.waiting import until
from tests.scenarios.clustered import Authority, pem
from tests.scenarios.rig import ERAS, Caller, ToolFault

CABLE = IPv4Network("198.51.100.0/29")
WITHIN = 5.0
"""Seconds in which a change of the clients counts on every node."""
CLIENTS = "/etc/pve/priv/pvemcp/clients.json"
PASSWORD_FILE = "/root/admin-password"
AUTHORITY = Authority()
KNOWN = {400, 405, 406}
"""How MCP answers a bare GET of somebody who is let in."""


@dataclass(frozen=True)
class Node:
    """A machine that is a node."""

    machine: Machine
    address: str
    """In the cluster's network."""

    @property
    def name(self) -> str:
        return self.machine.name

    def status(self, secret: str) -> int:
        """Ask the service something small; return the HTTP status, 0 when nothing listens."""
        with httpx2.Client(verify=self._verify(), timeout=30) as http:
            url = f"https://{self.machine.address}:8080/mcp"
            try:
                answer = http.get(url, headers={"Authorization": f"Bearer {secret}"})
            except httpx2.TransportError:
                return 0
        assert answer.status_code in KNOWN | {401, 429}, answer.text
        return answer.status_code

    def knows(self, secret: str) -> bool:
        """Whether the service lets a client in."""
        return self.status(secret) in KNOWN

    def _verify(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=AUTHORITY.certificate().decode())

    @asynccontextmanager
    async def client(self, secret: str) -> AsyncIterator[Caller]:
        """Connect an MCP client from here."""
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx2.AsyncClient(headers=headers, verify=self._verify(), timeout=60) as http:
            url = f"https://{self.machine.address}:8080/mcp"
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=ERAS[-1]) as mcp:
                yield Caller(mcp)


@dataclass(frozen=True)
class Place:
    """The cluster."""

    a: Node
    b: Node
    pve: dict[str, str]

    def pvemcp(self, *words: str) -> str:
        """Run a command as root of the first node, with the login of PVE's administrator."""
        login = ["--pve-url", self.pve["url"], "--pve-fingerprint", self.pve["pin"]]
        login += ["--admin", "root@pam", "--admin-password-file", PASSWORD_FILE]
        return self.a.machine.run(["pvemcp", *words, *login], timeout=60).stdout

    def replicate(self) -> float:
        """Do what pmxcfs does to the clients' file; return when that was done."""
        there = self.b.machine.root / CLIENTS.lstrip("/")
        content = (self.a.machine.root / CLIENTS.lstrip("/")).read_bytes()
        there.parent.mkdir(mode=0o700, exist_ok=True)
        new = there.with_suffix(".new")
        new.write_bytes(content)
        new.replace(there)
        return time.monotonic()

    def add(self, name: str, role: str) -> str:
        """Make a client on the first node; return its secret."""
        [secret] = set(SECRET.findall(self.pvemcp("client", "add", name, "--role", role)))
        return str(secret)


@pytest.fixture(scope="module")
def place(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two machines on one cable, set up as nodes of a cluster."""
    if reason := needs.once(suite, "trixie"):
        pytest.skip(reason)
    with (
        Machine.create(suite, tmp_path_factory.mktemp(f"{suite}-a")) as one,
        Machine.create(suite, tmp_path_factory.mktemp(f"{suite}-b")) as two,
    ):
        nodes = []
        for machine, address in ((one, network.ours(CABLE)), (two, network.theirs(CABLE))):
            machine.boot()
            machine.run(["hostname", machine.name])
            nodes.append(Node(machine, str(address)))
        network.join(one.leader, two.leader, CABLE)
        for node in nodes:
            install(node.machine)
            _pmxcfs(node, nodes)
        pve = simulate(one, nodes[0].address)
        place = Place(nodes[0], nodes[1], pve)
        for node in nodes:
            _set_up(node, pve)
        place.pvemcp("setup", "--yes", "--client", "first")
        place.replicate()
        _start(place.b, place.a)
        for node in nodes:
            _until_served(node)
        yield place


def _pmxcfs(node: Node, nodes: list[Node]) -> None:
    machine = node.machine
    listed = {
        each.name: {"id": number, "online": 1, "ip": each.address}
        for number, each in enumerate(nodes, 1)
    }
    members = {"nodename": node.name, "version": 3, "nodelist": listed}
    machine.run(["install", "-d", *(f"/etc/pve/nodes/{each.name}" for each in nodes)])
    machine.run(["install", "-d", "-m", "0700", "/etc/pve/priv", "/etc/pve/priv/lock"])
    machine.run(["install", "-d", "/etc/pve/local"])  # a link, on a node; it shows the quorum
    machine.copy_in(json.dumps(members).encode(), "/etc/pve/.members", mode=0o440)
    machine.copy_in(AUTHORITY.certificate(), "/etc/pve/pve-root-ca.pem", mode=0o640)
    names = (node.name, "localhost")
    certificate = AUTHORITY.issue(node.name, names=names, addresses=(machine.address,))
    machine.copy_in(certificate, "/etc/pve/local/pve-ssl.pem", mode=0o640)
    machine.copy_in(pem(node.name), "/etc/pve/local/pve-ssl.key", mode=0o640)


def _set_up(node: Node, pve: dict[str, str]) -> None:
    node.machine.copy_in(pve["password"].encode(), PASSWORD_FILE, mode=0o600)


def _start(node: Node, like: Node) -> None:
    """Give a node the settings of another, and start what set-up starts."""
    settings = (like.machine.root / "etc/pvemcp/pvemcp.toml").read_text()
    content = settings.replace(like.machine.address, node.machine.address).encode()
    node.machine.copy_in(content, "/etc/pvemcp/pvemcp.toml", mode=0o640, owner="root:pvemcp")
    node.machine.run(["systemctl", "restart", "pvemcp-mirror"])
    node.machine.run(["systemctl", "enable", "--now", "pvemcp"])


def _until_served(node: Node) -> None:
    try:
        until(lambda: node.status("nobody"), "the service", seconds=30)
    except HostFault as fault:
        raise HostFault(f"{fault}\n{said_by(node.machine, 'pvemcp.service')}") from None


async def test_a_client_of_one_node_is_one_of_the_other(place: Place) -> None:
    secret = place.add("laptop", "operator")
    assert place.a.knows(secret)
    since = place.replicate()
    until(lambda: place.b.knows(secret), "the client there", seconds=WITHIN)
    assert time.monotonic() - since < WITHIN
    async with place.b.client(secret) as client:
        assert "guests" in await client.call("inventory_find")

    place.pvemcp("client", "revoke", "laptop")
    assert not place.a.knows(secret)
    since = place.replicate()
    until(lambda: not place.b.knows(secret), "the refusal there", seconds=WITHIN)
    assert time.monotonic() - since < WITHIN


async def test_a_command_passes_from_one_node_to_the_other(place: Place) -> None:
    secret = place.add("worker", "admin")
    place.replicate()
    until(lambda: place.b.knows(secret), "the client there", seconds=WITHIN)
    async with place.a.client(secret) as client:
        text = await client.call("host_run", command="uname -n; id -u", node=place.b.name)
        assert place.b.name in text
        changed = await client.call(
            "host_run", command="echo x > file; pwd", effect="change", node=place.b.name
        )
        assert "exit 0" in changed
        started = await client.call("job_start", command="uname -n; sleep 1", node=place.b.name)
        [job] = set(re.findall(rf"{place.b.name}/pvemcp-job-[0-9a-f]+", started))
        read = await client.call("job_read", job=job, wait=10)
        assert place.b.name in read
        shell = (await client.call("shell_open", node=place.b.name)).split()[0]
        assert place.b.name in await client.call("shell_send", shell=shell, text="uname -n")
        await client.call("shell_close", shell=shell)
        assert place.b.name in await client.call(
            "host_diagnose", operation="uptime", node=place.b.name
        )
    async with place.b.client(secret) as client:
        assert place.a.name in await client.call("host_run", command="uname -n", node=place.a.name)
    assert f'"address":"node {place.a.name}"' in said_by(place.b.machine, "pvemcp.service")
    doctor = place.a.machine.run(["pvemcp", "doctor"], check=False, timeout=60).stdout
    assert re.search(rf"node {place.b.name}.*takes commands", doctor), doctor


def test_a_stranger_on_the_cable_gets_no_word(place: Place) -> None:
    machine = place.b.machine
    machine.run(["ip", "addr", "add", "198.51.100.5/29", "dev", "cluster0"])
    ask = (
        "import socket; s = socket.create_connection(('198.51.100.1', 8081), 5, "
        "('198.51.100.5', 0)); s.sendall(b'\\x16\\x03\\x01'); print(s.recv(100))"
    )
    tried = machine.run(["python3", "-c", ask], check=False)
    assert tried.stdout == "b''\n" or "ConnectionResetError" in tried.stderr
    machine.run(["ip", "addr", "del", "198.51.100.5/29", "dev", "cluster0"])


def test_nothing_is_written_without_a_quorum(place: Place) -> None:
    machine = place.a.machine
    before = machine.run(["cat", CLIENTS]).stdout
    machine.run(["chmod", "0555", "/etc/pve/local"])
    machine.run(["mount", "-o", "bind", "/etc/pve/priv", "/etc/pve/priv"])
    machine.run(["mount", "-o", "remount,ro,bind", "/etc/pve/priv"])
    try:
        login = ["--pve-url", place.pve["url"], "--pve-fingerprint", place.pve["pin"]]
        login += ["--admin", "root@pam", "--admin-password-file", PASSWORD_FILE]
        tried = machine.run(["pvemcp", "client", "revoke", "first", *login], check=False)
        assert tried.code != 0
        assert "the cluster has no quorum" in tried.stderr
        assert "go on working" in tried.stderr
    finally:
        machine.run(["umount", "/etc/pve/priv"])
        machine.run(["chmod", "0755", "/etc/pve/local"])
    assert machine.run(["cat", CLIENTS]).stdout == before


async def test_a_lost_node_loses_nobody(place: Place) -> None:
    secret = place.add("survivor", "operator")
    place.replicate()
    until(lambda: place.b.knows(secret), "the client there", seconds=WITHIN)
    place.b.machine.run(["systemctl", "stop", "pvemcp-mirror"])
    place.b.machine.run(["rm", "-rf", "/etc/pve/priv/pvemcp"])
    place.b.machine.run(["systemctl", "kill", "--signal=KILL", "pvemcp"])
    until(lambda: place.b.knows(secret), "the service anew", seconds=20)
    place.a.machine.run(["systemctl", "stop", "pvemcp"])
    async with place.b.client(secret) as client:
        assert "exit 0" in await client.call("host_run", command="true")
        with pytest.raises(ToolFault, match="nothing listens"):
            await client.call("host_run", command="true", node=place.a.name)
