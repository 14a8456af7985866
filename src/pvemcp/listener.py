"""Listening: the socket, the HTTP server on it, and how both end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import ListenHandler
from starlette.types import ASGIApp

from pvemcp.errors import Misconfigured
from pvemcp.settings import Settings

GRACE = 2
"""Seconds that calls under way get when the service stops."""


@dataclass(frozen=True, slots=True)
class App:
    """A composed service: ASGI application, MCP server, and what closes its open streams."""

    asgi: ASGIApp
    server: Server[Any]
    listen: ListenHandler


class _Uvicorn(uvicorn.Server):
    """A server that ends the clients' open subscription streams before it waits for requests."""

    def __init__(self, config: uvicorn.Config, listen: ListenHandler) -> None:
        super().__init__(config)
        self._listen = listen
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run_http`: uvicorn would raise them again after a graceful end."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._listen.close()
        await super().shutdown(sockets)


def bind(settings: Settings) -> socket.socket:
    """Bind the listening socket. Raises Misconfigured when the address cannot be had."""
    host, port = settings.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise Misconfigured(
            f"listen: cannot listen on {settings.listen}: {os.strerror(error.errno or 0)}",
            hint="Another program may have the port: set PVEMCP_LISTEN to another one.",
        ) from None
    # asyncio does this only for sockets that it opened itself; without it an answer, written in two
    # parts, waits up to 40 ms for the client's delayed ACK.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


@dataclass(frozen=True, slots=True)
class Running:
    """A service that listens. `url` is where a client on this machine finds MCP."""

    url: str
    server: uvicorn.Server
    task: asyncio.Task[None]

    async def stop(self) -> None:
        """End open streams, give calls under way GRACE seconds, and stop."""
        self.server.should_exit = True
        await asyncio.shield(self.task)


@contextlib.asynccontextmanager
async def start(app: App, settings: Settings) -> AsyncIterator[Running]:
    """Listen and serve until `stop` or the end of the block."""
    with bind(settings) as bound:
        server = _Uvicorn(_uvicorn_config(app, settings), app.listen)
        task = asyncio.create_task(server.serve([bound]))
        await server.ready.wait()
        running = Running(local_url(settings, bound), server, task)
        try:
            yield running
        finally:
            await running.stop()


async def run_http(app: App, settings: Settings, bound: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; a second signal does not wait for calls under way."""
    server = _Uvicorn(_uvicorn_config(app, settings), app.listen)

    def end() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    on_signal(end)
    await server.serve([bound])


def on_signal(end: Callable[[], None]) -> None:
    """Call `end` on SIGINT and SIGTERM, in the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)


def _uvicorn_config(app: App, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app.asgi,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=65536,
    )


def local_url(settings: Settings, bound: socket.socket) -> str:
    """Return the URL of MCP at the address that the socket is bound to."""
    host, port = settings.address[0], bound.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{shown}:{port}/mcp"
