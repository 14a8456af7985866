"""The service on the wire: who gets in, and what happens when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from pvemcp.access.grants import Grants
from pvemcp.access.policy import Open, Policy
from pvemcp.app import compose
from pvemcp.call import ApiToken, Effect
from pvemcp.connections import Connection
from pvemcp.errors import Misconfigured
from pvemcp.host.executor import Executor
from pvemcp.listener import Running, bind, start
from pvemcp.settings import Settings
from pvemcp.settings.policy import Rule
from pvemcp.sim.tls import make_certificates
from pvemcp.watch.clock import Clock
from tests.scenarios.rig import ERAS, Caller, Rig, rig
from tests.scenarios.test_guests import a_guest
from tests.unit.test_retention import fill, ids

DISCOVER: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/list",
}


@dataclass
class Web:
    """The service listening on loopback."""

    rig: Rig
    grants: Grants
    now: list[float]
    """The grants' clock, in seconds."""
    running: Running
    url: str
    secret: str

    @asynccontextmanager
    async def client(
        self,
        era: str = ERAS[-1],
        secret: str = "",
        verify: ssl.SSLContext | bool = True,
        hears: Any = None,
        elicit: Any = None,
    ) -> AsyncIterator[Caller]:
        """Connect an MCP client; `hears` is told of what the service sends by itself, `elicit`
        answers dialogs.
        """
        headers = {"Authorization": f"Bearer {secret or self.secret}"}
        async with httpx2.AsyncClient(headers=headers, verify=verify, timeout=30) as http:
            transport = streamable_http_client(self.url, http_client=http)
            mode = "legacy" if era == ERAS[0] else era
            async with Client(
                transport, mode=mode, message_handler=hears, elicitation_callback=elicit
            ) as mcp:
                yield Caller(mcp)

    async def post(
        self, headers: dict[str, str] | None = None, json: object = DISCOVER, data: object = None
    ) -> tuple[int, dict[str, str], str]:
        merged = {**HEADERS, "Authorization": f"Bearer {self.secret}", **(headers or {})}
        merged = {name: value for name, value in merged.items() if value}
        async with aiohttp.ClientSession() as session:
            body: dict[str, Any] = {"data": data} if data is not None else {"json": json}
            async with session.post(self.url, headers=merged, **body) as answer:
                return answer.status, dict(answer.headers), await answer.text()


@asynccontextmanager
async def web(
    http: type[Connection] = Connection,
    executor: Executor | None = None,
    default: tuple[str, str] | None = ("", ""),
    clock: Clock | None = None,
    policy: Policy | None = Open(),  # noqa: B008 - it has no state
    rules: tuple[Rule, ...] = (),
    **changes: Any,
) -> AsyncIterator[Web]:
    async with rig("homelab", progress="manual") as r:
        settings = Settings(listen="127.0.0.1:0", state_dir=r.store.path.parent)
        settings = replace(settings, policy=rules, **changes)
        now = [1_000_000.0]
        grants = Grants(r.store, clock=lambda: now[0])
        _, secret = grants.create("laptop", Effect.DESTROY)
        app = compose(
            settings,
            store=r.store,
            grants=grants,
            pve=r.pve,
            default=ApiToken(*(default if any(default) else r.world.token())) if default else None,
            executor=executor or r.executor,
            clock=clock,
            policy=policy,
        )
        async with start(app, settings, http) as running:
            yield Web(r, grants, now, running, running.url, secret)


async def test_a_client_lists_and_calls_tools_over_http(era: str) -> None:
    async with web() as w, w.client(era) as client:
        names = [tool.name for tool in (await client.mcp.list_tools()).tools]
        assert names[0] == "cluster_overview"
        assert "12 guests" in await client.call("inventory_find")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::]:0"])
async def test_an_audit_row_names_the_grant_the_address_and_the_client(listen: str) -> None:
    async with web(listen=listen, allowed_hosts=("127.0.0.1",)) as w:
        w.url = f"http://127.0.0.1:{urlsplit(w.url).port}/mcp"
        async with w.client() as client:
            await client.call("api_read", path="/version")
        entry = w.rig.audit()[0]
        assert (entry.client, entry.address, entry.tool) == ("laptop", "127.0.0.1", "api_read")
        assert entry.mcp_client.startswith("mcp")
        assert [step["path"] for step in entry.steps] == ["/version"]
        assert entry.outcome == "ok"


