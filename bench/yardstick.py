"""The yardstick: the least that a tool on the same SDK can do for the same PVE requests.

A bare low-level server, aiohttp, the same uvicorn settings. It authenticates nobody, checks and
writes down nothing, and answers with PVE's data as JSON. Its tools have the names and arguments of
pvemcp's, so that one client measures both.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvicorn
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server

from bench.layout import node_of

CONCURRENCY = 8
"""Requests to one node under way at once, as in pvemcp's default."""
_GUEST_PARTS = {
    "config": ("config", "pending"),
    "snapshots": ("snapshot",),
    "addresses": ("agent/network-get-interfaces",),
}
_NAMES = ("guest_get", "node_get", "api_read", "inventory_find")
_PAGE = 40


class Pve:
    """The PVE requests of pvemcp with nothing around them."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api2/json"
        self._headers = {"Authorization": "PVEAPIToken=root@pam!bench=secret"}
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._session: aiohttp.ClientSession | None = None
        self._kept: tuple[float, Any] = (0.0, None)

    async def get(self, path: str) -> Any:
        """Return the data of one GET."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, skip_auto_headers=("Accept-Encoding",)
            )
        node = path.split("/")[2] if path.startswith("/nodes/") else ""
        gate = self._gates.setdefault(node, asyncio.Semaphore(CONCURRENCY))
        async with gate, self._session.get(self._url + path) as answer:
            return json.loads(await answer.read())["data"]

    async def guests(self) -> Any:
        """Return all guests, kept for a second as pvemcp keeps them."""
        asked, rows = self._kept
        if time.monotonic() - asked > 1:
            rows = await self.get("/cluster/resources?type=vm")
            self._kept = (time.monotonic(), rows)
        return rows


async def _guest(pve: Pve, guest: int, parts: list[str] | None = None) -> Any:
    await pve.guests()
    path = f"/nodes/{node_of(guest)}/qemu/{guest}"
    ends = ["status/current"]
    for part in _GUEST_PARTS if parts is None else parts:
        ends += _GUEST_PARTS[part]
    return await asyncio.gather(*(pve.get(f"{path}/{end}") for end in ends))


async def _list(pve: Pve) -> Any:
    rows = sorted(await pve.guests(), key=lambda row: row["vmid"])
    return {"total": len(rows), "items": rows[:_PAGE]}


async def _data(pve: Pve, tool: str, arguments: dict[str, Any]) -> Any:
    match tool:
        case "guest_get":
            return await _guest(pve, **arguments)
        case "node_get":
            return await pve.get(f"/nodes/{arguments['node']}/status")
        case "api_read":
            return await pve.get(arguments["path"])
        case _:
            return await _list(pve)


def build(pve: Pve) -> Server[Any]:
    """Return the MCP server."""
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in _NAMES]

    async def list_tools(_: Any, __: Any) -> Any:
        return {"resultType": "complete", "tools": tools}

    async def call_tool(_: Any, params: Any) -> Any:
        data = await _data(pve, params.name, params.arguments or {})
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        return {"resultType": "complete", "content": [{"type": "text", "text": text}]}

    hints: Any = {"tools/list": CacheHint(300_000)}
    return Server("yardstick", cache_hints=hints, on_list_tools=list_tools, on_call_tool=call_tool)


def main(pve_url: str, port: int) -> None:
    """Serve until a signal."""
    app = build(Pve(pve_url)).streamable_http_app()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
