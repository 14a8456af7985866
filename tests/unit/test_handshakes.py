"""Handshakes that do not come: they end, and others get through."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pvemcp.handshakes import Handshakes
from pvemcp.sim.tls import make_certificates
from pvemcp.tls import server_context


class Echo(asyncio.Protocol):
    """Says what it hears."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class Quick(Handshakes):
    """Not patient at all."""

    seconds = 0.5


class Place:
    """A server, and who connects to it."""

    def __init__(self, port: int, trust: ssl.SSLContext, handshakes: Handshakes) -> None:
        self.port = port
        self.handshakes = handshakes
        self.writers: list[asyncio.StreamWriter] = []
        self._trust = trust

    async def silent(self) -> asyncio.StreamReader:
        """Connect and say nothing."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader

    async def echoed(self, text: bytes) -> bytes:
        """Connect, say something, and return what comes back."""
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self._trust)
            writer.write(text)
            said = await reader.readexactly(len(text))
            self.writers.append(writer)
            return said


@asynccontextmanager
async def served(
    folder: Path, *, most: int = 8, kind: type[Handshakes] = Handshakes
) -> AsyncIterator[Place]:
    made = make_certificates(folder, names=["pve1"])
    context = server_context(made.chain_file, made.key_file)
    handshakes = kind(lambda: context, Echo, most=most)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(handshakes, "127.0.0.1", 0)
    trust = ssl.create_default_context(cadata=made.ca_pem)
    async with server:
        place = Place(server.sockets[0].getsockname()[1], trust, handshakes)
        yield place
        handshakes.close()
        for writer in place.writers:
            writer.transport.abort()
        for writer in place.writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_what_is_said_at_once_after_the_handshake_is_heard(tmp_path: Path) -> None:
    async with served(tmp_path, most=20) as place:
        texts = [b"%d" % number * 5000 for number in range(20)]
        assert await asyncio.gather(*map(place.echoed, texts)) == texts


async def test_a_connection_that_says_nothing_is_ended_in_time(tmp_path: Path) -> None:
    async with served(tmp_path, kind=Quick) as place, asyncio.timeout(10):
        assert await ended(await place.silent())


async def test_silent_ones_without_end_do_not_keep_others_out(tmp_path: Path) -> None:
    async with served(tmp_path, most=4) as place:
        silent = [await place.silent() for _ in range(40)]
        assert await place.echoed(b"hello") == b"hello"
        async with asyncio.timeout(5):
            assert all([await ended(reader) for reader in silent[:30]])


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x05nonsense", b"x" * 99])
async def test_one_that_hangs_up_half_way_leaves_nothing_behind(
    tmp_path: Path, said: bytes
) -> None:
    async with served(tmp_path) as place:
        _, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(said)
        writer.close()
        await writer.wait_closed()
        assert await place.echoed(b"hello") == b"hello"
        async with asyncio.timeout(5):
            while place.handshakes._waiting:
                await asyncio.sleep(0.01)


async def test_the_end_of_the_service_ends_them(tmp_path: Path) -> None:
    async with served(tmp_path) as place, asyncio.timeout(5):
        reader = await place.silent()
        while not place.handshakes._waiting:
            await asyncio.sleep(0.01)
        place.handshakes.close()
        assert await ended(reader)
