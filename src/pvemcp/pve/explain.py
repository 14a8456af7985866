"""Naming what does exist when something was not found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvemcp.errors import Fault, Missing
from pvemcp.pve.fault_cases import Clue
from pvemcp.pve.nearest import nearest

if TYPE_CHECKING:
    from pvemcp.pve.client import Pve

_KINDS = {"qemu": "a virtual machine", "lxc": "a container"}
_KEYS = {"snapname": "name", "volume": "volid"}
_MOST = 12


async def better(pve: Pve, fault: Fault, clue: Clue) -> Fault:
    """Return a fault that names where the thing is, or what there is instead.

    Costs one read at most (guests, nodes and storages come from the kept resource list); when
    that fails, the fault stays as it is.
    """
    try:
        match clue.kind:
            case "guest":
                return _guest(fault, clue, await pve.resources("vm"))
            case "node" | "storage" as kind:
                rows = await pve.resources(kind)
                return _named(fault, clue, kind, [str(row.get(kind, "")) for row in rows])
            case "silent":
                names = [str(row.get("node", "")) for row in await pve.resources("node")]
                return fault if clue.name in names else _named(fault, clue, "node", names)
            case "item":
                return _item(fault, clue, await pve.get(clue.path))
            case _:
                return await _locked(pve, fault, clue)
    except (Fault, ValueError, KeyError, TypeError, AttributeError):
        return fault


def _guest(fault: Fault, clue: Clue, rows: list[dict[str, Any]]) -> Fault:
    row = next((row for row in rows if str(row.get("vmid")) == clue.name), None)
    if row is None:
        return Missing(
            f"guest {clue.name} does not exist, or this token may not see it",
            hint="List the guests with GET /cluster/resources?type=vm.",
        )
    node, kind, name = str(row.get("node")), str(row.get("type")), row.get("name", "")
    right = f"/nodes/{node}/{kind}/{clue.name}"
    if kind != clue.type:
        text = f"guest {clue.name} ({name}) is {_KINDS.get(kind, kind)}, on node {node}"
    elif node != clue.node:
        text = f"guest {clue.name} ({name}) is on node {node}, not on {clue.node}"
    else:
        return fault
    return Missing(text, hint=f"Its path is {right}.")


def _item(fault: Fault, clue: Clue, rows: list[dict[str, Any]]) -> Fault:
    """PVE names the key of a list's rows like the parameter of the path below it, mostly."""
    key = _KEYS.get(clue.type, clue.type)
    names = [str(row[key]) for row in rows if key in row and row[key] != "current"]
    if not names and rows:
        return fault
    return _named(fault, clue, f"{clue.path.rpartition('/')[2]} entry", names)


def _named(fault: Fault, clue: Clue, what: str, known: list[str]) -> Fault:
    names = sorted(set(filter(None, known)))
    if clue.name in names:
        if clue.kind != "node":
            return fault
        return Missing(
            f"node {clue.name} is known but cannot be reached: {fault.message}",
            hint="GET /cluster/status shows whether it is online.",
        )
    near = nearest(clue.name, names)
    guess = f"Did you mean {near[0]}? " if near else ""
    shown = ", ".join(names[:_MOST]) + (", …" if len(names) > _MOST else "")
    there = f"There is {shown}." if names else "There is none that this token can see."
    text = fault.message if clue.kind == "item" else f"no {what} {clue.name}"
    return Missing(text, hint=guess + there, detail=fault.detail)


async def _locked(pve: Pve, fault: Fault, clue: Clue) -> Fault:
    """Name the task that holds a guest's lock, if this token may see it."""
    rows = await pve.get(
        "/nodes/{node}/tasks", node=clue.node, vmid=clue.name, source="active", limit=5
    )
    tasks = [
        f"{row['type']} by {row.get('user', '?')}, {row['upid']}"
        for row in rows
        if row.get("upid") and str(row.get("id")) == clue.name and not row.get("endtime")
    ]
    if not tasks:
        return fault
    return type(fault)(
        fault.message, hint=f"{fault.hint} It runs: {'; '.join(tasks)}.", detail=fault.detail
    )
