"""The door: who comes in, what the others are told, and how guessing is slowed down."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.types import Message, Receive, Scope, Send

from pvemcp.access.attempts import ADDRESSES, FAILURES, WINDOW, Attempts
from pvemcp.access.bearer import PRINCIPAL, BearerAuth
from pvemcp.access.grants import Grant, Grants
from pvemcp.call import ApiToken, Effect, Principal
from pvemcp.errors import Unavailable
from pvemcp.store import Store

DEFAULT = ApiToken("mcp@pve!default", "d")
OWN = ApiToken("mcp@pve!own", "o")
GRANT = Grant("id1", "laptop", Effect.CHANGE, created=0.0)
SECRET = "pvemcp_" + "a" * 43


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Inside:
    """The guarded app: remembers the scopes that came through."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Answer:
    def __init__(self, messages: list[Message]) -> None:
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body: bytes = messages[1]["body"]

    @property
    def json(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.body)
        return found


def only_the_secret(secret: str) -> Grant | None:
    return GRANT if secret == SECRET else None


def door(inside: Inside, clock: Clock | None = None, **options: Any) -> BearerAuth:
    options.setdefault("authenticate", only_the_secret)
    authenticate = options.pop("authenticate")
    return BearerAuth(
        inside, authenticate, default_token=DEFAULT, clock=clock or Clock(), **options
    )


