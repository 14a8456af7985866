"""Naming what does exist when something was not found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvemcp.errors import Fault, Missing
from pvemcp.pve.fault_cases import Clue
from pvemcp.pve.nearest import nearest

if TYPE_CHECKING:
    from pvemcp.pve.client import Pve

_KINDS = {"qemu": "a virtual machine", "lxc": "a container"}
_MOST = 12


async def better(pve: Pve, fault: Fault, clue: Clue, path: str) -> Fault:
    """Return a fault that names where the thing is, or what there is instead.

    Costs one read at most (guests, nodes and storages come from the kept resource list); when
    that fails, the fault stays as it is.
    """
    try:
        match clue.kind:
            case "guest":
                return _guest(fault, clue, await pve.resources("vm"))
            case "node":
                rows = await pve.resources("node")
                return _named(fault, clue, [str(row.get("node", "")) for row in rows])
            case "storage":
                rows = await pve.resources("storage")
                return _named(fault, clue, [str(row.get("storage", "")) for row in rows])
            case "snapshot":
                rows = await pve.get(path[: path.index("/snapshot") + len("/snapshot")])
                names = [str(row["name"]) for row in rows if row.get("name") != "current"]
                return _named(fault, clue, names)
    except (Fault, ValueError, KeyError, TypeError):
        return fault
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


def _named(fault: Fault, clue: Clue, known: list[str]) -> Fault:
    names = sorted(set(filter(None, known)))
    near = nearest(clue.name, names)
    if clue.name in names:
        return Missing(
            f"{clue.kind} {clue.name} is known but cannot be reached: {fault.message}",
            hint="GET /cluster/status shows whether the node is online.",
        )
    guess = f"Did you mean {near[0]}? " if near else ""
    shown = ", ".join(names[:_MOST]) + (", …" if len(names) > _MOST else "")
    there = f"There is {shown}." if names else f"There is no {clue.kind} that this token can see."
    return Missing(f"no {clue.kind} {clue.name}", hint=guess + there)
