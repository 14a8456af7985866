"""Notes who is connected, and refuses what is too much, before anything is done for a request.

Two places see it: HTTP, where a request can still be answered with a status and Retry-After, and
the MCP SDK's chain, where it is known which client speaks.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pvemcp.access.bearer import PRINCIPAL
from pvemcp.access.limits import Gate
from pvemcp.access.replies import TurnedAway, nobody_told, reply
from pvemcp.access.sessions import PAUSE, Session, Sessions, Visit, ended
from pvemcp.errors import Limited

HANG_UP = "pvemcp.hang_up"
"""Key in the ASGI scope of a function that cuts the connection."""
VISIT = "pvemcp.visit"
_SESSION_ID = b"mcp-session-id"
_VERSION = b"mcp-protocol-version"
_OVERALL = ("sessions", "concurrent_calls")
"""Limits of the service as a whole: 503 instead of 429."""


class Presence:
    """ASGI middleware behind the door; `note` is its part inside the MCP SDK."""

    def __init__(
        self, app: ASGIApp, gate: Gate, sessions: Sessions, turned_away: TurnedAway = nobody_told
    ) -> None:
        self._turned_away = turned_away
        self._app = app
        self._gate = gate
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        principal = scope[PRINCIPAL]
        visit = Visit(principal, scope)
        refusal = self._gate.request(principal.grant)
        watched = send
        try:
            if refusal is None:
                watched = self._enter(scope, visit, send)
        except Limited as limited:
            refusal = self._gate.noted(limited)
        if refusal is not None:
            self._turned_away(refusal.limit, principal.address, principal.name)
            await refuse(send, refusal)
            return
        scope[VISIT] = visit
        try:
            async with asyncio.timeout(None) as visit.patience:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if not visit.ended:
                raise
            await self._cut(scope, visit, send)
        finally:
            self._sessions.leave(visit)

    async def _cut(self, scope: Scope, visit: Visit, send: Send) -> None:
        """Answer a request that was given up, or close its connection if an answer has begun."""
        if not visit.answered:
            await refuse(send, ended(PAUSE))
            return
        scope.get(HANG_UP, _nothing)()
        await asyncio.sleep(0)  # until the server has seen that

    def _enter(self, scope: Scope, visit: Visit, send: Send) -> Send:
        """Find the session of a request, as far as HTTP tells; return what sends its answer."""
        mcp_id = version = b""
        for name, value in scope["headers"]:
            if name == _SESSION_ID:
                mcp_id = value
            elif name == _VERSION:
                version = value
        if version and version.decode("latin-1") not in HANDSHAKE_PROTOCOL_VERSIONS:
            return _noting(send, visit)
        if mcp_id:
            self._sessions.enter(visit, mcp_id.decode("latin-1"))
            return self._ending(send, visit, goodbye=scope["method"] == "DELETE")
        self._sessions.open(visit)
        return self._beginning(send, visit)

    def _beginning(self, send: Send, visit: Visit) -> Send:
        """Watch the answer to what opens a session: it has the id, or there is no session."""

        async def watched(message: Message) -> None:
            session = visit.session
            if message["type"] == "http.response.start" and session is not None:
                visit.answered = True
                found = dict(message["headers"]).get(_SESSION_ID)
                if found and message["status"] < 400:
                    self._sessions.name(session, found.decode("latin-1"))
                else:
                    self._sessions.drop(session)
            await send(message)

        return watched

    def _ending(self, send: Send, visit: Visit, *, goodbye: bool) -> Send:
        """Watch for the answer that there is no such session, any more."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.answered = True
                gone = message["status"] == 404 or (goodbye and message["status"] < 400)
                if gone and visit.session is not None:
                    self._sessions.drop(visit.session)
            await send(message)

        return watched

    async def note(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Note which client speaks (a middleware of the SDK's server)."""
        visit = ctx.request.scope.get(VISIT) if ctx.request is not None else None
        if isinstance(visit, Visit):
            self._note(ctx, visit)
        return await call_next(ctx)

    def _note(self, ctx: ServerRequestContext[Any, Any], visit: Visit) -> None:
        session = visit.session
        if session is None:
            try:
                self._sessions.join(visit, _client(ctx))
            except Limited as limited:
                visit.refusal = self._gate.noted(limited)
                data = _body(limited)
                raise MCPError(INVALID_REQUEST, limited.message, data) from None
        elif not session.client:
            session.client = _client(ctx)
        if ctx.method == "tools/call" and visit.session is not None:
            self._sessions.called(visit.session)

    async def end(self, session: Session) -> None:
        """End a session: its calls are cancelled, its streams closed, its id forgotten."""
        self._sessions.end(session)
        if session.mcp_id:
            await self._delete(session)

    async def _delete(self, session: Session) -> None:
        """Ask the SDK to forget a session, as its client would."""
        scope = {
            **session.scope,
            "method": "DELETE",
            "headers": [(_SESSION_ID, session.mcp_id.encode("latin-1"))],
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_: Message) -> None:
            pass

        await self._app(scope, receive, send)


def _nothing() -> None:
    pass


def _noting(send: Send, visit: Visit) -> Send:
    """Note that an answer begins, and give a refusal from inside the SDK its status."""

    async def watched(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.answered = True
            if visit.refusal is not None:
                status, headers = _head(visit.refusal)
                message = {**message, "status": status, "headers": [*message["headers"], *headers]}
        await send(message)

    return watched


def _client(ctx: ServerRequestContext[Any, Any]) -> str:
    """Return name and version that the client gives of itself; it may give none."""
    known = ctx.session.client_params
    if known is not None and known.client_info is not None:
        return _shown(known.client_info.name, known.client_info.version)
    given = (ctx.params or {}).get("clientInfo") if ctx.method == "initialize" else None
    if not isinstance(given, Mapping):
        return ""
    return _shown(given.get("name"), given.get("version"))


def _shown(name: object, version: object) -> str:
    text = f"{name} {version}"[:100]
    return "".join(char if char.isprintable() else "?" for char in text)


def _body(refusal: Limited) -> dict[str, Any]:
    return {
        "error": refusal.code,
        "limit": refusal.limit,
        "message": refusal.message,
        "hint": refusal.hint,
        "retryAfter": math.ceil(refusal.wait),
    }


def _head(refusal: Limited) -> tuple[int, list[tuple[bytes, bytes]]]:
    status = 503 if refusal.limit in _OVERALL else 429
    return status, [(b"retry-after", b"%d" % math.ceil(refusal.wait))]


async def refuse(send: Send, refusal: Limited) -> None:
    """Answer with 429 or 503, Retry-After, and a body in JSON."""
    status, headers = _head(refusal)
    body = json.dumps(_body(refusal)).encode("ascii")
    await reply(send, status, body, more=headers)
