"""A raw HTTP server for the tests of the PVE client: it can do what no web framework would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvemcp.call import ApiToken, Call, Effect, Permit, Principal, Unplanned, Verdict
from pvemcp.errors import Denied
from pvemcp.pve.client import PveClient
from pvemcp.pve.load import REMOTE
from tests.unit.pve_tree import TEXT

TOKEN = ApiToken("ops@pve!mcp", "11111111-2222-3333-4444-555555555555")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    verb: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Which connection it came on, counted from 1."""


class Last(bytes):
    """An answer after which the connection is closed."""


Handler = Callable[[Request], Awaitable[bytes | None]]
"""Returns the raw answer; None closes the connection without one."""


def answer(
    data: Any = None, *, status: int = 200, reason: str = "OK", headers: str = "", **more: Any
) -> bytes:
    """Write an answer as pveproxy does."""
    body = json.dumps({"data": data, **more}, separators=(",", ":")).encode()
    return raw(body, status=status, reason=reason, headers=headers)


def raw(body: bytes, *, status: int = 200, reason: str = "OK", headers: str = "") -> bytes:
    """Write an answer with any body; an empty one goes without a content type."""
    kind = "Content-Type: application/json;charset=UTF-8\r\n" if body else ""
    close = "Connection: close\r\n" if status >= 400 else ""
    head = (
        f"HTTP/1.1 {status} {reason}\r\n{kind}{close}{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Server:
    """What came in, and what answers it."""

    handler: Handler
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def asked(self) -> list[str]:
        """The requests but for those of the description, as `VERB target`."""
        return [f"{r.verb} {r.target}" for r in self.requests if r.target != REMOTE]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.open.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._once(reader, writer, number):
                    pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def _once(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        verb, target, _ = first.split(" ", 2)
        request = Request(verb, target, headers, body, number)
        self.requests.append(request)
        text = raw(TEXT.encode()) if target == REMOTE else await self.handler(request)
        if text is None:
            return False
        writer.write(text)
        await writer.drain()
        return not isinstance(text, Last)


@contextlib.asynccontextmanager
async def listening(
    handler: Handler, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, str]]:
    """Serve on a Unix socket, or with TLS on a free port; yields the server and its place."""
    server = Server(handler)
    with tempfile.TemporaryDirectory(prefix="pvemcp-") as folder:
        place = str(Path(folder) / "pve.sock")
        if tls is None:
            listener = await asyncio.start_unix_server(server.serve, place)
        else:
            listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
            place = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield server, place
        finally:
            listener.close()
            for writer in list(server.open):
                writer.transport.abort()
            await listener.wait_closed()


def allow(call: Call, verb: str, path: str, effect: Effect) -> Verdict:
    """Permit what the principal's ceiling allows."""
    if effect > call.principal.ceiling:
        raise Denied(f"{verb} {path} is {effect}")
    return Verdict.ALLOW


def new_call(token: ApiToken = TOKEN, ceiling: Effect = Effect.DESTROY) -> Call:
    """Open a call of a principal."""
    return Call(Principal("tester", ceiling, token), "test", {}, license=Unplanned())


@contextlib.asynccontextmanager
async def client_of(
    handler: Handler, *, permit: Permit = allow, **settings: Any
) -> AsyncIterator[tuple[PveClient, Server]]:
    """Yield a client of a server that the handler answers for."""
    async with (
        listening(handler) as (server, place),
        PveClient("http://localhost", socket=place, permit=permit, **settings) as client,
    ):
        yield client, server
