"""Guests: finding one by id or name, and everything about it in one call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from pvemcp.errors import Conflict, Fault, Missing
from pvemcp.pve.client import Pve
from pvemcp.pve.nearest import nearest
from pvemcp.tools.render import (
    cell,
    duration,
    json_within_budget,
    moment,
    record,
    size,
    table,
    within_budget,
)
from pvemcp.tools.tool import Format, tool
from pvemcp.tools.untrusted import flat, note, quoted

GuestName = Annotated[
    int | str, WithJsonSchema({"type": "string"}), Field(description="vmid or name")
]
"""A guest as a caller names it; a bare number is taken too."""
Part = Literal["config", "snapshots", "addresses"]
NOTES = 4000
"""Characters of a guest's notes that are shown."""
MOST_PLACES = 8
"""Lists of nodes that are read to complete rows of new guests."""
_VMID = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Guest:
    """Where a guest is. `type` is qemu or lxc."""

    vmid: int
    name: str
    type: str
    node: str
    cpu: float = field(default=0.0, compare=False)
    """Share of its CPUs, as pvestatd last saw it."""

    @property
    def path(self) -> str:
        """The guest's API path."""
        return f"/nodes/{self.node}/{self.type}/{self.vmid}"

    def __str__(self) -> str:
        return f"{self.type}/{self.vmid} {self.name}".rstrip()


async def guest_rows(pve: Pve) -> list[Mapping[str, Any]]:
    """Return all guests, as pvestatd last saw them: up to 10 s ago.

    A guest that was made since has neither name nor state in /cluster/resources (seen on PVE
    9.1); those of nodes that are online are looked up in the node's own list.
    """
    rows: list[Mapping[str, Any]] = list(await pve.resources("vm"))
    new = {(row["node"], row["type"]) for row in rows if "name" not in row}
    if not new:
        return rows
    online = {row["node"] for row in await pve.resources("node") if row.get("status") == "online"}
    places = sorted(place for place in new if place[0] in online)[:MOST_PLACES]
    lists = await asyncio.gather(*(_listed(pve, node, kind) for node, kind in places))
    seen = {int(row["vmid"]): row for listed in lists for row in listed}
    return [row if "name" in row else {**row, **seen.get(row["vmid"], {})} for row in rows]


async def _listed(pve: Pve, node: str, kind: str) -> list[Mapping[str, Any]]:
    try:
        return list(await pve.get(f"/nodes/{node}/{kind}"))
    except Fault:
        return []


async def locate(pve: Pve, guest: int | str) -> Guest:
    """Find a guest by vmid or by a name that only one guest has.

    Raises Missing with the nearest names, or Conflict with the candidates of a shared name.
    """
    rows: Sequence[Mapping[str, Any]] = await pve.resources("vm")
    wanted = str(guest).strip()
    vmid = int(wanted) if _VMID.fullmatch(wanted) else 0
    found = [row for row in rows if row.get("vmid") == vmid]
    if not found:
        rows = await guest_rows(pve)
        found = [row for row in rows if str(row.get("name", "")).lower() == wanted.lower()]
    if not found:
        raise await _missing(pve, wanted, rows)
    guests = [_guest(row) for row in found]
    if len(guests) > 1:
        listed = ", ".join(f"{g.vmid} on {g.node}" for g in guests[:10])
        raise Conflict(
            f"{len(guests)} guests are named {wanted}", hint=f"Give the vmid of one: {listed}."
        )
    return guests[0]


def _guest(row: Mapping[str, Any]) -> Guest:
    cpu = float(row.get("cpu") or 0)
    return Guest(int(row["vmid"]), str(row.get("name", "")), row["type"], row["node"], cpu)


async def _missing(pve: Pve, wanted: str, rows: Sequence[Mapping[str, Any]]) -> Missing:
    names = [str(row[key]) for row in rows for key in ("name", "vmid") if row.get(key)]
    near = nearest(wanted, names, limit=3)
    hint = f"Nearest: {', '.join(near)}." if near else "List guests with inventory_find."
    blind = await pve.blind("/vms", "VM.Audit")
    return Missing(f"no guest {wanted}", hint=f"{hint} {blind}".rstrip())


@tool(always=True)
async def guest_get(
    pve: Pve,
    guest: GuestName,
    parts: Annotated[list[Part] | None, Field(description="default: all")] = None,
    format: Format = "text",
) -> str:
    """Show one guest: status, config with pending changes, snapshots and IP addresses."""
    found = await locate(pve, guest)
    parts = parts if parts is not None else ["config", "snapshots", "addresses"]
    wanted: dict[str, Awaitable[Any]] = {"status": pve.get(f"{found.path}/status/current")}
    if "config" in parts:
        wanted["config"] = pve.get(f"{found.path}/config", current=1)
        wanted["pending"] = pve.get(f"{found.path}/pending")
    if "snapshots" in parts:
        wanted["snapshots"] = pve.get(f"{found.path}/snapshot")
    if "addresses" in parts:
        wanted["addresses"] = addresses(pve, found)
    got = dict(
        zip(wanted, await asyncio.gather(*wanted.values(), return_exceptions=True), strict=True)
    )
    if isinstance(got["status"], BaseException):
        raise got["status"]
    view = {name: _part(value) for name, value in got.items()}
    if format == "json":
        _note(pve, found, view)
        whole = {"node": found.node, "type": found.type, "vmid": found.vmid, **view}
        return json_within_budget(whole, rest="ask for fewer parts")
    _note(pve, found, view)
    return within_budget(_text(pve, found, view), rest="ask for fewer parts")


