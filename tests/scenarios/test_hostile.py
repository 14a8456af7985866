"""Hostile input: no traceback, no hang, and no request to PVE outside the described method."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvemcp.errors import Fault
from pvemcp.host.executor import Nowhere
from pvemcp.tools.registry import TOOLS
from tests.scenarios.test_http import DISCOVER, HEADERS, Web, web

T = TypeVar("T")
HASTY = 30.0
"""Seconds after which an answer counts as a hang."""

EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass
class Loop:
    """An event loop in a thread of its own, where the service listens on loopback."""

    loop: asyncio.AbstractEventLoop
    web: Web

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(HASTY)


@pytest.fixture(scope="module")
def service() -> Iterator[Loop]:
    """The service, for all the examples of a test."""
    made: list[Loop] = []
    up, over = threading.Event(), asyncio.Event()

    async def live() -> None:
        # No executor: what is made up here must not be run.
        async with web(executor=Nowhere("these are no commands", "Run none.")) as w:
            made.append(Loop(asyncio.get_running_loop(), w))
            up.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert up.wait(HASTY)
    yield made[0]
    made[0].loop.call_soon_threadsafe(over.set)
    thread.join(HASTY)


def within_the_description(service: Loop) -> None:
    """Check that everything PVE was asked for is a method that it describes."""
    description = service.run(service.web.rig.pve.description())
    for verb, path in list(service.web.rig.world.requests):
        if path.startswith("/pve-docs/"):
            continue
        try:
            description.match(verb, path)
        except Fault as fault:
            raise AssertionError(f"PVE was asked for {verb} {path!r}: {fault}") from None


NASTY = st.sampled_from(
    [
        *("../../access/users", "..%2f..%2faccess", "%2e%2e/%2e%2e", "pve1/../../..", "//", ""),
        *(
            "\x00",
            "\ud800",
            "\u2603",
            "100\r\nX-Evil: 1",
            "100 HTTP/1.1\r\n\r\nGET /",
            "?a=b",
            "#x",
        ),
        *("{node}", "{vmid}", "/api2/json/version", "A" * 5000, "-1", "1e400", "NaN"),
        "net0=virtio,bridge=vmbr0;rm -rf /",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | NASTY
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
PATHS = st.lists(
    NASTY
    | st.sampled_from(
        [
            "nodes",
            "pve1",
            "qemu",
            "100",
            "config",
            "status",
            "current",
            "storage",
            "local",
            "content",
        ]
    )
    | st.text(max_size=12),
    max_size=7,
).map(lambda parts: "/".join(["", *parts]))


def answer(service: Loop, tool: str, arguments: dict[str, Any]) -> str:
    """Call a tool as a client that escapes whatever it likes; return the whole HTTP answer."""
    params = {**DISCOVER["params"], "name": tool, "arguments": arguments}
    body = json.dumps({**DISCOVER, "method": "tools/call", "params": params}).encode()
    headers = {"Mcp-Method": "tools/call", "Mcp-Name": tool, "Content-Type": "application/json"}
    status, _, text = service.run(service.web.post(headers, data=body))
    assert status < 500
    assert "Traceback" not in text
    assert "internal" not in text[:300], text[:300]
    return text


@EXAMPLES
@given(data=st.data())
def test_no_arguments_of_any_tool_break_it(service: Loop, data: st.DataObject) -> None:
    tool = data.draw(st.sampled_from(TOOLS))
    names = st.sampled_from([*tool.schema["properties"], "more"]) | st.text(max_size=8)
    arguments = data.draw(st.dictionaries(names, VALUES, max_size=5))
    arguments |= {"wait": 0} if "wait" in tool.schema["properties"] else {}
    answer(service, tool.name, arguments)
    within_the_description(service)


@EXAMPLES
@given(
    tool=st.sampled_from(["api_read", "api_change", "api_destroy", "api_describe"]),
    path=PATHS,
    params=st.dictionaries(st.text(max_size=8) | NASTY, VALUES, max_size=3),
    method=st.sampled_from(["POST", "PUT", "DELETE"]),
)
def test_no_path_reaches_what_is_not_described(
    service: Loop, tool: str, path: str, params: dict[str, Any], method: str
) -> None:
    arguments: dict[str, Any] = {"path": path}
    if tool != "api_describe":
        arguments["params"] = params
    if tool != "api_read":
        arguments["method"] = method
    answer(service, tool, arguments)
    within_the_description(service)


@EXAMPLES
@given(node=NASTY, vmid=NASTY)
def test_no_value_climbs_out_of_its_place_in_the_path(service: Loop, node: str, vmid: str) -> None:
    path = f"/nodes/{node}/qemu/{vmid}/config"
    answer(service, "api_read", {"path": path})
    filled = {"node": node, "vmid": vmid}
    template = "/nodes/{node}/qemu/{vmid}/config"
    answer(service, "api_read", {"path": template, "params": filled})
    within_the_description(service)


async def spoken(w: Web, head: bytes, body: bytes) -> bytes:
    """Send raw bytes to the service and return what comes back."""
    host, port = w.url.removeprefix("http://").removesuffix("/mcp").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"\r\n\r\n" + body)
    await writer.drain()
    writer.write_eof()
    said = await reader.read(65536)
    writer.close()
    return said


def checked(said: bytes) -> None:
    """No 5xx and no traceback; nothing at all is fine, for what is no HTTP."""
    assert b"Traceback" not in said
    if said:
        assert said.startswith(b"HTTP/1.1 "), said[:80]
        assert said[9:10] in b"24", said[:200]


@EXAMPLES
@given(body=st.binary(max_size=300) | VALUES.map(lambda v: json.dumps(v).encode(errors="replace")))
def test_no_body_breaks_the_service(service: Loop, body: bytes) -> None:
    lines = [b"POST /mcp HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: application/json",
             b"Connection: close", b"Content-Length: %d" % len(body),
             b"Authorization: Bearer " + service.web.secret.encode()]  # fmt: skip
    lines += [f"{name}: {value}".encode() for name, value in HEADERS.items()]
    checked(service.run(spoken(service.web, b"\r\n".join(lines), body)))


@EXAMPLES
@given(
    name=st.sampled_from(
        [
            "Authorization",
            "Host",
            "Origin",
            "Accept",
            "Mcp-Method",
            "Mcp-Name",
            "Mcp-Session-Id",
            "MCP-Protocol-Version",
            "Content-Type",
            "Content-Length",
            "Transfer-Encoding",
        ]
    ),
    value=st.binary(max_size=80)
    | st.sampled_from([b"Bearer", b"bearer \xff", b"Bearer a b", b"chunked"]),
)
def test_no_header_breaks_the_service(service: Loop, name: str, value: bytes) -> None:
    # The secret is left out: what is tried here comes from strangers.
    clean = value.replace(b"\r", b"").replace(b"\n", b"")
    lines = [b"POST /mcp HTTP/1.1", b"Host: localhost", b"Connection: close",
             name.encode() + b": " + clean]  # fmt: skip
    checked(service.run(spoken(service.web, b"\r\n".join(lines), b"{}")))


@EXAMPLES
@given(method=st.text(max_size=20), params=VALUES)
def test_no_json_rpc_message_breaks_the_service(service: Loop, method: str, params: Any) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    body = json.dumps(message).encode(errors="replace")
    status, _, text = service.run(service.web.post({"Mcp-Method": ""}, data=body))
    assert status < 500
    assert "Traceback" not in text


def test_the_service_still_works_after_all_that(service: Loop) -> None:
    assert " guests" in answer(service, "inventory_find", {})
