"""A lean MCP client: one kept connection, modern era, written bytes up; it hides no server cost."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

VERSION = "2026-07-28"
TIMEOUT = 10.0
"""Seconds for one answer."""
_META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}


class Failure(Exception):  # noqa: N818 - as in the product: names end without "Error"
    """An answer that is not a result, or none at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A tool's text, and how it came."""

    text: str
    seconds: float
    size: int
    """Bytes of the text."""


class _Wire(asyncio.Protocol):
    """Collects one HTTP answer at a time, with a length or in chunks."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiter: asyncio.Future[bytes] | None = None

    def expect(self) -> asyncio.Future[bytes]:
        self._buffer.clear()
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._waiter is None or self._waiter.done():
            return
        head = bytes(self._buffer[:end]).lower()
        body = bytes(self._buffer[end + 4 :])
        mark = head.find(b"content-length:")
        if mark >= 0:
            length = int(head[mark + 15 :].split(b"\r", 1)[0])
            if len(body) >= length:
                self._waiter.set_result(head[9:12] + body)
        elif body.endswith(b"0\r\n\r\n"):
            self._waiter.set_result(head[9:12] + _unchunked(body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Failure(f"the connection was closed: {exc}"))


def _unchunked(body: bytes) -> bytes:
    """Return the payload of a chunked body; of an event stream, the data of its last event."""
    parts, rest = [], body
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        length = int(size.split(b";")[0], 16)
        parts.append(rest[:length])
        rest = rest[length + 2 :] if length else b""
    payload = b"".join(parts)
    _, mark, event = payload.rpartition(b"data: ")
    return event.strip() if mark else payload


@dataclass(slots=True)
class Client:
    """One client on one connection. `url` is the MCP endpoint; an empty secret sends none."""

    url: str
    secret: str = ""
    _number: int = 0
    _wire: _Wire = field(default_factory=_Wire)
    _transport: asyncio.Transport | None = None

    async def __aenter__(self) -> Self:
        parts = urlsplit(self.url)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(
            lambda: self._wire, parts.hostname or "", parts.port or 80
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def call(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool. Raises Failure for anything but a good result."""
        started = time.perf_counter()
        params = {"name": tool, "arguments": arguments}
        result = await self.request("tools/call", params, name=tool)
        seconds = time.perf_counter() - started
        text = str(result["content"][0]["text"])
        if result.get("isError"):
            raise Failure(text)
        return Answer(text, seconds, len(text.encode()))

    async def request(self, method: str, params: dict[str, Any], *, name: str = "") -> Any:
        """Send one JSON-RPC request and return its result."""
        self._number += 1
        meta = {**_META, "progressToken": self._number}
        message = {"jsonrpc": "2.0", "id": self._number, "method": method}
        body = json.dumps({**message, "params": {**params, "_meta": meta}}).encode()
        answer = await self._exchange(self._head(method, name, len(body)) + body)
        decoded = json.loads(answer[3:])
        if answer[:3] != b"200" or "result" not in decoded:
            raise Failure(answer.decode(errors="replace")[:400])
        return decoded["result"]

    def _head(self, method: str, name: str, length: int) -> bytes:
        lines = [
            "POST /mcp HTTP/1.1",
            f"Host: {urlsplit(self.url).netloc}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"MCP-Protocol-Version: {VERSION}",
            f"Mcp-Method: {method}",
            f"Content-Length: {length}",
        ]
        lines += [f"Mcp-Name: {name}"] if name else []
        lines += [f"Authorization: Bearer {self.secret}"] if self.secret else []
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _exchange(self, request: bytes) -> bytes:
        if self._transport is None:
            raise Failure("not connected")
        waiter = self._wire.expect()
        self._transport.write(request)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await waiter
        except TimeoutError:
            raise Failure(f"{self.url} did not answer within {TIMEOUT:.0f} s") from None
