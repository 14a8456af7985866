"""Tells a call that its client has hung up.

The SDK cancels calls of protocol 2026-07-28 by itself. In the session era it lets them run on,
for a client that might resume the stream; this service offers no resuming, so nobody would.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

GONE = "pvemcp.gone"
"""Key of the asyncio.Event in the ASGI scope that is set when the client has gone."""


class Hangup:
    """ASGI middleware that notices the end of a connection before its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gone = asyncio.Event()

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.set()
            return message

        try:
            await self._app({**scope, GONE: gone}, watched, send)
        finally:
            gone.set()  # however it ended: nobody waits for an answer any more
