"""What monitoring asks: is the service alive, can it work and if not why, and its figures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pvemcp.access.shared import SharedClients, encode
from pvemcp.call import ApiToken, Effect
from pvemcp.sim.tls import make_certificates
from pvemcp.watch.clock import Clock
from tests.scenarios.clustered import put
from tests.scenarios.test_http import Web, web

WORDS = {"ok", "warn", "fail", "off"}


async def get(
    w: Web, path: str, *, secret: str = "", verb: str = "GET", base: str = ""
) -> tuple[int, dict[str, str], str]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    url = (base or w.url.removesuffix("/mcp")) + path
    async with (
        aiohttp.ClientSession() as http,
        http.request(verb, url, headers=headers) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.text()


async def checks(w: Web) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((await get(w, "/readyz", secret=w.secret))[2])[
        "checks"
    ]
    return found


async def figures(w: Web, base: str = "") -> dict[str, float]:
    status, headers, text = await get(w, "/metrics", secret=w.secret, base=base)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}":
            sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }  # fmt: skip


async def test_it_is_alive_for_everybody_and_tells_nothing_else() -> None:
    async with web() as w:
        status, _, text = await get(w, "/healthz")
        assert (status, text) == (200, "ok\n")
        assert (await get(w, "/healthz", verb="HEAD"))[::2] == (200, "")
        assert (await get(w, "/healthz", verb="POST"))[0] == 405
        assert await figures(w)


async def test_readiness_is_one_word_a_check_without_a_grant_and_reasons_with_one() -> None:
    async with web() as w:
        status, _, text = await get(w, "/readyz")
        assert status == 200
        assert json.loads(text) == {
            "ready": True,
            "checks": {
                "pve": "ok",
                "store": "ok",
                "helper": "off",
                "certificate": "off",
                "clock": "ok",
                "disk": "ok",
                "clients": "off",
                "freezes": "ok",
                "syslog": "off",
            },
        }
        found = await checks(w)
        assert all(check["state"] in WORDS and check["reason"] for check in found.values())
        assert (await get(w, "/readyz", verb="HEAD"))[::2] == (200, "")


async def test_a_damaged_list_of_the_clusters_clients_is_a_warning(tmp_path: Path) -> None:
    async with web(mirror_dir=tmp_path) as w:
        put(tmp_path / "clients.json", encode(SharedClients(1)))
        assert (await checks(w))["clients"]["state"] == "ok"
    async with web(mirror_dir=tmp_path) as w:
        put(tmp_path / "clients.json", b"")
        found = (await checks(w))["clients"]
        assert found["state"] == "warn"
        assert "stay in force" in found["reason"]
        assert (await get(w, "/readyz"))[0] == 200


async def test_a_wrong_secret_is_told_no_reasons() -> None:
    async with web() as w:
        status, _, text = await get(w, "/readyz", secret="pvemcp_" + "x" * 43)
        assert status == 401
        assert "checks" not in text


async def test_asking_often_costs_pve_one_request() -> None:
    async with web() as w:
        before = w.rig.asked()
        await asyncio.gather(*(get(w, "/readyz") for _ in range(20)))
        assert w.rig.asked() == before + 1


async def test_a_revoked_pve_token_is_said_with_its_name() -> None:
    async with web() as w:
        own = ApiToken(*w.rig.world.token("root@pam", "watcher"))
        _, w.secret = w.grants.create("watcher", Effect.READ, token=own)
        token = w.rig.world.token()[0]
        del w.rig.world.access.users["root@pam"].tokens[token.partition("!")[2]]
        w.rig.world.access.forget()
        status, _, text = await get(w, "/readyz")
        assert status == 503
        assert token not in text
        assert token in (await checks(w))["pve"]["reason"]


@pytest.mark.parametrize(("off", "state"), [(0, "ok"), (30, "warn"), (-3600, "fail")])
async def test_a_clock_that_differs_from_pves_is_said(off: int, state: str) -> None:
    async with web(clock=Clock(lambda: time.time() + off)) as w:
        found = (await checks(w))["clock"]
        assert found["state"] == state
        assert (await get(w, "/readyz"))[0] == (503 if state == "fail" else 200)
        if off:
            direction = "behind" if off > 0 else "ahead of"
            assert f"{direction} this machine" in found["reason"]


async def test_a_clock_that_jumps_is_said() -> None:
    moved = [0.0]
    async with web(clock=Clock(lambda: time.time() + moved[0])) as w:
        moved[0] = 3600.0
        found = (await checks(w))["clock"]
        assert found["reason"] == "the clock of this machine was moved forward by 3600 s"


@pytest.mark.parametrize(("years", "state"), [(0, "ok"), (30, "fail"), (-30, "fail")])
async def test_a_certificate_out_of_its_time_is_said(
    tmp_path: Path, years: int, state: str
) -> None:
    made = make_certificates(tmp_path, names=["pve1"])
    clock = Clock(lambda: time.time() + years * 365 * 86400)
    trust = ssl.create_default_context(cadata=made.ca_pem)
    async with web(clock=clock, tls_cert=made.chain_file, tls_key=made.key_file) as w:
        headers = {"Authorization": f"Bearer {w.secret}"}
        url = w.url.removesuffix("/mcp") + "/readyz"
        async with (
            aiohttp.ClientSession() as http,
            http.get(url, headers=headers, ssl=trust) as answer,
        ):
            found = (await answer.json())["checks"]["certificate"]
        assert found["state"] == state
        assert {0: "valid until", 30: "expired on", -30: "not valid before"}[years] in found[
            "reason"
        ]


async def test_metrics_need_a_grant_and_count_calls_requests_and_refusals(era: str) -> None:
    async with web() as w:
        assert (await get(w, "/metrics"))[0] == 401
        async with w.client(era) as client:
            await client.call("api_read", path="/version")
            await client.raw("api_read", path="/nonsense")
            with contextlib.suppress(Exception):
                await client.raw("no-such-tool-" + "x" * 40)
            found = await figures(w)
        assert found["pvemcp_calls_total{effect=read,outcome=ok,tool=api_read}"] == 1
        assert found["pvemcp_calls_total{effect=read,outcome=invalid,tool=api_read}"] == 1
        assert found["pvemcp_calls_total{effect=read,outcome=invalid,tool=unknown}"] == 1
        assert found["pvemcp_pve_requests_total{effect=read,status=2xx,verb=GET}"] == 1
        assert found["pvemcp_call_seconds_count{tool=api_read}"] == 2
        assert found["pvemcp_call_seconds_bucket{le=60.0,tool=api_read}"] == 2
        assert found["pvemcp_auth_failures_total{reason=unauthenticated}"] == 1
        assert found["pvemcp_sessions{}"] == 1
        assert found["pvemcp_ready{check=pve}"] == 1
        assert not [name for name in found if "no-such" in name or "laptop" in name]


async def test_metrics_have_a_listener_of_their_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with web(metrics_listen=f"127.0.0.1:{port}") as w:
        base = f"http://127.0.0.1:{port}"
        status, _, text = await get(w, "/metrics", base=base)
        assert status == 200
        assert "pvemcp_build_info" in text
        assert (await get(w, "/mcp", base=base))[0] == 404
