"""What monitoring asks: /healthz, /readyz, /metrics."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from pvemcp.access.bearer import PRINCIPAL
from pvemcp.watch.exposition import CONTENT_TYPE
from pvemcp.watch.readiness import Report

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no grant."""
METRICS = "/metrics"
JSON = "application/json"

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
            await _send(send, (405, JSON, b'{"error": "GET or HEAD"}'), [(b"allow", b"GET, HEAD")])
        else:
            await _send(send, await self._answer(str(path), known=PRINCIPAL in scope))

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
            await _send(send, (404, JSON, b'{"error": "only /metrics is here"}'))
            return
        await _send(send, (200, CONTENT_TYPE, self._show(await self._look())))


def _encode(report: Report, *, known: bool) -> bytes:
    checks = {
        finding.name: {"state": finding.state, "reason": finding.reason} if known else finding.state
        for finding in report.findings
    }
    return json.dumps({"ready": report.ready, "checks": checks}, indent=1).encode() + b"\n"


async def _send(send: Send, answer: Answer, more: list[tuple[bytes, bytes]] | None = None) -> None:
    status, kind, body = answer
    headers = [
        (b"content-type", kind.encode("ascii")),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *(more or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
