"""What goes wrong around the service: it says so, tells somebody, and recovers by itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web as http_server
from click.testing import CliRunner

from pvemcp.access.grants import Grants
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Effect
from pvemcp.cli import commands
from pvemcp.sim.tls import make_certificates
from pvemcp.sim.world import make_world
from pvemcp.store import Store
from pvemcp.tls import own_certificate, validity
from pvemcp.watch.clock import Clock
from tests.scenarios.rig import ToolFault
from tests.scenarios.test_http import Web, web
from tests.scenarios.test_monitoring import checks, get
from tests.scenarios.test_process import call, served, simulated

HEADER = "Authorization: Bearer for-the-hook"


@dataclass
class Hook:
    """What receives alerts."""

    url: str = ""
    got: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 204

    async def until(self, event: str, key: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                for one in self.got:
                    if (one["event"], one["key"]) == (event, key):
                        return one
                await asyncio.sleep(0.02)


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    made = Hook()

    async def take(request: http_server.Request) -> http_server.Response:
        made.got.append(await request.json())
        made.headers.append(dict(request.headers))
        return http_server.Response(status=made.status)

    app = http_server.Application()
    app.router.add_post("/in/secret-path", take)
    runner = http_server.AppRunner(app)
    await runner.setup()
    site = http_server.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.url = f"http://127.0.0.1:{port}/in/secret-path"
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def watched(
    tmp_path: Path, clock: Callable[[], float] = time.time, **changes: Any
) -> AsyncIterator[tuple[Web, Hook]]:
    """A service whose alerts come within seconds, and what receives them."""
    file = tmp_path / "header"
    file.write_text(HEADER + "\n")
    file.chmod(0o600)
    async with hook() as told:
        hooked: dict[str, Any] = {"alert_webhook": told.url, "alert_webhook_header_file": file}
        async with web(clock=Clock(clock), alert_after=1, **hooked, **changes) as w:
            yield w, told


async def test_a_lock_out_for_wrong_secrets_is_told_with_the_address(tmp_path: Path) -> None:
    async with watched(tmp_path) as (w, told):
        wrong = {"Authorization": "Bearer pvemcp_" + "x" * 43}
        for _ in range(12):
            await w.post(wrong)
        said = await told.until("raised", "auth")
        assert "2 requests" in said["text"]
        assert "127.0.0.1" in said["text"]
        assert told.headers[0]["Authorization"] == "Bearer for-the-hook"
        assert "x" * 43 not in json.dumps(told.got)


async def test_a_pve_that_restarts_is_told_and_so_is_that_it_is_back(tmp_path: Path) -> None:
    ahead = [0.0]
    async with watched(tmp_path, lambda: time.time() + ahead[0]) as (w, told):
        async with w.client() as client:
            await client.call("api_read", path="/version")
            uds = w.rig.store.path.parent.parent / "pve.sock"
            hidden = uds.with_name("away.sock")
            uds.rename(hidden)
            await w.rig.pve.transport.close()
            with pytest.raises(ToolFault, match="unavailable"):
                await client.call("api_read", path="/cluster/status")
            said = await told.until("raised", "check:pve")
            assert said["severity"] == "error"
            status, _, text = await get(w, "/readyz")
            assert (status, json.loads(text)["checks"]["pve"]) == (503, "fail")
            hidden.rename(uds)
            async with asyncio.timeout(15):
                while (await get(w, "/readyz"))[0] != 200:
                    await asyncio.sleep(0.1)
            await client.call("api_read", path="/cluster/status")
        assert [entry.outcome for entry in w.rig.audit()] == ["ok", "unavailable", "ok"]


async def test_a_revoked_pve_token_is_told_and_the_service_goes_on(tmp_path: Path) -> None:
    async with watched(tmp_path) as (w, told):
        own = ApiToken(*w.rig.world.token("root@pam", "other"))
        _, secret = w.grants.create("other", Effect.READ, token=own)
        token = w.rig.world.token()[0]
        del w.rig.world.access.users["root@pam"].tokens[token.partition("!")[2]]
        w.rig.world.access.forget()
        said = await told.until("raised", "check:pve")
        assert token in said["text"]
        async with w.client(secret=secret) as client:
            await client.call("api_read", path="/version")


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_clock_that_jumps_an_hour_is_told_and_locks_nobody_out(
    tmp_path: Path, jump: float
) -> None:
    moved = [0.0]
    async with watched(tmp_path, lambda: time.time() + moved[0]) as (w, told):
        async with w.client() as client:
            await client.call("api_read", path="/version")
            moved[0] = jump
            w.now[0] += jump
            said = await told.until("raised", "check:clock")
            assert "was moved" in said["text"]
            await client.call("api_read", path="/version")
        assert (await w.post())[0] == 200
        assert len(w.rig.audit()) == 2


@pytest.mark.parametrize(
    ("left", "severity", "said"), [(-60, "error", "expired on"), (86400, "warning", "expires on")]
)
async def test_a_certificate_that_ends_is_told_and_clients_are_served(
    tmp_path: Path, left: int, severity: str, said: str
) -> None:
    made = make_certificates(tmp_path, names=["pve1"])
    _, end = validity(own_certificate(made.chain_file))
    ahead = end.timestamp() - left - time.time()
    tls = {"tls_cert": made.chain_file, "tls_key": made.key_file}
    async with watched(tmp_path, lambda: time.time() + ahead, **tls) as (w, told):
        found = await told.until("raised", "check:certificate")
        assert found["severity"] == severity
        assert said in found["text"]
        trust = ssl.create_default_context(cadata=made.ca_pem)
        async with w.client(verify=trust) as client:
            assert "12 guests" in await client.call("inventory_find")


async def test_a_database_that_cannot_be_written_lets_reads_pass_and_refuses_changes(
    tmp_path: Path,
) -> None:
    async with watched(tmp_path) as (w, told):
        holder = sqlite3.connect(w.rig.store.path, isolation_level=None)
        async with w.client() as client:
            await client.call("api_read", path="/version")
            holder.execute("BEGIN IMMEDIATE")
            assert "12 guests" in await client.call("inventory_find")
            with pytest.raises(ToolFault, match="Refused before anything was changed"):
                await client.call(
                    "api_change", method="POST", path="/pools", params={"poolid": "x"}
                )
            await told.until("raised", "check:store")
            assert "locked" in (await checks(w))["store"]["reason"]
            holder.execute("ROLLBACK")
            await client.call("api_change", method="POST", path="/pools", params={"poolid": "x"})
        holder.close()
        async with asyncio.timeout(10):
            while (await checks(w))["store"]["state"] != "ok":
                await asyncio.sleep(0.1)


async def test_a_service_that_was_killed_tells_so_and_one_that_was_stopped_does_not(
    tmp_path: Path,
) -> None:
    async with simulated(make_world("homelab")) as env, hook() as told:
        env |= {"PVEMCP_STATE_DIR": str(tmp_path), "PVEMCP_ALERT_WEBHOOK": told.url}
        env["PVEMCP_ALERT_AFTER"] = "1"
        with Store(tmp_path) as store:
            _, secret = Grants(store).create("laptop", Effect.CHANGE)
        for ending in (signal.SIGTERM, signal.SIGKILL):
            async with served(env) as service, aiohttp.ClientSession() as session:
                await call(session, service.url, secret, "api_read", {"path": "/version"})
                assert told.got == []
                await service.end(ending)
        async with served(env) as service:
            said = await told.until("raised", "restart")
            assert "without notice" in said["text"]
            await service.end(signal.SIGTERM)
        with Store(tmp_path) as store:
            assert [grant.name for grant in Grants(store).list()] == ["laptop"]
            assert [entry.outcome for entry in Audit(store, None).rows()] == ["ok", "ok"]


async def test_a_test_alert_is_sent_over_every_channel(tmp_path: Path) -> None:
    async with watched(tmp_path) as (w, told):
        env = {**os.environ, "PVEMCP_STATE_DIR": str(w.rig.store.path.parent)}

        def run(*words: str) -> tuple[int, str]:
            done = CliRunner().invoke(commands, words, env=env, standalone_mode=False)
            return int(done.return_value or 0), done.output

        assert await asyncio.to_thread(run, "alert", "test") == (0, "webhook: taken\n")
        assert told.got[0]["event"] == "test"
        assert await asyncio.to_thread(run, "alert", "list") == (0, "Nothing is wrong.\n")
        told.status = 500
        code, text = await asyncio.to_thread(run, "alert", "test")
        assert code == 1
        assert "answers 500" in text
        assert "secret-path" not in text
        assert len(told.got) == 4  # it was tried three times


async def test_without_a_channel_a_test_alert_says_what_to_set() -> None:
    async with web() as w:
        env = {**os.environ, "PVEMCP_STATE_DIR": str(w.rig.store.path.parent)}
        done = await asyncio.to_thread(
            CliRunner().invoke, commands, ["alert", "test"], env=env, standalone_mode=False
        )
        assert done.return_value == 1
        assert "alert_webhook" in done.output
