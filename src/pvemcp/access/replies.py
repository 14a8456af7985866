"""Answers over HTTP that are not MCP's: whole, and never kept by anybody on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import Scope, Send

JSON = "application/json"
TurnedAway = Callable[[str, str, str], None]
"""`(reason, address, client)`: told of each request that is refused before it is a call. `client`
is the grant's name, empty where nobody knows it."""


def nobody_told(_reason: str, _address: str, _client: str) -> None:
    """Tell nobody."""


def address_of(scope: Scope) -> str:
    """Return the address at the other end of the connection; empty of a Unix socket."""
    client = scope.get("client")
    return str(client[0]) if client else ""


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
