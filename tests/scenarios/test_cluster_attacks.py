"""Who attacks the door between nodes from the cluster's network gets nothing carried out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pvemcp.call import Effect
from pvemcp.errors import Denied, Fault, Missing
from pvemcp.host import identity
from pvemcp.host.frames import HEADER, Link, fault_of, read_frame
from pvemcp.host.greeting import Challenge, Hello
from tests.scenarios.clustered import Authority, Node, Nodes, key, nodes, pem, put
from tests.scenarios.rig import ToolFault
from tests.scenarios.unboxed import Unboxed

STRANGER = Authority("stranger")
COMMAND = {"do": "run", "profile": "read", "shell": "true", "timeout": 10, "call": "0" * 16}


@dataclass(frozen=True)
class Attack:
    """How somebody presents himself to pve2."""

    certificate: bytes
    """In PEM."""
    signed_by: str = "pve1"
    """Whose key he has."""
    name: str = "pve1"
    to: str = "pve2"
    nonce: bytes | None = None
    """None: the one of the challenge."""
    server: bytes | None = None
    """The certificate (DER) that he signs; None: the one of pve2."""
    source: str = "127.0.0.1"
    version: int = 1


def der(certificate: bytes) -> bytes:
    """Return a certificate in DER."""
    return ssl.PEM_cert_to_DER_cert(certificate.decode())


@contextlib.asynccontextmanager
async def connected(n: Nodes, source: str) -> AsyncIterator[tuple[asyncio.StreamReader, Link]]:
    """Connect to pve2 from an address."""
    tls = ssl.create_default_context(cadata=n.authority.certificate().decode())
    node = n["pve2"]
    reader, writer = await asyncio.open_connection(
        node.address, n.port, ssl=tls, server_hostname="pve2", local_addr=(source, 0)
    )
    try:
        yield reader, Link(reader, writer)
    finally:
        writer.transport.abort()


async def said(n: Nodes, attack: Attack, request: Mapping[str, Any]) -> Fault | None:
    """Return how pve2 refuses; None when it begins the command."""
    async with connected(n, attack.source) as (reader, link):
        frame = await read_frame(reader, "N")
        assert frame is not None
        nonce = Challenge.read(frame.payload).nonce if attack.nonce is None else attack.nonce
        own = n["pve1"].cluster.identity()
        proof = identity.proof(
            replace(own, key=key(attack.signed_by)),
            own=attack.name,
            to=attack.to,
            nonce=nonce,
            server=attack.server or der(n.authority.issue("pve2")),
        )
        hello = Hello(attack.name, attack.to, der(attack.certificate), proof, attack.version)
        await link.send_object("H", hello.encoded())
        await link.send_object("R", request)
        answer = await read_frame(reader, "AF")
        assert answer is not None
        if answer.kind == "F":
            return fault_of(answer.payload)
        if request["do"] == "freezes":
            assert await read_frame(reader, "O")
        return None


OWN = Authority()
ATTACKS: Mapping[str, tuple[Attack, str]] = {
    "a certificate of another authority": (
        Attack(STRANGER.issue("pve1")),
        "not one of this cluster's authority",
    ),
    "one that calls itself like this authority": (
        Attack(Authority("forged").issue("pve1", issuer=OWN)),
        "did not sign it",
    ),
    "another node's name": (Attack(OWN.issue("pve1"), name="pve3"), "not the certificate of pve3"),
    "a certificate that names another node": (
        Attack(OWN.issue("other"), signed_by="other"),
        "not the certificate of pve1",
    ),
    "a certificate without its key": (
        Attack(OWN.issue("pve1"), signed_by="other"),
        "its key is not there",
    ),
    "the authority's own certificate": (Attack(OWN.certificate()), "certificate of pve1"),
    "a certificate that has expired": (Attack(OWN.issue("pve1", days=-1)), "it has expired"),
    "an old proof": (Attack(OWN.issue("pve1"), nonce=b"x" * 32), "its key is not there"),
    "a proof for another node": (Attack(OWN.issue("pve1"), to="pve3"), "this is pve2, not pve3"),
    "a proof that another node was given": (
        Attack(OWN.issue("pve1"), server=der(OWN.issue("pve3"))),
        "its key is not there",
    ),
    "a node that was removed": (
        Attack(OWN.issue("gone"), signed_by="gone", name="gone"),
        "gone is not another node",
    ),
    "the node itself": (
        Attack(OWN.issue("pve2"), signed_by="pve2", name="pve2"),
        "pve2 is not another node",
    ),
    "the name that all certificates have": (
        Attack(OWN.issue("pve1"), name="localhost"),
        "localhost is not another node",
    ),
    "another version": (Attack(OWN.issue("pve1"), version=0), "version 0 is not spoken here"),
}


async def test_who_cannot_prove_to_be_a_node_gets_nothing_carried_out() -> None:
    async with nodes(("pve1", "pve2", "pve3")) as n:
        request = {**COMMAND, "owner": n.share().id}
        issued = n["pve2"].cluster.identity().certificate
        for what, (attack, refusal) in ATTACKS.items():
            server = attack.server or issued
            fault = await said(n, replace(attack, server=server), request)
            assert fault is not None, what
            assert re.search(refusal, fault.message), (what, fault.message)
        assert n["pve2"].executor.asked == []
        good = Attack(n.authority.issue("pve1"), server=issued)
        assert await said(n, good, request) is None
        assert len(n["pve2"].executor.asked) == 1


async def test_who_is_no_node_is_hung_up_on_before_a_word() -> None:
    async with nodes() as n:
        with pytest.raises((ConnectionError, ssl.SSLError)):
            async with connected(n, "127.0.0.9"):
                pass


async def test_a_client_of_tls_alone_learns_and_starts_nothing() -> None:
    async with nodes() as n:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5, HEADER.pack(b"H", 1 << 30)):
            async with connected(n, "127.0.0.1") as (reader, link):
                link._writer.write(garbage)
                frame = await read_frame(reader, "N")
                assert frame is not None
                assert json.loads(frame.payload).keys() == Challenge("x", b"").encoded().keys()
                answer = await read_frame(reader, "F")
                assert answer is not None
        for hello in ("[]", "[" * 10_000, '{"node": "pve1"}', '{"node": "../x", "to": "pve2"}'):
            async with connected(n, "127.0.0.1") as (reader, link):
                await link.send("H", hello.encode())
                assert await read_frame(reader, "N")
                assert await read_frame(reader, "F")
        assert n["pve2"].executor.asked == []


REQUESTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "nobody's": ({}, "not one that the whole cluster shares"),
    "a ceiling too low": ({"profile": "change"}, "has the ceiling read"),
    "root": ({"profile": "root"}, "has the ceiling read"),
    "no profile": ({"profile": None}, "unknown request"),
    "an unknown profile": ({"profile": "guest"}, "unknown request"),
    "an unknown request": ({"do": "keep"}, "unknown request"),
    "a job that changes": ({"do": "job", "profile": "change"}, "has the ceiling read"),
    "a container's shell": (
        {"do": "operation", "name": "guest-exec", "params": {"vmid": 101, "argv": ["reboot"]}},
        "has the ceiling read",
    ),
    "a container's shell that is said to read": (
        {
            "do": "operation",
            "name": "guest-exec",
            "params": {"vmid": 101, "argv": ["/bin/sh", "-c", "reboot"]},
            "reads": ["/etc/hostname", 0, 10],
            "effect": "read",
        },
        "has the ceiling read",
    ),
    "a shell in the id of a call": (
        {
            "do": "operation",
            "name": "guest-exec",
            "params": {"vmid": 101, "argv": ["/bin/sh", "-c", "x"]},
            "call": "x; reboot #",
        },
        "has the ceiling read",
    ),
}


async def test_a_node_that_lies_about_its_clients_gets_no_more_than_they_may() -> None:
    async with nodes() as n:
        reader = n.share(ceiling=Effect.READ)
        attack = Attack(n.authority.issue("pve1"), server=n["pve2"].cluster.identity().certificate)
        for what, (changes, refusal) in REQUESTS.items():
            owner = reader.id if changes else "0123456789abcdef"
            fault = await said(n, attack, {**COMMAND, "owner": owner, **changes})
            assert fault is not None, what
            assert refusal in fault.message, (what, fault.message)
        assert n["pve2"].executor.asked == []
        assert {entry.address for entry in n["pve2"].audit()} == {"node pve1"}


@pytest.mark.parametrize("ceiling", [Effect.READ, Effect.DESTROY])
async def test_a_node_that_lies_has_nothing_done_that_only_the_service_here_asks_for(
    ceiling: Effect,
) -> None:
    change = {"change": "ch-0123456789"}
    asked: dict[str, dict[str, Any]] = {
        "commit-begin": {**change, "seconds": 1, "kind": "network"},
        "commit-confirm": change,
        "commit-state": change,
        "root-run": {"approval": "ap-0123456789"},
        "alert-mail": {},
        "describe": {},
    }
    async with nodes() as n:
        owner = n.share(ceiling=ceiling).id
        attack = Attack(n.authority.issue("pve1"), server=n["pve2"].cluster.identity().certificate)
        for name, params in asked.items():
            request = {"do": "operation", "name": name, "params": params, "timeout": 10}
            fault = await said(n, attack, {**COMMAND, **request, "owner": owner})
            assert isinstance(fault, Denied), name
        assert n["pve2"].executor.asked == []


class WithJob(Unboxed):
    """A node on which a job of somebody's is."""

    owner = "somebody"

    def _spec(self, config: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        assert config["operations"]
        row: dict[str, Any] = {"job": JOB, "owner": self.owner, "title": "t", "profile": "read"}
        row |= {"running": True, "started": 0, "size": 0, "changed": 0}
        told = json.dumps([row] if request["name"] == "job-list" else {**row, "from": 0})
        return {"timeout": 10, "output": 1 << 20, "env": {}, "argv": ["echo", told]}


JOB = "pvemcp-job-0123456789abcdef"


async def test_a_node_that_lies_reaches_the_jobs_of_the_client_that_it_names_alone() -> None:
    async with nodes() as n:
        grant = n.share()
        there = n["pve2"].runner.executor = WithJob("pve2")
        issued = n["pve2"].cluster.identity().certificate
        attack = Attack(n.authority.issue("pve1"), server=issued)
        asked = {"do": "operation", "owner": grant.id, "timeout": 10}
        for name in ("job-read", "job-stop"):
            params = {"job": JOB} | ({"cursor": 0} if name == "job-read" else {})
            fault = await said(n, attack, {**asked, "name": name, "params": params})
            assert isinstance(fault, Missing), name
        assert {request["name"] for request in there.asked} == {"job-read"}
        async with n["pve1"].client(grant) as client:
            assert await client.call("job_list", node="pve2") == "no jobs"
            there.owner = grant.id
            assert f"pve2/{JOB}" in await client.call("job_list", node="pve2")
        await there.close()


def impersonated(authority: Authority, node: str) -> bytes:
    """Return pve2's certificate as somebody else would have it."""
    return STRANGER.issue(node) if node == "pve2" else authority.issue(node)


def misnamed(authority: Authority, node: str) -> bytes:
    """Return for pve2 a good certificate of another node."""
    return authority.issue(node, names=("localhost", "pve3") if node == "pve2" else ())


@pytest.mark.parametrize(
    ("certificates", "problem"),
    [(impersonated, "unable to get local issuer"), (misnamed, "Hostname mismatch")],
)
async def test_what_answers_in_a_nodes_place_is_told_nothing(
    certificates: Any, problem: str
) -> None:
    async with nodes(certificates=certificates) as n, n["pve1"].client(n.share()) as client:
        with pytest.raises(ToolFault, match=f"(?s)pve2.*not its: {problem}.*pvecm updatecerts"):
            await client.call("host_run", command="true", node="pve2")
        assert n["pve2"].executor.asked == []


async def test_a_renewed_certificate_counts_from_the_next_connection_on() -> None:
    async with nodes() as n, n["pve1"].client(n.share()) as client:
        put(n["pve2"].mirror / "peer.crt", STRANGER.issue("pve2"))
        with pytest.raises(ToolFault, match="certificate that is not its"):
            await client.call("host_run", command="true", node="pve2")
        renew(n["pve2"], n.authority)
        assert "exit 0" in await client.call("host_run", command="true", node="pve2")


def renew(node: Node, authority: Authority) -> None:
    """Give a node another key and certificate."""
    put(node.mirror / "peer.key", pem("renewed"))
    put(node.mirror / "peer.crt", authority.issue(node.name, of="renewed"))
