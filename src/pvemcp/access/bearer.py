"""The door: HTTP requests come in with a grant's secret, or not at all (RFC 6750)."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.authentication import AuthCredentials
from starlette.types import ASGIApp, Receive, Scope, Send

from pvemcp.access.attempts import Attempts
from pvemcp.access.fresh import OPENED
from pvemcp.access.grants import Grant
from pvemcp.access.replies import TurnedAway, address_of, nobody_told, reply
from pvemcp.call import ApiToken, Principal
from pvemcp.errors import Unavailable

PRINCIPAL = "pvemcp.principal"
"""Key of the Principal in the ASGI scope."""
REALM = 'Bearer realm="pvemcp"'
_BEARER = re.compile(rb"bearer(?:[ \t]+(.*))?", re.IGNORECASE | re.DOTALL)
_TOKEN = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")  # b64token of RFC 6750
_HOW = (
    "Send the header Authorization: Bearer SECRET, where SECRET is what pvemcp grant create showed."
)


class BearerAuth:
    """ASGI middleware that lets only holders of a grant through.

    It guards every HTTP path of `app`; to `open_paths` one may also come with no secret at all.
    WebSockets are refused. `turned_away` is told who is not let in, and why.
    The app finds the caller in `scope["pvemcp.principal"]`, and in `scope["user"]` and
    `scope["auth"]` for the MCP SDK, which ties a session to the grant that opened it. The client's
    address is the one of the connection: X-Forwarded-For is not believed.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticate: Callable[[str], Grant | None],
        *,
        default_token: ApiToken | None,
        refused: Callable[[ApiToken], Awaitable[bool]] | None = None,
        open_paths: frozenset[str] = frozenset(),
        turned_away: TurnedAway = nobody_told,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._default_token = default_token
        self._refused = refused
        self._open_paths = open_paths
        self._turned_away = turned_away
        self._attempts = Attempts(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outcome = await self._admit(scope)
        if outcome is _ABSENT and scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        if isinstance(outcome, _Refusal):
            self._turned_away(outcome.error, address_of(scope), outcome.client)
            await _refuse(send, outcome)
            return
        await self._app(outcome, receive, send)

    async def _admit(self, scope: Scope) -> Scope | _Refusal:
        address = address_of(scope)
        secret = _secret(scope)
        if isinstance(secret, _Refusal):
            return secret
        try:
            grant = self._authenticate(secret)
        except Unavailable as fault:
            return _Refusal(503, "unavailable", fault.message, fault.hint)
        if grant is None:
            # The right secret always gets in: nobody guesses 256 bits, but anybody who shares an
            # address (loopback, a NAT) could lock its other users out.
            wait = self._attempts.wait(address)
            if wait > 0:
                return _too_many(wait)
            self._attempts.failed(address)
            return _WRONG
        token = grant.token or self._default_token
        if token is None:
            return _no_token(grant)
        if grant.token and self._refused and await self._refused(grant.token):
            return _ended(grant)
        return self._scope(scope, grant, token, address)

    def _scope(self, scope: Scope, grant: Grant, token: ApiToken, address: str) -> Scope:
        scopes = [str(grant.ceiling)]
        access = AccessToken(token="", client_id=grant.id, scopes=scopes)
        principal = Principal(
            name=grant.name,
            ceiling=grant.ceiling,
            token=token,
            grant=grant.id,
            address=address,
            opened=scope.get(OPENED, 0.0),
        )
        return {
            **scope,
            PRINCIPAL: principal,
            "user": AuthenticatedUser(access),
            "auth": AuthCredentials(scopes),
        }


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    error: str
    message: str
    hint: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    client: str = ""
    """Name of the grant, where it is known."""


def _challenge(error: str = "", description: str = "") -> tuple[tuple[bytes, bytes], ...]:
    details = f', error="{error}", error_description="{description}"' if error else ""
    return ((b"www-authenticate", f"{REALM}{details}".encode("ascii")),)


def _malformed(problem: str) -> _Refusal:
    return _Refusal(400, "invalid_request", problem, _HOW, _challenge("invalid_request", problem))


def _too_many(wait: float) -> _Refusal:
    seconds = math.ceil(wait)
    return _Refusal(
        429,
        "too_many_attempts",
        "Too many wrong secrets came from this address.",
        f"Try again in {seconds} s, with the right secret.",
        ((b"retry-after", str(seconds).encode("ascii")),),
    )


_ABSENT = _Refusal(401, "unauthenticated", "This service needs a grant.", _HOW, _challenge())
_WRONG_TEXT = "The secret is unknown, expired or revoked"
_WRONG = _Refusal(
    401,
    "invalid_token",
    f"{_WRONG_TEXT}.",
    "On the host of pvemcp: pvemcp grant list shows the grants, pvemcp grant create NAME "
    "--ceiling read makes a new one.",
    _challenge("invalid_token", _WRONG_TEXT),
)


def _ended(grant: Grant) -> _Refusal:
    text = f"PVE no longer accepts the token of this client ({grant.token_id})"
    return _Refusal(
        401,
        "invalid_token",
        f"{text}: it was removed, has expired, or its user is disabled.",
        f"On the host of pvemcp: pvemcp client list shows it; pvemcp client revoke {grant.name}, "
        "then pvemcp client add, makes it anew.",
        _challenge("invalid_token", text),
        grant.name,
    )


def _no_token(grant: Grant) -> _Refusal:
    return _Refusal(
        403,
        "no_pve_token",
        f"The grant {grant.name} has no PVE token, and none is configured.",
        "On the host of pvemcp: pvemcp client add NAME makes a client with a token of its own.",
        client=grant.name,
    )


def _secret(scope: Scope) -> str | _Refusal:
    found = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if not found:
        return _ABSENT
    if len(found) > 1:
        return _malformed("The Authorization header came more than once")
    match = _BEARER.fullmatch(found[0].strip())
    if match is None:
        return _ABSENT  # another scheme: say which one counts
    token = match[1] or b""
    if not _TOKEN.fullmatch(token):
        return _malformed("The Bearer credential is empty or has characters that cannot be in it")
    return token.decode("ascii")


async def _refuse(send: Send, refusal: _Refusal) -> None:
    body = json.dumps(
        {"error": refusal.error, "message": refusal.message, "hint": refusal.hint}
    ).encode("ascii")
    await reply(send, refusal.status, body, more=refusal.headers)