def _note(pve: Pve, guest: Guest, view: Mapping[str, Any]) -> None:
    """Note that the answer holds the guest's notes, if it has any."""
    config, snapshots = view.get("config"), view.get("snapshots")
    noted = isinstance(config, dict) and config.get("description")
    noted = noted or any(row.get("description") for row in _rows(snapshots))
    if noted:
        note(pve.call, f"{guest.type}/{guest.vmid} notes")


def _rows(value: Any) -> Sequence[Mapping[str, Any]]:
    """Return the snapshots that were made; PVE's own row `current` has a text of PVE's."""
    return [r for r in value if r.get("name") != "current"] if isinstance(value, list) else []


def _part(value: Any) -> Any:
    """Keep the text of a Fault in place of the part that it hides; let other errors rise."""
    if isinstance(value, Fault):
        return {"unknown": str(value)}
    if isinstance(value, BaseException):
        raise value
    return value


async def addresses(pve: Pve, guest: Guest) -> Any:
    """Return the guest's interfaces as `[{name, mac, addresses}]`.

    A container's come from its network namespace; a VM's from the QEMU guest agent.
    """
    if guest.type == "lxc":
        return [_lxc_interface(row) for row in await pve.get(f"{guest.path}/interfaces") or []]
    answer = await pve.get(f"{guest.path}/agent/network-get-interfaces")
    return [_agent_interface(row) for row in answer.get("result", [])]


def _lxc_interface(row: Mapping[str, Any]) -> dict[str, Any]:
    listed = [row[key] for key in ("inet", "inet6") if row.get(key)]
    return {"name": row.get("name"), "mac": row.get("hwaddr"), "addresses": listed}


def _agent_interface(row: Mapping[str, Any]) -> dict[str, Any]:
    listed = [f"{a['ip-address']}/{a.get('prefix')}" for a in row.get("ip-addresses", [])]
    return {"name": row.get("name"), "mac": row.get("hardware-address"), "addresses": listed}


def _text(pve: Pve, guest: Guest, view: Mapping[str, Any]) -> str:
    lines = [_status(guest, view["status"])]
    writers: dict[str, Callable[[Any], str]] = {
        "addresses": _addresses,
        "config": partial(_config, pve, guest),
        "pending": _pending,
        "snapshots": _snapshots,
    }
    for name, writer in writers.items():
        if name not in view or (name == "addresses" and view["status"].get("template")):
            continue
        value = view[name]
        unknown = value.get("unknown") if isinstance(value, dict) else None
        lines.append(f"{name}: unknown, {unknown}" if unknown else writer(value))
    return "\n".join(line for line in lines if line)


def _status(guest: Guest, status: Mapping[str, Any]) -> str:
    state = "template" if status.get("template") else str(status.get("status"))
    if not status.get("template") and (qemu := status.get("qmpstatus", state)) != state:
        state += f" ({qemu})"
    if status.get("uptime"):
        state += f" for {duration(status['uptime'])}"
    flags = [f"{key}: {status[key]}" for key in ("lock", "tags") if status.get(key)]
    ha = status.get("ha") or {}
    flags += [f"HA: {ha.get('state', 'managed')}"] if ha.get("managed") else []
    mem, maxmem, disk = (size(status.get(key) or 0) for key in ("mem", "maxmem", "maxdisk"))
    if status.get("disk"):  # PVE knows it of containers only
        disk = f"{size(status['disk'])} of {disk}"
    # Each worker of PVE measures on its own: its first answer is 0 (seen on PVE 9.1).
    cpu = cell("cpu", float(status.get("cpu") or (guest.cpu if status.get("uptime") else 0)))
    use = f"cpu {cpu} of {status.get('cpus')}, mem {mem} of {maxmem}, disk {disk}"
    return "\n".join([f"{guest} on {guest.node}: {state}", use, *flags])


def _addresses(rows: Sequence[Mapping[str, Any]]) -> str:
    kept = [row for row in rows if row["name"] != "lo" and row["addresses"]]
    if not kept:
        return "addresses: none"
    return "\n".join(f"{r['name']}: {' '.join(r['addresses'])} ({r['mac']})" for r in kept)


def _config(pve: Pve, guest: Guest, config: Mapping[str, Any]) -> str:
    values = {key: config[key] for key in sorted(config) if key not in ("digest", "description")}
    text = f"config (digest {config.get('digest')}):\n{record(values, indent='  ')}"
    if notes := config.get("description"):
        shown = str(notes)[:NOTES]
        cut = f"\n[{len(str(notes)) - NOTES} more characters]" if len(str(notes)) > NOTES else ""
        text += f"\n{quoted(pve.call, f'{guest.type}/{guest.vmid} notes', shown + cut)}"
    return text


def _pending(rows: Sequence[Mapping[str, Any]]) -> str:
    changes = [row for row in rows if "pending" in row or row.get("delete")]
    if not changes:
        return "pending: nothing"
    lines = [
        f"  {row['key']}: {row.get('value', '-')} -> "
        + ("(deleted)" if row.get("delete") else str(row["pending"]))
        for row in changes
    ]
    return "\n".join(["pending until the next start:", *lines])


def _snapshots(rows: Sequence[Mapping[str, Any]]) -> str:
    real = sorted((r for r in rows if r["name"] != "current"), key=lambda r: r.get("snaptime", 0))
    if not real:
        return "snapshots: none"
    shown = [
        {
            **row,
            "snaptime": moment(row.get("snaptime", 0)),
            "ram": "yes" if row.get("vmstate") else "no",
            "description": flat(row.get("description", "")),
        }
        for row in real
    ]
    return "snapshots:\n" + table(shown, ("name", "snaptime", "ram", "parent", "description"))
