"""TLS handshakes written by hand: what a server accepts, whatever the client here could do."""

from __future__ import annotations

import asyncio
import os
import struct

TLS10, TLS11, TLS12 = 0x0301, 0x0302, 0x0303


def _sized(content: bytes, width: int) -> bytes:
    return len(content).to_bytes(width, "big") + content


def _extension(number: int, content: bytes) -> bytes:
    return struct.pack(">H", number) + _sized(content, 2)


def _hello(version: int, ciphers: list[int]) -> bytes:
    groups = _extension(10, _sized(struct.pack(">HH", 29, 23), 2))
    points = _extension(11, _sized(b"\0", 1))
    signatures = _extension(13, _sized(struct.pack(">HHHH", 0x0403, 0x0804, 0x0401, 0x0203), 2))
    suites = b"".join(struct.pack(">H", cipher) for cipher in ciphers)
    extensions = _sized(groups + points + signatures, 2)
    body = struct.pack(">H", version) + os.urandom(32) + b"\0"
    body += _sized(suites, 2) + b"\1\0" + extensions
    return struct.pack(">BH", 22, 0x0301) + _sized(b"\1" + _sized(body, 3), 2)


async def chosen(port: int, version: int, *ciphers: int) -> int | None:
    """Return the cipher suite that the server chooses of those offered, or None for a refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_hello(version, list(ciphers)))
        answer = await reader.read(5)
        if len(answer) < 5 or answer[0] == 21:  # asyncio closes, without an alert
            return None
        handshake = await reader.readexactly(4 + 2 + 32 + 1)
        assert (answer[0], handshake[0]) == (22, 2)
        session = handshake[-1]
        rest = await reader.readexactly(session + 2)
        found: int = struct.unpack(">H", rest[session:])[0]
        return found
    finally:
        writer.close()
