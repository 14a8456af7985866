"""The simulated cluster on a socket: connections, TLS, limits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import time
from pathlib import Path

import aiohttp
import pytest

from pvemcp.sim.http import APIDOC, serve
from pvemcp.sim.world import World, make_world
from tests.unit.sim_rig import token_headers


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> str:
    """Send a request and return the head of the answer."""
    writer.write(text.encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in head.split("\r\n") if line.startswith("content-length"))
    await reader.readexactly(int(length.split(": ")[1]))
    return head


def _get(world: World, path: str = "/version") -> str:
    value = token_headers(world.token())["authorization"]
    return f"GET /api2/json{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n\r\n"


async def test_a_connection_ends_after_an_error_and_after_a_hundred_requests(
    tmp_path: Path,
) -> None:
    world, path = make_world("homelab"), str(tmp_path / "s")
    async with serve(world, uds=path, tls=False):
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(99):
            assert "Keep-Alive" in await _send(reader, writer, _get(world))
        assert "connection: close" in await _send(reader, writer, _get(world))
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        head = await _send(reader, writer, _get(world, "/nodes/pve1/qemu/999/config"))
        assert head.startswith("HTTP/1.1 500 Configuration file 'nodes/pve1/qemu-server/999.conf'")
        assert await reader.read() == b""
        writer.close()


async def test_a_dropped_connection_ends_without_an_answer(tmp_path: Path) -> None:
    world, path = make_world("homelab"), str(tmp_path / "s")
    world.faults.drop_connections(1)
    connector = aiohttp.UnixConnector(path)
    headers = token_headers(world.token())
    async with (
        serve(world, uds=path, tls=False) as running,
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
    ):
        url = f"{running.url}/api2/json/version"
        # A POST: the client would repeat a GET by itself.
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(url)
        async with session.get(url) as answer:
            assert answer.status == 200


async def test_it_stops_at_once_with_open_connections_and_slow_answers(tmp_path: Path) -> None:
    world, path = make_world("homelab"), str(tmp_path / "s")
    world.faults.slow_node("pve1", 60)
    async with serve(world, uds=path, tls=False):
        _, idle = await asyncio.open_unix_connection(path)
        _, waiting = await asyncio.open_unix_connection(path)
        waiting.write(_get(world, "/nodes/pve1/status").encode())
        while not world.requests:
            await asyncio.sleep(0)
        begun = time.perf_counter()
    assert time.perf_counter() - begun < 1
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240 - a folder of the test
    for writer in (idle, waiting):
        writer.close()


async def test_a_slow_node_holds_up_nobody_else(tmp_path: Path) -> None:
    world, path = make_world("cluster"), str(tmp_path / "s")
    world.faults.slow_node("pve2", 60)
    headers = token_headers(world.token())
    async with (
        serve(world, uds=path, tls=False) as running,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path), headers=headers) as session,
    ):
        slow = asyncio.create_task(session.get(f"{running.url}/api2/json/nodes/pve2/status"))
        async with session.get(f"{running.url}/api2/json/nodes/pve1/status") as answer:
            assert answer.status == 200
        assert not slow.done()
        slow.cancel()


async def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    world, path = make_world("homelab"), str(tmp_path / "s")
    headers = token_headers(world.token())
    async with (
        serve(world, uds=path, tls=False) as running,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path), headers=headers) as session,
        session.post(
            f"{running.url}/api2/json/pools",
            data=b"poolid=" + b"x" * 600_000,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ) as answer,
    ):
        assert (answer.status, answer.reason) == (501, "for data too large")


async def test_tls_can_be_trusted_by_its_authority_or_pinned_by_its_fingerprint() -> None:
    world = make_world("homelab")
    headers = token_headers(world.token())
    async with serve(world, tls=True) as running:
        assert running.url.startswith("https://127.0.0.1:")
        assert running.ca_file is not None
        assert running.ca_file.read_text() == running.ca_pem
        trusted = ssl.create_default_context(cadata=running.ca_pem)
        digest = bytes.fromhex(running.fingerprint.replace(":", ""))
        assert len(digest) == hashlib.sha256().digest_size
        async with aiohttp.ClientSession(headers=headers) as session:
            for check in (trusted, aiohttp.Fingerprint(digest)):
                async with session.get(f"{running.url}/api2/json/version", ssl=check) as answer:
                    assert answer.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"{running.url}/api2/json/version")


async def test_the_description_is_served_without_a_login(tmp_path: Path) -> None:
    world, path = make_world("homelab"), str(tmp_path / "s")
    async with (
        serve(world, uds=path, tls=False) as running,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.get(running.url + APIDOC) as answer,
    ):
        text = await answer.text()
    tree, _ = json.JSONDecoder().raw_decode(text[text.index("[") :])
    assert {node["path"] for node in tree} >= {"/access", "/cluster", "/nodes", "/pools"}
