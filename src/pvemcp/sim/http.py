"""The simulator as an application, and as a server in the running event loop."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from pvemcp.sim.api import BODY_LIMIT, Api, Reply, Request, refused
from pvemcp.sim.apidoc import render
from pvemcp.sim.catalogue import ENDPOINTS
from pvemcp.sim.refusal import Dropped, Refusal
from pvemcp.sim.tls import Certificates, make_certificates
from pvemcp.sim.wire import HANG_UP, REASON, Protocol
from pvemcp.sim.world import World

APIDOC = "/pve-docs/api-viewer/apidoc.js"
IDLE_SECONDS = 5
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Running:
    """A simulator that answers. `url` has no path; `uds` is empty on TCP."""

    url: str
    fingerprint: str = ""
    """SHA-256 of the certificate as colon-separated hex; empty on plain HTTP."""
    ca_pem: str = ""
    ca_file: Path | None = None
    uds: str = ""


def create_app(world: World) -> Starlette:
    """Return the ASGI application that answers out of the world.

    Reason phrases need the protocol of `serve`; any other ASGI server sends its own.
    """
    return Starlette(routes=[Mount("/", app=_Application(world))])


class _Application:
    def __init__(self, world: World) -> None:
        self._api = Api(world, ENDPOINTS)
        self._clock = world.clock
        self._date = (0, b"")
        self._apidoc = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._answer(scope, receive)
        except Dropped:
            headers = [(HANG_UP, b"1"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
        else:
            await send(self._start(reply))
            await send({"type": "http.response.body", "body": reply.body})
            return
        await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        if scope["path"] == APIDOC and scope["method"] == "GET":
            self._apidoc = self._apidoc or render(ENDPOINTS)
            return Reply(200, "OK", self._apidoc, "application/javascript")
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            body = await _body(headers, receive)
        except Refusal as refusal:
            return refused(refusal)
        return await self._api.answer(
            Request(
                scope["method"], scope["path"], scope["query_string"].decode("latin-1"),
                headers, body,
            )
        )  # fmt: skip

    def _start(self, reply: Reply) -> dict[str, object]:
        headers = [
            (REASON, _CONTROL.sub(b" ", reply.reason.encode("utf-8", "replace"))),
            (b"Cache-Control", b"max-age=0"),
            (b"Date", self._http_date()),
            (b"Pragma", b"no-cache"),
            (b"Server", b"pve-api-daemon/3.0"),
            (b"Content-Length", str(len(reply.body)).encode()),
        ]
        if reply.content_type:
            headers.append((b"Content-Type", reply.content_type.encode()))
        return {"type": "http.response.start", "status": reply.status, "headers": headers}

    def _http_date(self) -> bytes:
        now = self._clock.seconds()
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]


async def _body(headers: dict[str, str], receive: Receive) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        raise Refusal(501, "chunked transfer encoding not supported", body="text")
    length = headers.get("content-length", "0")
    if int(length) > BODY_LIMIT:
        raise Refusal(501, "for data too large", body="text")
    body = b""
    while length != "0":
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


@asynccontextmanager
async def serve(
    world: World,
    *,
    uds: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: bool | None = None,
) -> AsyncIterator[Running]:
    """Answer on a Unix socket or a TCP port while the context is open.

    TLS is on for TCP and off for a Unix socket, unless said otherwise. Leaving the context closes
    the listener and every connection at once.
    """
    secure = uds is None if tls is None else tls
    with TemporaryDirectory(prefix="pvemcp-sim-") as folder:
        names = dict.fromkeys((*world.nodes, host))
        certificates = make_certificates(Path(folder), names=tuple(names)) if secure else None
        listener = _unix_listener(uds) if uds else _tcp_listener(host, port)
        running = _running(listener, uds=uds or "", host=host, certificates=certificates)
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            _protocol_factory(world, state), sock=listener, ssl=_context(certificates)
        )
        try:
            yield running
        finally:
            server.close()
            await _end(state)
            if uds:
                _remove(uds)


def _protocol_factory(world: World, state: ServerState):  # type: ignore[no-untyped-def]  # noqa: ANN202
    config = uvicorn.Config(
        create_app(world),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=IDLE_SECONDS,
    )
    config.load()
    return lambda: Protocol(config=config, server_state=state, app_state={})


async def _end(state: ServerState) -> None:
    for connection in list(state.connections):
        connection.transport.abort()
    tasks = list(state.tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _unix_listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    Path(path).chmod(0o600)
    return listener


def _tcp_listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _running(
    listener: socket.socket, *, uds: str, host: str, certificates: Certificates | None
) -> Running:
    scheme = "https" if certificates else "http"
    if uds:
        url = f"{scheme}://localhost"
    else:
        name = f"[{host}]" if ":" in host else host
        url = f"{scheme}://{name}:{listener.getsockname()[1]}"
    if certificates is None:
        return Running(url, uds=uds)
    return Running(
        url, certificates.fingerprint, certificates.ca_pem, certificates.ca_file, uds=uds
    )


def _context(certificates: Certificates | None) -> ssl.SSLContext | None:
    if certificates is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain_file, certificates.key_file)
    return context
