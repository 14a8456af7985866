"""Which names a request may be addressed to: the guard against DNS rebinding.

A page in a browser can make the browser call this service under a name of the page's own; such a
request carries that name in its Host and its Origin, and both are refused here.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from pvemcp.access.replies import TurnedAway, address_of, nobody_told

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


def own_names(listen_host: str, extra: Iterable[str] = ()) -> frozenset[str]:
    """Return the names under which this machine may be called, in lower case without ports.

    Listening on every address adds the machine's names and addresses. `extra` may hold ports,
    which do not count.
    """
    names = {*LOOPBACK, listen_host, *(_name(f"//{name}") for name in extra)}
    if listen_host in _ANY:
        names |= _machine_names()
    return frozenset(name.lower() for name in names if name and name not in _ANY)


def _machine_names() -> set[str]:
    names = {socket.gethostname(), socket.getfqdn()}
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Connecting a datagram socket sends nothing: it only picks the address of the route.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as picked:
            picked.connect((probe, 9))
            names.add(str(picked.getsockname()[0]))
    with contextlib.suppress(OSError):
        names |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    return {name.partition("%")[0] for name in names}


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


class HostCheck:
    """ASGI middleware that answers 421 to a foreign Host and 403 to a foreign Origin."""

    def __init__(
        self, app: ASGIApp, names: frozenset[str], turned_away: TurnedAway = nobody_told
    ) -> None:
        self._app = app
        self._names = names
        self._turned_away = turned_away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with the setting that would allow it."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = _name(f"//{headers.get(b'host', b'').decode('latin-1')}")
            if host not in self._names:
                await self._refuse(scope, send, 421, "Host", host)
                return
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin and _name(origin) not in self._names:
                await self._refuse(scope, send, 403, "Origin", _name(origin))
                return
        await self._app(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, status: int, header: str, name: str) -> None:
        self._turned_away(f"foreign_{header.lower()}", address_of(scope), "")
        await _refuse(send, status, header, name)


async def _refuse(send: Send, status: int, header: str, name: str) -> None:
    body = json.dumps(
        {
            "error": f"{header} {name[:253]!r} is not a name of this service",
            "hint": "If it is, add it to allowed_hosts (PVEMCP_ALLOWED_HOSTS).",
        }
    ).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