async def test_a_running_service_deletes_calls_beyond_their_age() -> None:
    async with rig("homelab") as r:
        fill(r.store, [0.0, 1.0, time.time()])
        settings = Settings(listen="127.0.0.1:0", state_dir=r.store.path.parent)
        token = ApiToken(*r.world.token())
        app = compose(settings, store=r.store, grants=Grants(r.store), pve=r.pve, default=token)
        async with start(app, settings) as running, aiohttp.ClientSession() as session:
            await session.get(running.url)
            assert ids(r.store) == [2]


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ("", 'Bearer realm="pvemcp"'),
        ("Basic dXNlcjpwYXNz", 'Bearer realm="pvemcp"'),
        ("Bearer pvemcp_" + "x" * 43, 'error="invalid_token"'),
        ("Bearer nonsense", 'error="invalid_token"'),
    ],
)
async def test_without_the_right_secret_there_is_a_401_with_a_challenge(
    header: str, challenge: str
) -> None:
    async with web() as w:
        status, headers, body = await w.post({"Authorization": header})
        assert status == 401
        assert challenge in headers["WWW-Authenticate"]
        assert "hint" in body


async def test_a_revoked_grant_is_refused_on_the_next_request() -> None:
    async with web() as w:
        assert (await w.post())[0] == 200
        w.grants.revoke("laptop")
        assert (await w.post())[0] == 401


async def test_an_expired_grant_is_refused() -> None:
    async with web() as w:
        _, secret = w.grants.create("brief", Effect.READ, expires=60)
        assert (await w.post({"Authorization": f"Bearer {secret}"}))[0] == 200
        w.now[0] += 60
        assert (await w.post({"Authorization": f"Bearer {secret}"}))[0] == 401


async def test_wrong_secrets_are_limited_and_say_when_to_try_again() -> None:
    async with web() as w:
        wrong = {"Authorization": "Bearer pvemcp_" + "x" * 43}
        statuses = [(await w.post(wrong))[0] for _ in range(11)]
        assert statuses == [401] * 10 + [429]
        status, headers, _ = await w.post(wrong)
        assert status == 429
        assert int(headers["Retry-After"]) > 0


async def test_an_address_in_a_header_is_not_believed() -> None:
    async with web() as w:
        wrong = {"Authorization": "Bearer pvemcp_" + "x" * 43}
        statuses = [
            (await w.post({**wrong, "X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for={n}"}))[0]
            for n in range(11)
        ]
        assert statuses == [401] * 10 + [429]


class Hasty(Connection):
    patience = 0.2
    most = 5


@pytest.mark.parametrize("begun", [b"", b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_request_that_does_not_come_ends_its_connection(begun: bytes) -> None:
    async with web(Hasty) as w:
        host, port = w.url.removeprefix("http://").removesuffix("/mcp").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(begun)
        assert await reader.read() == b""
        writer.close()


async def test_idle_connections_do_not_keep_others_out() -> None:
    class Patient(Hasty):
        patience = 3600.0

    async with web(Patient) as w, contextlib.AsyncExitStack() as stack:
        host, port = w.url.removeprefix("http://").removesuffix("/mcp").split(":")
        for _ in range(50):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        assert (await w.post())[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example:80"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "user@127.0.0.1"}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
    ],
)
async def test_only_names_of_the_service_are_answered(headers: dict[str, str], status: int) -> None:
    async with web() as w:
        assert (await w.post(headers))[0] == status


async def test_an_allowed_host_is_answered() -> None:
    async with web(allowed_hosts=("pve1.example.org",)) as w:
        assert (await w.post({"Host": "pve1.example.org:8080"}))[0] == 200


async def test_a_body_beyond_the_limit_is_refused() -> None:
    async with web(body_limit=4096) as w:
        status, _, _ = await w.post(data=b"{" + b" " * 10_000)
        assert status == 413


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"jsonrpc":"2.0"}', b"[" * 5000]
)
async def test_a_malformed_body_is_a_client_error_without_a_traceback(body: bytes) -> None:
    async with web() as w:
        status, _, text = await w.post({"Content-Type": "application/json"}, data=body)
        assert 400 <= status < 500
        assert "Traceback" not in text


