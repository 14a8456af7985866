"""Traces: one span a call, its requests to PVE as children; nothing of it without an exporter."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pvemcp import tracing
from pvemcp.access.grants import Grants
from pvemcp.call import Effect
from pvemcp.health.tracing import check_tracing
from pvemcp.sim.world import make_world
from pvemcp.store import Store
from tests.scenarios.test_process import call, simulated


async def test_the_requests_of_a_call_are_children_of_its_span(tmp_path: Path) -> None:
    async with simulated(make_world("homelab")) as env:
        env |= {"PVEMCP_STATE_DIR": str(tmp_path), "OTEL_TRACES_EXPORTER": "console"}
        with Store(tmp_path) as store:
            _, secret = Grants(store).create("laptop", Effect.READ)
        said = await traced(env, secret)
    spans = [span for span in documents(said) if "attributes" in span]
    [parent] = [span for span in spans if span["name"] == "tools/call api_read"]
    children = [span for span in spans if span["parent_id"] == parent["context"]["span_id"]]
    assert parent["attributes"]["pvemcp.outcome"] == "ok"
    assert [span["name"] for span in children] == ["GET PVE"]
    assert children[0]["attributes"]["url.path"] == "/version"
    assert parent["start_time"] <= children[0]["start_time"] <= children[0]["end_time"]
    assert secret not in said


async def traced(env: dict[str, str], secret: str) -> str:
    """Run a service, make a call, stop it, and return what it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pvemcp", "serve", env=env, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    line = ""
    while "MCP at " not in line:
        line = (await process.stderr.readline()).decode()
        assert line
    url = line.split("MCP at ")[1].strip()
    async with aiohttp.ClientSession() as session:
        await call(session, url, secret, "api_read", {"path": "/version"})
    process.terminate()
    said = (await process.stderr.read()).decode()
    assert await process.wait() == 0
    return said


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text, whatever stands between them."""
    found, decoder, at = [], json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
            found.append(value)
        except ValueError:
            end = at + 1
        at = text.find("{", end)
    return found


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        ({}, ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ],
)
def test_an_exporter_is_wanted_when_its_variables_say_so(env: dict[str, str], kind: str) -> None:
    assert tracing.wanted(env) == kind
    assert bool(list(check_tracing(env))) == bool(kind)


def test_what_cannot_be_exported_is_said_with_the_way_to_it() -> None:
    env = {"OTEL_TRACES_EXPORTER": "zipkin"}
    assert tracing.start(env) is None
    [check] = check_tracing(env)
    assert check.ok
    assert "zipkin" in check.message
    assert "pvemcp[otel]" in check.repair
