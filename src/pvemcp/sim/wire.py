"""pveproxy's manners on a connection, as a uvicorn protocol.

ASGI knows neither reason phrases nor a way to hang up. The application puts both into private
headers, and the h11 connection below takes them out again before anything is written.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

REASON = b"x-sim-reason"
HANG_UP = b"x-sim-hang-up"
REQUESTS_PER_CONNECTION = 100
HEAD_LIMIT = 64 * 1024


class _Connection(h11.Connection):
    """Writes the reason phrase that the application chose, and ends connections like pveproxy."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self.answered = 0
        self.hang_up = False
        self._head: list[bytes] = []

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Serialise an event; an answer that is to be dropped becomes nothing.

        The head waits for the body, so that both leave in one packet.
        """
        if isinstance(event, h11.Response):
            self._head = super().send_with_data_passthrough(self._response(event)) or []
            return []
        data = super().send_with_data_passthrough(event)
        if data is None or self.hang_up:
            return None if data is None else []
        head, self._head = self._head, []
        return [*head, *data]

    def _response(self, event: h11.Response) -> h11.Response:
        self.answered += 1
        reason = event.reason
        headers: list[tuple[bytes, bytes]] = []
        for name, value in event.headers:
            if name == REASON:
                reason = value
            elif name == HANG_UP:
                self.hang_up = True
            else:
                headers.append((name, value))
        last = event.status_code >= 400 or self.answered >= REQUESTS_PER_CONNECTION
        headers.append((b"connection", b"close" if last else b"Keep-Alive"))
        return h11.Response(status_code=event.status_code, headers=headers, reason=reason)


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol on a connection with PVE's dialect."""

    conn: _Connection

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Connection()

    def on_response_complete(self) -> None:
        """Close instead of waiting when the answer was to be dropped."""
        if self.conn.hang_up:
            self.transport.abort()
        super().on_response_complete()