async def test_another_path_says_where_the_endpoint_is() -> None:
    async with web() as w:
        w.url = w.url.removesuffix("/mcp") + "/"
        status, _, text = await w.post()
        assert status == 404
        assert "/mcp" in text


async def test_the_service_stops_within_three_seconds_with_open_streams_and_calls() -> None:
    async with contextlib.AsyncExitStack() as stack:
        w = await stack.enter_async_context(web())
        async with aiohttp.ClientSession() as session:
            listen = {
                **DISCOVER,
                "method": "subscriptions/listen",
                "params": {**DISCOVER["params"], "notifications": {"toolsListChanged": True}},
            }
            headers = {
                **HEADERS,
                "Mcp-Method": "subscriptions/listen",
                "Authorization": f"Bearer {w.secret}",
            }
            stream = await session.post(w.url, json=listen, headers=headers)
            assert b"acknowledged" in await stream.content.readany()
            vmid = a_guest(w.rig, running=False)
            call = {
                **DISCOVER,
                "method": "tools/call",
                "params": {
                    **DISCOVER["params"],
                    "name": "guest_power",
                    "arguments": {"guests": vmid, "action": "start", "wait": 60},
                },
            }
            headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "guest_power"}
            calling = asyncio.create_task(session.post(w.url, json=call, headers=headers))
            await w.rig.until_running()
            began = time.monotonic()
            await w.running.stop()
            assert time.monotonic() - began < 3
            with contextlib.suppress(aiohttp.ClientError):
                await calling
        assert w.rig.audit()[0].outcome == "cancelled"


async def test_tls_is_served_in_process(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, names=["pve1"])
    trust = ssl.create_default_context(cadata=made.ca_pem)
    async with web(tls_cert=made.chain_file, tls_key=made.key_file) as w:
        assert w.url.startswith("https://")
        async with w.client(verify=trust) as client:
            assert "12 guests" in await client.call("inventory_find")


async def opened_session(w: Web) -> str:
    """Open a session of the era before 2026-07-28 and return its id."""
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    plain = {"MCP-Protocol-Version": "", "Mcp-Method": ""}
    status, headers, _ = await w.post(plain, json=initialize)
    assert status == 200
    return headers["mcp-session-id"]


async def test_the_service_stops_within_three_seconds_with_an_open_session_stream() -> None:
    async with web() as w, aiohttp.ClientSession() as session:
        headers = {
            "Accept": "text/event-stream",
            "Authorization": f"Bearer {w.secret}",
            "MCP-Protocol-Version": "2025-11-25",
            "Mcp-Session-Id": await opened_session(w),
        }
        stream = await session.get(w.url, headers=headers)
        assert stream.status == 200
        began = time.monotonic()
        await w.running.stop()
        assert time.monotonic() - began < 3
        stream.close()


async def test_a_grant_with_a_pve_token_of_its_own_works_with_that_one() -> None:
    async with web() as w:
        weak = w.rig.world.token("root@pam", "weak", privsep=True)
        _, secret = w.grants.create("ci", Effect.READ, token=ApiToken(*weak))
        async with w.client(secret=secret) as client:
            text = await client.call("inventory_find")
        assert text.startswith("0 guests")
        assert "root@pam!weak" in text


async def test_a_session_belongs_to_the_grant_that_opened_it() -> None:
    async with web() as w:
        session = await opened_session(w)
        _, other = w.grants.create("other", Effect.READ)
        stolen = {
            "MCP-Protocol-Version": "2025-11-25",
            "Mcp-Method": "",
            "Mcp-Session-Id": session,
            "Authorization": f"Bearer {other}",
        }
        status, _, _ = await w.post(stolen, json={**DISCOVER, "params": {}})
        assert status == 404


async def test_a_port_that_is_taken_is_said_with_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match="PVEMCP_LISTEN"):
            bind(Settings(listen=f"127.0.0.1:{port}"))
