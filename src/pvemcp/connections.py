"""HTTP connections that do not wait for ever.

uvicorn has no limit for the time that a request takes to come. Without one, anybody can hold
connections open, before any log-in, until the process can open no more files.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pvemcp.access.fresh import OPENED, Fresh
from pvemcp.access.presence import HANG_UP

MOST = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, 4096)
"""Connections; beyond them the one that has waited longest for its request is ended."""
_INCOMPLETE = (h11.IDLE, h11.SEND_BODY)


def listening_socket(host: str, port: int, backlog: int = 512) -> socket.socket:
    """Listen on an address; `::` takes IPv4 as well where the kernel can. Raises OSError."""
    if ":" not in host:
        return socket.create_server((host, port), backlog=backlog)
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=both
    )


class Connection(H11Protocol):
    """One client's connection: it has `patience` seconds to send a whole request."""

    patience: ClassVar[float] = 20.0
    most: ClassVar[int] = MOST
    opened = 0.0
    """When it was made, in seconds since the epoch."""
    late: asyncio.TimerHandle | None = None
    """Ends the connection; None while no request is being waited for."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        served = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope[HANG_UP] = self.transport.abort
            scope[OPENED] = self.opened

            async def answer(message: Any) -> None:
                await send(Fresh.mark(message, self.opened))

            await served(scope, receive, answer)

        self.app = app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait; make room if there are too many."""
        super().connection_made(transport)
        self.opened = time.time()
        if self.client is not None:  # an IPv4 client of a socket for both is ::ffff:A.B.C.D
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        self._watch()
        if len(self.connections) > self.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request: the whole of it ends the wait."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the wait."""
        self._end_watch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state not in _INCOMPLETE:
            self._end_watch()
        elif self.late is None:
            self.late = self.loop.call_later(self.patience, self._expire)

    def _expire(self) -> None:
        self.late = None
        if self.conn.their_state in _INCOMPLETE:
            self.transport.abort()

    def _end_watch(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def _make_room(self) -> None:
        waiting = [c for c in self.connections if isinstance(c, Connection) and c.late is not None]
        if waiting:
            min(waiting, key=_deadline).transport.abort()


def _deadline(waiting: Connection) -> float:
    return waiting.late.when() if waiting.late is not None else 0.0
