"""TLS handshakes that do not wait for ever.

A connection counts for uvicorn only once its handshake is over, and asyncio gives that a minute.
Without a bound of their own, connections that say nothing would use up the process's open files.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, ClassVar


class Handshakes:
    """Makes the protocol of each new connection: a handshake first, then `inner`.

    `context` is asked for every connection, so that a renewed certificate counts for the next one.
    """

    seconds: ClassVar[float] = 10.0

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        inner: Callable[..., asyncio.Protocol],
        *,
        most: int,
    ) -> None:
        self._context = context
        self._most = most
        """At once; beyond them the one that has waited longest is ended."""
        self._inner = inner
        self._waiting: dict[_Handshake, None] = {}

    def __call__(self, **given: Any) -> asyncio.Protocol:
        """Return the protocol of a new connection, as uvicorn asks for it."""
        return _Handshake(self, lambda: self._inner(**given))

    def close(self) -> None:
        """End every handshake that is under way."""
        for one in list(self._waiting):
            one.transport.abort()

    async def shake(self, one: _Handshake) -> asyncio.Transport | None:
        """Return the transport within TLS; None when there will be none."""
        self._waiting[one] = None
        if len(self._waiting) > self._most:
            next(iter(self._waiting)).transport.abort()
        try:
            return await asyncio.get_running_loop().start_tls(
                one.transport,
                one,
                self._context(),
                server_side=True,
                ssl_handshake_timeout=self.seconds,
            )
        except OSError:  # it failed, or took too long, or the client has gone
            return None
        finally:
            del self._waiting[one]


class _Handshake(asyncio.Protocol):
    """A connection before it is one; what comes early is kept for the protocol after it."""

    transport: asyncio.Transport

    def __init__(self, all_: Handshakes, inner: Callable[[], asyncio.Protocol]) -> None:
        self._all = all_
        self._inner = inner
        self._early: list[bytes] = []
        self._ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the handshake."""
        self.transport = transport
        transport.pause_reading()  # what comes before it begins would be lost to it
        self._task = asyncio.get_running_loop().create_task(self._go_on())

    def data_received(self, data: bytes) -> None:
        """Keep what follows the handshake at once."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Remember it, if that is before the next protocol has taken over."""
        self._ended = True

    async def _go_on(self) -> None:
        within = await self._all.shake(self)
        if within is None or self._ended:
            return
        inner = self._inner()
        within.set_protocol(inner)
        inner.connection_made(within)
        for data in self._early:
            inner.data_received(data)
