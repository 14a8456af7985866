"""The service as a process of its own, as an administrator runs it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from pvemcp.access import approvals
from pvemcp.access.grants import Grants
from pvemcp.audit import Audit
from pvemcp.call import Effect
from pvemcp.chain import Chain
from pvemcp.journal.book import UNFINISHED, Book
from pvemcp.sim.http import serve
from pvemcp.sim.world import World, make_world
from pvemcp.store import Store
from pvemcp.verifying import verify
from tests.scenarios.test_approvals import id_in
from tests.unit.certificates import certificate

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass
class Service:
    """A running `pvemcp serve`."""

    process: asyncio.subprocess.Process
    url: str
    said: str
    """What it logged before it listened."""

    async def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return await self.process.wait()


@asynccontextmanager
async def simulated(world: World) -> AsyncIterator[dict[str, str]]:
    """Serve a world over HTTPS and yield the environment that points pvemcp at it."""
    async with serve(world, tls=True) as running:
        token_id, secret = world.token()
        yield {
            "PATH": os.environ["PATH"],
            "PVEMCP_PVE_URL": running.url,
            "PVEMCP_PVE_TOKEN_ID": token_id,
            "PVEMCP_PVE_TOKEN_SECRET": secret,
            "PVEMCP_PVE_CA_FILE": str(running.ca_file),
            "PVEMCP_LISTEN": "127.0.0.1:0",
        }


@asynccontextmanager
async def served(env: dict[str, str]) -> AsyncIterator[Service]:
    """Run `pvemcp serve`; it listens when the block begins, and is gone when it has ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pvemcp", "serve", env=env, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said = line = ""
    while "MCP at " not in line:
        line = (await process.stderr.readline()).decode()
        said += line
        assert line, f"serve ended with {await process.wait()}: {said}"
    draining = asyncio.create_task(_drain(process.stderr))
    try:
        yield Service(process, line.split("MCP at ")[1].strip(), said)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await draining


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def call(
    session: aiohttp.ClientSession,
    url: str,
    secret: str,
    tool: str,
    arguments: Mapping[str, object],
) -> str:
    """Call a tool over plain HTTP and return its text."""
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments, "_meta": META},
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "Authorization": f"Bearer {secret}",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
    async with session.post(url, json=body, headers=headers) as answer:
        decoded = await answer.json()
    return str(decoded["result"]["content"][0]["text"])


async def killed_after(service: Service, secret: str, after: int) -> list[str]:
    """Make 100 pools at once, kill the service after so many answers; return those answered."""
    answered: list[str] = []
    enough = asyncio.Event()

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        pool = f"pool{number}"
        arguments = {"method": "POST", "path": "/pools", "params": {"poolid": pool}}
        try:
            await call(session, service.url, secret, "api_change", arguments)
        except (aiohttp.ClientError, OSError):
            return
        answered.append(pool)
        if len(answered) >= after:
            enough.set()

    connector = aiohttp.TCPConnector(limit=100)
    async with aiohttp.ClientSession(connector=connector) as session:
        calls = [asyncio.create_task(one(session, number)) for number in range(100)]
        await enough.wait()
        assert await service.end(signal.SIGKILL) == -signal.SIGKILL
        await asyncio.gather(*calls)
    return answered


@pytest.mark.parametrize("after", [1, 37, 90])
async def test_a_kill_during_a_hundred_calls_loses_no_call_that_was_answered(
    tmp_path: Path, after: int
) -> None:
    world = make_world("homelab")
    async with simulated(world) as env:
        env["PVEMCP_STATE_DIR"] = str(tmp_path)
        env["PVEMCP_CONCURRENT_CALLS_PER_GRANT"] = "100"
        with Store(tmp_path) as store:
            _, secret = Grants(store).create("laptop", Effect.CHANGE)
        async with served(env) as service:
            answered = await killed_after(service, secret, after)
        assert len(answered) >= after

        async with served(env) as again:
            async with aiohttp.ClientSession() as session:
                text = await call(session, again.url, secret, "api_read", {"path": "/version"})
                assert "release" in text
            assert await again.end(signal.SIGTERM) == 0
        with Store(tmp_path) as store:
            rows = Audit(store, None).rows(limit=1000)
            changes = Book(store).list(limit=1000)
            assert verify(Chain(store)) == ""
        journaled = {change.params["poolid"]: change.outcome for change in changes}
        assert all(journaled[pool] == "done" for pool in answered)
        made = {pool for pool in world.pools if pool.startswith("pool")}
        assert made <= set(journaled), "PVE was asked for nothing that is not in the journal"
        assert set(journaled.values()) <= {"done", UNFINISHED}
        recorded = {row.arguments["params"]["poolid"] for row in rows if row.tool == "api_change"}
        assert set(answered) <= recorded
        finished = {
            row.arguments["params"]["poolid"]
            for row in rows
            if row.tool == "api_change" and row.outcome == "ok"
        }
        assert set(answered) <= finished


