"""What monitoring asks: /healthz, /readyz, /metrics."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from pvemcp.access.bearer import PRINCIPAL
from pvemcp.access.replies import JSON, reply
from pvemcp.watch.exposition import CONTENT_TYPE
from pvemcp.watch.readiness import Report

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no grant."""
METRICS = "/metrics"

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class Probes:
    """ASGI middleware behind the door. Whoever has no grant is told states, and no reasons."""

    def __init__(
        self,
        app: ASGIApp,
        look: Callable[[], Awaitable[Report]],
        show: Callable[[Report], bytes],
    ) -> None:
        self._app = app
        self._look = look
        self._show = show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe; pass on everything else."""
        path = scope.get("path")
        if scope["type"] != "http" or not (path in OPEN or path == METRICS):
            await self._app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await reply(send, 405, b'{"error": "GET or HEAD"}', more=[(b"allow", b"GET, HEAD")])
        else:
            status, kind, body = await self._answer(str(path), known=PRINCIPAL in scope)
            await reply(send, status, body, kind=kind)

    async def _answer(self, path: str, *, known: bool) -> Answer:
        if path == "/healthz":
            return 200, "text/plain", b"ok\n"
        report = await self._look()
        if path == METRICS:
            return 200, CONTENT_TYPE, self._show(report)
        return 200 if report.ready else 503, JSON, _encode(report, known=known)


class Figures:
    """ASGI application of the metrics alone, for a listener on loopback."""

    def __init__(
        self, look: Callable[[], Awaitable[Report]], show: Callable[[Report], bytes]
    ) -> None:
        self._look = look
        self._show = show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET /metrics."""
        del receive
        if scope["type"] != "http" or scope["path"] != METRICS:
            await reply(send, 404, b'{"error": "only /metrics is here"}')
            return
        await reply(send, 200, self._show(await self._look()), kind=CONTENT_TYPE)


def _encode(report: Report, *, known: bool) -> bytes:
    checks = {
        finding.name: {"state": finding.state, "reason": finding.reason} if known else finding.state
        for finding in report.findings
    }
    return json.dumps({"ready": report.ready, "checks": checks}, indent=1).encode() + b"\n"