async def knock(
    auth: BearerAuth,
    *authorization: bytes | str,
    address: str | None = "192.0.2.1",
    path: str = "/mcp",
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> Answer:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the door reads no body")

    values = [item.encode() if isinstance(item, str) else item for item in authorization]
    headers = [(b"authorization", value) for value in values]
    client = (address, 5) if address is not None else None
    await auth(
        {"type": "http", "path": path, "headers": [*headers, *extra], "client": client},
        receive,
        send,
    )
    return Answer(sent)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_secret_opens_the_door_in_any_case_of_the_scheme(scheme: str) -> None:
    inside = Inside()
    assert (await knock(door(inside), f"{scheme} {SECRET}")).status == 200
    scope = inside.scopes[0]
    assert scope[PRINCIPAL] == Principal("laptop", Effect.CHANGE, DEFAULT, "id1", "192.0.2.1")
    assert isinstance(scope["user"], AuthenticatedUser)
    assert scope["user"].access_token.client_id == "id1"
    assert scope["auth"].scopes == ["change"]
    assert SECRET not in repr(scope["user"].access_token)


async def test_a_grant_with_its_own_pve_token_works_with_that(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        _, secret = grants.create("laptop", Effect.READ, token=OWN)
        inside = Inside()
        await knock(door(inside, authenticate=grants.authenticate), f"Bearer {secret}")
        assert inside.scopes[0][PRINCIPAL].token == OWN


@pytest.mark.parametrize("authorization", [(), ("Basic dTpw",), ("Digest x",), (SECRET,)])
async def test_without_a_bearer_secret_the_challenge_has_no_error_code(
    authorization: tuple[str, ...],
) -> None:
    inside = Inside()
    answer = await knock(door(inside), *authorization)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="pvemcp"'
    assert "pvemcp grant create" in answer.json["hint"]
    assert not inside.scopes


async def test_a_wrong_secret_is_an_invalid_token_and_is_not_repeated() -> None:
    inside = Inside()
    answer = await knock(door(inside), f"Bearer {SECRET[:-1]}b")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="pvemcp", error="invalid_token", '
        'error_description="The secret is unknown, expired or revoked"'
    )
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert set(answer.json) == {"error", "message", "hint"}
    assert SECRET[:-1] not in answer.body.decode()
    assert not inside.scopes


@pytest.mark.parametrize(
    "authorization",
    [("Bearer",), ("Bearer ",), ("Bearer a b",), (b"Bearer \xff",), (f"Bearer {SECRET}",) * 2],
)
async def test_a_malformed_credential_is_an_invalid_request(
    authorization: tuple[str | bytes, ...],
) -> None:
    inside = Inside()
    answer = await knock(door(inside), *authorization)
    assert answer.status == 400
    assert 'error="invalid_request"' in answer.headers["www-authenticate"]
    assert not inside.scopes


async def test_ten_failures_close_the_door_for_a_minute_to_all_but_the_right_secret() -> None:
    clock, inside = Clock(), Inside()
    auth = door(inside, clock)
    for _ in range(FAILURES):
        assert (await knock(auth, "Bearer wrong")).status == 401
        clock.now += 1
    blocked = await knock(auth, "Bearer wrong")
    assert blocked.status == 429
    assert blocked.headers["retry-after"] == "50"
    assert not inside.scopes
    assert (await knock(auth, f"Bearer {SECRET}")).status == 200
    clock.now += 50
    assert (await knock(auth, "Bearer wrong")).status == 401


async def test_only_guesses_are_counted() -> None:
    auth = door(Inside())
    for _ in range(FAILURES * 2):
        assert (await knock(auth)).status == 401
        assert (await knock(auth, f"Bearer {SECRET}")).status == 200


async def test_a_forwarded_address_is_not_believed() -> None:
    auth = door(Inside())
    for number in range(FAILURES + 1):
        forwarded = ((b"x-forwarded-for", f"198.51.100.{number}".encode()),)
        answer = await knock(auth, "Bearer wrong", extra=forwarded)
    assert answer.status == 429


async def test_a_client_on_a_unix_socket_has_no_address() -> None:
    inside = Inside()
    assert (await knock(door(inside), f"Bearer {SECRET}", address=None)).status == 200
    assert inside.scopes[0][PRINCIPAL].address == ""


async def test_a_database_that_fails_is_503_and_no_failed_attempt() -> None:
    def fails(_: str) -> Grant | None:
        raise Unavailable("The database is locked.", hint="Try again.")

    auth = door(Inside(), authenticate=fails)
    for _ in range(FAILURES + 1):
        answer = await knock(auth, f"Bearer {SECRET}")
    assert (answer.status, answer.json["message"]) == (503, "The database is locked.")


async def test_every_path_is_guarded_but_the_open_ones() -> None:
    inside = Inside()
    auth = door(inside, open_paths=frozenset({"/healthz"}))
    assert (await knock(auth, path="/healthz")).status == 200
    for path in ("/", "/mcp/", "//healthz", "/healthz/"):
        assert (await knock(auth, path=path)).status == 401
    assert PRINCIPAL not in inside.scopes[0]


async def test_a_websocket_is_refused_and_the_lifespan_passes() -> None:
    inside, sent = Inside(), []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {}

    await door(inside)({"type": "websocket", "path": "/mcp", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
    await door(inside)({"type": "lifespan"}, receive, send)
    assert [scope["type"] for scope in inside.scopes] == ["lifespan"]


def test_the_table_of_addresses_is_bounded_and_forgets_the_oldest() -> None:
    attempts = Attempts(Clock())
    for _ in range(FAILURES):
        attempts.failed("10.0.0.1")
    assert attempts.wait("10.0.0.1") == WINDOW
    for number in range(ADDRESSES):
        attempts.failed(f"10.1.{number // 256}.{number % 256}")
    assert len(attempts) == ADDRESSES
    assert attempts.wait("10.0.0.1") == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
    ],
)
def test_an_ipv6_client_is_its_network(one: str, other: str, same: bool) -> None:
    attempts = Attempts(Clock())
    for _ in range(FAILURES):
        attempts.failed(one)
    assert (attempts.wait(other) > 0) == same


def test_no_header_and_no_address_makes_the_door_fall_over() -> None:
    @given(st.lists(st.binary(), max_size=3), st.text())
    def knocked(headers: list[bytes], address: str) -> None:
        answer = asyncio.run(knock(door(Inside()), *headers, address=address))
        assert answer.status in {400, 401, 429}

    knocked()