KILLS = int(os.environ.get("PVEMCP_KILLS", "4"))
"""Moments at which the service is killed; 200 for the long run."""


@pytest.mark.timeout(60 + 15 * KILLS)
async def test_a_kill_at_any_moment_leaves_no_approval_to_be_used_twice(tmp_path: Path) -> None:
    world = make_world("homelab")
    choose = random.Random(7)  # noqa: S311 - the same moments each time
    root = approvals.Person("root", "host")
    async with simulated(world) as env:
        env["PVEMCP_STATE_DIR"] = str(tmp_path)
        with Store(tmp_path) as store:
            _, secret = Grants(store).create("laptop", Effect.DESTROY)
        vmids = [g.vmid for g in world.guests.values() if g.running and g.type == "qemu"]
        for _ in range(KILLS):
            done = len([task for task in world.tasks if task.type == "qmreset"])
            async with served(env) as service, aiohttp.ClientSession() as session:
                asked = [await reset(session, service.url, secret, vmid) for vmid in vmids]
                ids = [id_in(text) for text in asked]
                with Store(tmp_path) as store:
                    for id_ in ids:
                        approvals.Approvals(store).approve(id_, root)
                pairs = list(zip(vmids, ids, strict=True))
                calls = [
                    asyncio.create_task(reset(session, service.url, secret, *pair))
                    for pair in pairs * 2
                ]
                await asyncio.wait(calls, timeout=choose.uniform(0.0, 0.15))
                assert await service.end(signal.SIGKILL) == -signal.SIGKILL
                await asyncio.gather(*calls, return_exceptions=True)
            async with served(env) as again, aiohttp.ClientSession() as session:
                for pair in pairs:
                    await reset(session, again.url, secret, *pair)
                assert await again.end(signal.SIGTERM) == 0
            resets = [task.id for task in world.tasks if task.type == "qmreset"][done:]
            assert sorted(resets) == sorted(set(resets)), "an approval was used twice"
            with Store(tmp_path) as store:
                assert verify(Chain(store)) == ""
                journaled = [c for c in Book(store).list(limit=10_000) if "reset" in c.path]
            assert len(journaled) >= done + len(resets)


async def reset(
    session: aiohttp.ClientSession, url: str, secret: str, vmid: int, approval: str = ""
) -> str:
    """Ask for a reset of a guest, perhaps with an approval."""
    arguments = {"guests": vmid, "action": "reset", "approval": approval}
    return await call(session, url, secret, "guest_power", arguments)


async def test_serve_refuses_to_listen_beyond_loopback_without_tls(tmp_path: Path) -> None:
    async with simulated(make_world("homelab")) as env:
        env |= {"PVEMCP_STATE_DIR": str(tmp_path), "PVEMCP_LISTEN": "0.0.0.0:0"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pvemcp", "serve", env=env, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        assert process.returncode == 2
        text = said.decode()
        assert "PVEMCP_TLS_CERT" in text
        assert "Traceback" not in text


async def test_serve_warns_of_a_certificate_that_clients_will_refuse(tmp_path: Path) -> None:
    async with simulated(make_world("homelab")) as env:
        env["PVEMCP_STATE_DIR"] = str(tmp_path)
        for days, since, warned in (
            (-1, -100, "expired on"),
            (9, 1, "not valid before"),
            (9, -1, ""),
        ):
            cert, key = certificate(tmp_path, days=days, since=since)
            env |= {"PVEMCP_TLS_CERT": str(cert), "PVEMCP_TLS_KEY": str(key)}
            async with served(env) as service:
                assert await service.end(signal.SIGTERM) == 0
            assert ("the certificate" in service.said) == bool(warned)
            assert warned in service.said
