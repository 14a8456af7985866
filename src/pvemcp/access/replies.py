"""Answers over HTTP that are not MCP's: whole, and never kept by anybody on the way."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Send

JSON = "application/json"


async def reply(
    send: Send,
    status: int,
    body: bytes,
    *,
    kind: str = JSON,
    more: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer a request; `more` are headers besides the usual ones."""
    headers = [
        (b"content-type", kind.encode("ascii")),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
