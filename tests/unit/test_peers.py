"""What nodes tell each other, and what is said when a node cannot be reached."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from pathlib import Path

import pytest

from pvemcp.errors import Conflict, Fault, Invalid, Misconfigured, Missing, Unavailable
from pvemcp.host.cluster import Cluster
from pvemcp.host.frames import fault_of, refusal
from pvemcp.host.greeting import OLDEST, VERSION, Challenge, Hello
from pvemcp.host.members import read_members
from pvemcp.host.peer import Peer
from pvemcp.running import elsewhere
from tests.scenarios.clustered import Authority, nodes, pem, put

REQUEST = {"do": "run", "profile": "read", "shell": "true"}


def challenge(**values: int) -> Challenge:
    """Return a challenge as it comes from another version."""
    row = {**Challenge("pve2", b"n" * 32).encoded(), "pvemcp": "9.9", "news": [1], **values}
    return Challenge.read(json.dumps(row).encode())


def test_nodes_of_neighbouring_releases_agree_on_what_both_speak() -> None:
    assert challenge(version=VERSION + 1, oldest=OLDEST).agreed() == VERSION
    assert challenge(version=OLDEST, oldest=OLDEST).agreed() == OLDEST


@pytest.mark.parametrize(
    ("version", "oldest", "place"),
    [(VERSION + 2, VERSION + 1, "here"), (OLDEST - 1, OLDEST - 1, "on pve2")],
)
def test_nodes_too_far_apart_say_which_one_is_to_be_updated(
    version: int, oldest: int, place: str
) -> None:
    with pytest.raises(Misconfigured, match=r"pve2 has pvemcp 9\.9") as caught:
        challenge(version=version, oldest=oldest).agreed()
    assert f"Bring the package {place} up to date" in caught.value.hint


def test_a_hello_comes_back_as_it_was() -> None:
    hello = Hello("pve1", "pve2", b"\0\1", b"\2\3")
    assert Hello.read(json.dumps(hello.encoded()).encode()) == hello


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node", "a/b"),
        ("node", "x" * 64),
        ("to", 1),
        ("version", True),
        ("proof", "%"),
        ("proof", None),
    ],
)
def test_a_hello_that_is_none_is_refused(key: str, value: object) -> None:
    row = {**Hello("pve1", "pve2", b"", b"").encoded(), key: value}
    with pytest.raises(Invalid, match=key):
        Hello.read(json.dumps(row).encode())


@pytest.mark.parametrize("kind", [Invalid, Conflict, Unavailable, Misconfigured])
def test_a_fault_passes_between_nodes(kind: type[Fault]) -> None:
    found = fault_of(json.dumps(refusal(kind("a message", hint="a hint"))).encode())
    assert (type(found), found.message, found.hint) == (kind, "a message", "a hint")


def members(folder: Path, content: object) -> Cluster:
    """Return a cluster whose list of nodes is that."""
    put(folder / "members.json", json.dumps(content).encode())
    return Cluster(folder, 8081)


def test_a_node_alone_has_no_others(tmp_path: Path) -> None:
    alone = members(tmp_path, {"nodename": "pve1", "version": 0})
    assert alone.others() == []
    with pytest.raises(Missing, match="no node pve2") as caught:
        alone.members().reachable("pve2")
    assert "in no cluster" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"nodename": "../pve1"},
        {"nodename": "pve1", "nodelist": []},
        {"nodename": "pve1", "nodelist": {"pve2": {"online": 1, "ip": "here"}}},
        {"nodename": "pve1", "nodelist": {"pve2/x": {"online": 1}}},
        {"nodename": "pve1", "nodelist": {"pve2": {}}},
    ],
)
def test_a_list_of_nodes_that_is_none_is_refused(tmp_path: Path, content: object) -> None:
    members(tmp_path, content)
    with pytest.raises(Unavailable, match="not a list of nodes"):
        read_members(tmp_path)


def test_a_node_that_was_never_seen_has_no_address(tmp_path: Path) -> None:
    found = members(tmp_path, {"nodename": "a", "nodelist": {"b": {"id": 2, "online": 0}}})
    with pytest.raises(Unavailable, match="address of b is not known"):
        found.members().reachable("b")


def test_without_a_cluster_other_nodes_are_left_to_their_own_service(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="not in a cluster"):
        elsewhere(Cluster(tmp_path, 8081))("pve2")
    with pytest.raises(Conflict, match="not in a cluster"):
        elsewhere(members(tmp_path, {"nodename": "pve1"}).__class__(tmp_path, 0))("pve2")


async def refused(cluster: Cluster) -> Fault:
    """Return why pve2 cannot be had."""
    with pytest.raises(Fault) as caught:
        await Peer(cluster, "pve2").open(REQUEST)
    return caught.value


async def test_what_is_missing_on_the_other_node_is_said_with_its_repair() -> None:
    async with nodes() as n:
        with socket.socket() as taken:  # and not listened to
            taken.bind(("127.0.0.2", 0))
            port = taken.getsockname()[1]
            fault = await refused(Cluster(n["pve1"].mirror, port))
        assert f"pve2 (127.0.0.2 port {port}) is not reached: nothing listens" in fault.message
        assert "apt install pvemcp" in fault.hint

        listed = {
            "pve2": {"online": 1, "ip": "127.0.0.2"},
            "pve3": {"online": 1, "ip": "127.0.0.3"},
        }
        members(n["pve2"].mirror, {"nodename": "pve2", "nodelist": listed})
        fault = await refused(n["pve1"].cluster)
        assert "it hung up" in fault.message
        assert "it may not know 127.0.0.1 as a node" in fault.hint

        (n["pve1"].mirror / "peer.key").unlink()
        assert "this node's cluster certificate" in str(await refused(n["pve1"].cluster))
        (n["pve1"].mirror / "members.json").unlink()
        assert "pvemcp-mirror" in (await refused(n["pve1"].cluster)).hint


async def test_what_speaks_otherwise_is_told_apart(tmp_path: Path) -> None:
    authority, silent = Authority(), asyncio.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "key").write_bytes(pem("pve2"))
    (tmp_path / "cert").write_bytes(authority.issue("pve2"))
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"N\0\0\0\2[]")
        await writer.drain()
        await silent.wait()
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.2", 0, ssl=context) as server:
        put(tmp_path / "ca.crt", authority.certificate())
        put(tmp_path / "peer.crt", authority.issue("pve1"))
        put(tmp_path / "peer.key", pem("pve1"))
        listed = {name: {"online": 1, "ip": f"127.0.0.{name[-1]}"} for name in ("pve1", "pve2")}
        members(tmp_path, {"nodename": "pve1", "nodelist": listed})
        port = server.sockets[0].getsockname()[1]
        fault = await refused(Cluster(tmp_path, port))
        assert "does not speak as pvemcp does" in fault.message
        silent.set()
