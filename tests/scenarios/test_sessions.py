"""Limits and sessions: what one client may ask, who is connected, and how a session is ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from pvemcp.call import Effect
from pvemcp.cli import commands
from pvemcp.errors import Fault, Missing, Unavailable
from pvemcp.watch import asking
from tests.scenarios.rig import ERAS, ToolFault
from tests.scenarios.test_guests import a_guest
from tests.scenarios.test_http import DISCOVER, HEADERS, Web, opened_session, web


async def ask(w: Web, do: str, **more: Any) -> Any:
    return await asyncio.to_thread(asking.ask, w.rig.store.path.parent, do, **more)


async def listed(w: Web) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await ask(w, "sessions")
    return found


async def until(w: Web, so_many: int) -> list[dict[str, Any]]:
    while len(found := await listed(w)) != so_many:
        await asyncio.sleep(0.01)
    return found


# What is too much


async def test_calls_beyond_the_rate_are_told_which_limit_and_when(era: str) -> None:
    async with web(calls_per_minute=2) as w, w.client(era) as client:
        for _ in range(2):
            await client.call("api_read", path="/version")
        with pytest.raises(ToolFault, match=r"limited: calls_per_minute: .*\n.*again in \d+ s"):
            await client.call("api_read", path="/version")
        assert [entry.outcome for entry in w.rig.audit()] == ["ok", "ok", "limited"]
        _, other = w.grants.create("other", Effect.READ)
        async with w.client(era, other) as neighbour:
            await neighbour.call("api_read", path="/version")


async def test_requests_beyond_the_rate_are_429_with_retry_after() -> None:
    async with web(requests_per_minute=10) as w:
        found = [await w.post() for _ in range(11)]
        assert [status for status, _, _ in found] == [200] * 10 + [429]
        _, headers, text = found[-1]
        assert 1 <= int(headers["Retry-After"]) <= 6
        body = json.loads(text)
        assert (body["error"], body["limit"]) == ("limited", "requests_per_minute")
        assert "hint" in body
        _, other = w.grants.create("other", Effect.READ)
        assert (await w.post({"Authorization": f"Bearer {other}"}))[0] == 200


@pytest.mark.parametrize("limit", ["concurrent_calls_per_grant", "concurrent_calls"])
async def test_calls_at_once_are_bounded(era: str, limit: str) -> None:
    few: dict[str, Any] = {limit: 2}
    async with web(**few) as w, w.client(era) as client:
        waiting = [
            asyncio.create_task(client.call("guest_power", guests=vmid, action=action, wait=60))
            for vmid, action in (
                (a_guest(w.rig, running=False), "start"),
                (a_guest(w.rig, running=True), "stop"),
            )
        ]
        while len(w.rig.running()) < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(ToolFault, match=f"limited: {limit}: 2 calls"):
            await client.call("api_read", path="/version")
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        async with asyncio.timeout(5):
            while True:
                try:
                    await client.call("api_read", path="/version")
                    break
                except ToolFault:
                    await asyncio.sleep(0.01)


async def test_a_long_answer_is_cut_and_says_so() -> None:
    async with web(result_limit=500) as w, w.client() as client:
        text = await client.call("inventory_find")
        assert "(result_limit: " in text
        assert len(text) < 600


# Who is connected


async def test_who_is_connected_is_listed_with_client_address_grant_and_calls(era: str) -> None:
    async with web() as w:
        assert await listed(w) == []
        async with w.client(era) as client:
            await client.call("api_read", path="/version")
            await client.call("api_read", path="/version")
            [seen] = await until(w, 1)
        assert seen["client"].startswith("mcp")
        assert (seen["address"], seen["grant"], seen["calls"]) == ("127.0.0.1", "laptop", 2)
        assert seen["protocol"] == ("session" if era == ERAS[0] else "stateless")
        assert seen["since"] <= seen["last_call"]
        if era == ERAS[0]:
            assert await until(w, 0) == []  # its client has said goodbye


async def test_sessions_are_shown_by_the_command_line() -> None:
    async with web() as w, w.client() as client:
        await client.call("api_read", path="/version")
        env = {**os.environ, "PVEMCP_STATE_DIR": str(w.rig.store.path.parent)}

        def run(*words: str) -> str:
            done = CliRunner().invoke(commands, words, env=env, catch_exceptions=False)
            assert done.exit_code == 0
            return done.output

        text = await asyncio.to_thread(run, "sessions")
        assert [word in text for word in ("GRANT", "laptop", "127.0.0.1")] == [True] * 3
        [seen] = json.loads(await asyncio.to_thread(run, "sessions", "--json"))
        assert "pvemcp grant revoke laptop" in await asyncio.to_thread(
            run, "sessions", "end", seen["id"]
        )
        assert await asyncio.to_thread(run, "sessions") == "Nobody is connected.\n"


async def test_sessions_of_one_grant_are_bounded_before_2026_07_28() -> None:
    async with web(sessions_per_grant=2) as w:
        sessions = [await opened_session(w) for _ in range(2)]
        status, headers, text = await initialize(w)
        assert status == 429
        assert json.loads(text)["limit"] == "sessions_per_grant"
        assert headers["Retry-After"] == "60"
        assert (await delete(w, sessions[0])) == 200
        await opened_session(w)


async def test_sessions_of_all_are_bounded() -> None:
    async with web(sessions=1) as w:
        await opened_session(w)
        _, other = w.grants.create("other", Effect.READ)
        status, _, text = await initialize(w, {"Authorization": f"Bearer {other}"})
        assert status == 503
        assert json.loads(text)["limit"] == "sessions"
        status, headers, text = await w.post({"Authorization": f"Bearer {other}"})
        assert status == 503
        assert headers["Retry-After"] == "60"
        assert json.loads(text)["error"]["data"]["limit"] == "sessions"


async def test_names_of_clients_are_bounded_since_2026_07_28() -> None:
    async with web(sessions_per_grant=3) as w:
        found = [await w.post(json=named(f"client{n}")) for n in range(4)]
        assert [status for status, _, _ in found] == [200, 200, 200, 429]
        assert json.loads(found[-1][2])["error"]["data"]["limit"] == "sessions_per_grant"
        assert (await w.post(json=named("client0")))[0] == 200


async def test_an_opening_that_fails_leaves_no_session() -> None:
    async with web() as w:
        plain = {"MCP-Protocol-Version": "", "Mcp-Method": ""}
        for body in (b"{", b"[]", b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'):
            await w.post({**plain, "Content-Type": "application/json"}, data=body)
        assert await listed(w) == []


async def test_the_name_of_a_client_cannot_work_a_terminal() -> None:
    async with web() as w:
        await w.post(json=named("\x1b[2J\u202eevil\n"))
        [seen] = await listed(w)
        assert seen["client"] == "?[2J?evil? 1"


# How a session is ended


async def test_an_ended_session_loses_its_calls_and_streams(era: str) -> None:
    async with web() as w, w.client(era) as client:
        vmid = a_guest(w.rig, running=False)
        call = asyncio.create_task(client.call("guest_power", guests=vmid, action="start", wait=60))
        await w.rig.until_running()
        [seen] = await until(w, 1)
        ended = await ask(w, "end", id=seen["id"])
        assert ended["cut"] >= 1
        async with asyncio.timeout(10):
            while w.rig.audit()[0].outcome != "cancelled":
                await asyncio.sleep(0.01)
        assert await listed(w) == []
        call.cancel()
        await asyncio.wait([call])


async def test_an_ended_session_is_unknown_before_2026_07_28() -> None:
    async with web() as w, aiohttp.ClientSession() as http:
        mcp_id = await opened_session(w)
        headers = {
            "Accept": "text/event-stream",
            "Authorization": f"Bearer {w.secret}",
            "MCP-Protocol-Version": "2025-11-25",
            "Mcp-Session-Id": mcp_id,
        }
        stream = await http.get(w.url, headers=headers)
        [seen] = await until(w, 1)
        await ask(w, "end", id=seen["id"])
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await stream.content.read()
        stream.close()
        assert (await delete(w, mcp_id)) == 404
        await opened_session(w)  # a new one may be opened


async def test_an_ended_client_is_refused_for_a_while_since_2026_07_28() -> None:
    async with web() as w:
        assert (await w.post(json=named("one")))[0] == 200
        assert (await w.post(json=named("two")))[0] == 200
        [one] = [seen for seen in await listed(w) if seen["client"] == "one 1"]
        await ask(w, "end", id=one["id"])
        status, headers, text = await w.post(json=named("one"))
        assert status == 429
        assert 50 < int(headers["Retry-After"]) <= 60
        assert "administrator has ended this session" in json.loads(text)["error"]["message"]
        assert (await w.post(json=named("two")))[0] == 200


async def test_revoking_a_grant_cuts_what_its_clients_have_under_way(era: str) -> None:
    async with web() as w, w.client(era) as client:
        vmid = a_guest(w.rig, running=False)
        call = asyncio.create_task(client.call("guest_power", guests=vmid, action="start", wait=60))
        await w.rig.until_running()
        w.grants.revoke("laptop")
        async with asyncio.timeout(5):
            while w.rig.audit()[0].outcome != "cancelled":
                await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])


# The control socket


async def test_only_its_own_user_can_connect_to_the_control_socket() -> None:
    async with web() as w:
        path = w.rig.store.path.parent / asking.FILE
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "line", [b"", b"{\n", b"[]\n", b'{"do":"x"}\n', b"\xff\n", b"1" * 3_000_000]
)
async def test_nonsense_on_the_control_socket_does_no_harm(line: bytes) -> None:
    async with web() as w:
        path = w.rig.store.path.parent / asking.FILE
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert b"fault" in await reader.read()
        writer.close()
        with pytest.raises(Missing):
            await ask(w, "end", id="nobody")


async def test_without_a_service_the_command_line_says_so() -> None:
    async with web() as w:
        folder = w.rig.store.path.parent
        await w.running.stop()
        with pytest.raises(Unavailable, match="does not answer") as caught:
            asking.ask(folder, "sessions")
        assert isinstance(caught.value, Fault)
        assert "systemctl status pvemcp" in caught.value.hint


def named(client: str) -> dict[str, Any]:
    meta = DISCOVER["params"]["_meta"]
    info = {"io.modelcontextprotocol/clientInfo": {"name": client, "version": "1"}}
    return {**DISCOVER, "params": {"_meta": {**meta, **info}}}


async def initialize(w: Web, more: dict[str, str] | None = None) -> tuple[int, dict[str, str], str]:
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    plain = {"MCP-Protocol-Version": "", "Mcp-Method": "", **(more or {})}
    return await w.post(plain, json=message)


async def delete(w: Web, mcp_id: str) -> int:
    headers = {
        **HEADERS,
        "Authorization": f"Bearer {w.secret}",
        "MCP-Protocol-Version": "2025-11-25",
        "Mcp-Session-Id": mcp_id,
    }
    async with aiohttp.ClientSession() as http, http.delete(w.url, headers=headers) as answer:
        return answer.status
