"""Nodes: the state of one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pvemcp.errors import Fault
from pvemcp.pve.client import Pve
from pvemcp.tools.render import duration, json_within_budget, size, table, within_budget
from pvemcp.tools.tool import Format, tool

Part = Literal["guests", "storages", "services", "updates", "certificates", "network", "disks"]

_PATHS: Mapping[Part, str] = {
    "storages": "/nodes/{node}/storage",
    "services": "/nodes/{node}/services",
    "updates": "/nodes/{node}/apt/update",
    "certificates": "/nodes/{node}/certificates/info",
    "network": "/nodes/{node}/network",
    "disks": "/nodes/{node}/disks/list",
}
_FIELDS: Mapping[Part, Sequence[str]] = {
    "guests": ("vmid", "type", "name", "status", "template", "lock", "cpu", "mem", "maxmem"),
    "storages": ("storage", "type", "active", "enabled", "used", "total", "content"),
    "services": ("name", "state", "active-state", "unit-state", "desc"),
    "updates": ("Package", "OldVersion", "Version", "Priority"),
    "certificates": ("filename", "subject", "notafter"),
    "network": ("iface", "type", "active", "autostart", "cidr", "gateway", "bridge_ports"),
    "disks": ("devpath", "type", "model", "size", "health", "wearout", "used"),
}


@tool()
async def node_get(
    pve: Pve,
    node: str,
    parts: list[Part] | None = None,
    format: Format = "text",
) -> str:
    """Show one node: version, load, memory, root disk, and parts."""
    chosen = list(dict.fromkeys(parts or []))
    status, *got = await asyncio.gather(
        pve.get("/nodes/{node}/status", node=node), *(_part(pve, node, part) for part in chosen)
    )
    view: dict[Part, Any] = dict(zip(chosen, got, strict=True))
    if not status.get("cpu"):
        status = {**status, "cpu": await _cpu(pve, node)}
    if format == "json":
        return json_within_budget(
            {"node": node, "status": status, **view}, rest="ask for fewer parts"
        )
    lines = [_status(node, status)]
    lines += [_write(part, rows) for part, rows in view.items()]
    return within_budget("\n".join(lines), rest="ask for fewer parts")


async def _cpu(pve: Pve, node: str) -> float:
    """Return the node's load as pvestatd last saw it, for where `status` says 0.

    Each worker of PVE measures on its own: its first answer is 0 (seen on PVE 9.1).
    """
    try:
        rows = await pve.resources("node")
    except Fault:
        return 0.0
    return next((float(row.get("cpu") or 0) for row in rows if row.get("node") == node), 0.0)


async def _part(pve: Pve, node: str, part: Part) -> Any:
    try:
        if part == "guests":
            return [row for row in await pve.resources("vm") if row.get("node") == node]
        return await pve.get(_PATHS[part], node=node)
    except Fault as fault:
        return {"unknown": str(fault)}


def _write(part: Part, rows: Any) -> str:
    if isinstance(rows, dict):
        return f"{part}: unknown, {rows['unknown']}"
    if not rows:
        return f"{part}: none"
    head = f"{part}: {len(rows)}"
    if part == "guests":
        states = Counter(str(row.get("status")) for row in rows)
        head += f" ({', '.join(f'{count} {state}' for state, count in states.items())})"
    return f"{head}\n{table(rows, _FIELDS[part])}"


def _status(node: str, status: Mapping[str, Any]) -> str:
    memory, root = status.get("memory") or {}, status.get("rootfs") or {}
    swap, cpu = status.get("swap") or {}, status.get("cpuinfo") or {}
    load = " ".join(str(value) for value in status.get("loadavg") or [])
    kernel = (status.get("current-kernel") or {}).get("release") or status.get("kversion")
    busy, waits = float(status.get("cpu") or 0), float(status.get("wait") or 0)
    lines = [
        f"{node}: {status.get('pveversion')}, up {duration(status.get('uptime') or 0)}",
        f"kernel: {kernel}",
        f"cpu: {busy:.1%} of {cpu.get('cpus')} ({cpu.get('model')}), load {load}, wait {waits:.1%}",
        f"memory: {_of(memory)}, swap: {_of(swap)}",
        f"root disk: {_of(root)}",
    ]
    return "\n".join(lines)


def _of(part: Mapping[str, Any]) -> str:
    return f"{size(part.get('used') or 0)} of {size(part.get('total') or 0)}"
