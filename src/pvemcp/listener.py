"""Listening: the socket, the HTTP server on it, and how both end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import ListenHandler
from starlette.types import ASGIApp

from pvemcp import systemd
from pvemcp.connect import service_url
from pvemcp.connections import MOST, Connection, listening_socket
from pvemcp.errors import Misconfigured
from pvemcp.handshakes import Handshakes
from pvemcp.settings import Settings
from pvemcp.tls import Certificate

GRACE = 2
"""Seconds that calls under way get when the service stops."""
INTERRUPTED = 130
"""Exit code after SIGINT."""


@dataclass(frozen=True, slots=True)
class App:
    """A composed service: ASGI application, MCP server, and what closes its open streams."""

    asgi: ASGIApp
    server: Server[Any]
    listen: ListenHandler


class _Uvicorn(uvicorn.Server):
    """A server that ends the clients' open subscription streams before it waits for requests."""

    def __init__(self, app: App, settings: Settings, http: type[Connection] = Connection) -> None:
        self._certificate = _certificate(settings)
        self._handshakes: Handshakes | None = None
        if certificate := self._certificate:
            self._handshakes = Handshakes(lambda: certificate.context, http, most=MOST // 2)
        super().__init__(_uvicorn_config(app, self._handshakes or http))
        self._listen = app.listen
        self._watching: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._certificate:
            self._watching = asyncio.create_task(self._certificate.watch())
        self.ready.set()

    async def is_ready(self) -> bool:
        """Wait until it listens; False when it could not start."""
        await self.ready.wait()
        return self.started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run_http`: uvicorn would raise them again after a graceful end."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._listen.close()
        if self._watching:
            self._watching.cancel()
        if self._handshakes:
            self._handshakes.close()
        await super().shutdown(sockets)


OTHER_PORT = "Set PVEMCP_LISTEN to another address."


def bind(settings: Settings, *, other: str = OTHER_PORT) -> socket.socket:
    """Bind the listening socket. Raises Misconfigured when the address cannot be had.

    `other` is the sentence that says how to take another address.
    """
    host, port = settings.address
    try:
        bound = listening_socket(host, port)
    except OSError as error:
        raise cannot_listen(settings.listen, error, other=other) from None
    # asyncio does this only for sockets that it opened itself; without it an answer, written in two
    # parts, waits up to 40 ms for the client's delayed ACK.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def cannot_listen(address: str, error: OSError, *, other: str) -> Misconfigured:
    """Return the fault for an address that cannot be had, and how to get another."""
    problem = os.strerror(error.errno or 0).lower()
    match error.errno:
        case errno.EADDRINUSE:
            hint = f"Another program has the port. {other}"
        case errno.EACCES:
            hint = f"Ports below 1024 need root or CAP_NET_BIND_SERVICE. {other}"
        case errno.EADDRNOTAVAIL:
            hint = f"This machine does not have that address. {other}"
        case _:
            problem, hint = error.strerror or str(error), other
    return Misconfigured(f"Cannot listen on {address}: {problem}.", hint=hint)


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
async def start(
    app: App, settings: Settings, http: type[Connection] = Connection
) -> AsyncIterator[Running]:
    """Listen and serve until `stop` or the end of the block."""
    with bind(settings) as bound:
        server = _Uvicorn(app, settings, http)
        task = asyncio.create_task(server.serve([bound]))
        await server.ready.wait()
        running = Running(mcp_url(settings, bound), server, task)
        try:
            yield running
        finally:
            await running.stop()


async def run_http(
    app: App,
    settings: Settings,
    bound: socket.socket,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Serve until a signal of `on_signal`; a second one does not wait for calls under way.

    systemd is told, and its watchdog fed while `check` raises no Fault.
    """
    server = _Uvicorn(app, settings)

    def end() -> None:
        systemd.notify("STOPPING=1")
        server.force_exit = server.should_exit
        server.should_exit = True

    on_signal(end)
    status = f"MCP at {mcp_url(settings, bound)}"
    async with systemd.told(server.is_ready, check, status=status):
        await server.serve([bound])


def on_signal(end: Callable[[], None]) -> None:
    """Call `end` on SIGINT, SIGTERM and SIGHUP (the terminal has gone), in the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, *_ending()):
        loop.add_signal_handler(number, end)


async def until_signal(work: Coroutine[Any, Any, None]) -> int:
    """Do the work, or cancel it on a signal. Returns the exit code: 130 after SIGINT, else 0."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(work)
    code = 0

    def end(with_code: int = 0) -> None:
        nonlocal code
        code = with_code
        task.cancel()
        # A client that reads no answers blocks the thread that writes them. The database does
        # not mind: it is made for being killed.
        loop.call_later(GRACE, os._exit, code)

    on_signal(end)
    loop.add_signal_handler(signal.SIGINT, end, INTERRUPTED)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return code


def exit_on_signal() -> None:
    """End in order also before `on_signal` takes over, so that nothing temporary stays behind."""

    def leave(*_: object) -> NoReturn:
        sys.exit(0)

    for number in (signal.SIGINT, *_ending()):
        signal.signal(number, leave)


def _ending() -> tuple[signal.Signals, ...]:
    """Return the signals, besides SIGINT, that end the process; nohup ignores SIGHUP on purpose."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return (signal.SIGTERM, signal.SIGHUP)


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _uvicorn_config(app: App, http: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app.asgi,
        http=http,
        log_config=None,
        access_log=False,
        backlog=64,  # asyncio accepts as many at once, before any of them can be ended
        proxy_headers=False,  # anybody may send X-Forwarded-For
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=65536,
    )


def mcp_url(settings: Settings, bound: socket.socket) -> str:
    """Return the URL of the service, with the port that it really has."""
    return service_url(settings, bound.getsockname()[1])
