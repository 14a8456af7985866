"""Previews of what is done to a guest besides: which guest, which of its disks, and whereto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvemcp.call import Intent
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.diff import config_changes
from pvemcp.plans.previews.guest import Guest, about, basics, guest_of, running, runs
from pvemcp.plans.previews.looking import Seen, line
from pvemcp.plans.previews.volumes import disks
from pvemcp.pve.client import Pve

_DOES = {
    "resize": "makes a disk of {} larger",
    "move_disk": "moves a disk of {}",
    "move_volume": "moves a volume of {}",
    "clone": "makes a copy of {}",
    "template": "turns {} into a template, which never runs again",
    "migrate": "moves {} to another node",
    "snapshot": "takes a snapshot of {}",
    "agent/exec": "runs a command in {}",
    "agent/file-write": "writes a file in {}",
}
_WHOLE = ("clone", "template")
"""What is done to all disks of a guest."""


async def any_guest(pve: Pve, intent: Intent) -> Preview:
    """Show a write to a guest that has no preview of its own: the guest, and what is given."""
    guest = await guest_of(pve, intent)
    seen = await basics(pve, guest)
    config = seen["config"] or {}
    given = {k: v for k, v in intent.params.items() if k not in ("node", "vmid")}
    what = intent.path.removeprefix(guest.path).strip("/")
    disk = _disk(config, given)
    changes, _ = config_changes(*_sizes(disk, given))
    facts = [("state", running(seen))]
    if disk:
        facts.append(("the disk", disk))
    if what in _WHOLE:
        facts.append(("disks", line(", ".join(disks(config)) or "none seen", 300)))
    if what == "template" and (why := _no_template(config, seen)):
        facts.append(("PVE refuses", why))
    if what == "migrate":
        facts += _journey(await pve.resources(), guest, seen, given)
    does = _DOES.get(what, f"{what or 'works on'}: {{}}").format(guest.label)
    taker, named = given.get("target-vmid"), given.get("disk") or given.get("volume")
    lost = (f"its disk {line(named)}, which becomes one of guest {taker}",) if taker else ()
    return about(intent, guest, seen, does, changes=tuple(changes), facts=tuple(facts), lost=lost)


def _sizes(disk: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the size that a disk has, and the arguments with the one that it gets: `32G+10G`."""
    size = disk.rsplit(" ", 1)[-1] if "size" in given and disk.count(" ") > 1 else ""
    if not size:
        return {}, dict(given)
    more = str(given["size"]).startswith("+")
    return {"size": size}, {**given, **({"size": f"{size}{given['size']}"} if more else {})}


def _no_template(config: Mapping[str, Any], seen: Seen) -> str:
    """Say why PVE would not make a template. A guest has snapshots if it stands on one."""
    why = ["it runs: stop it first"] if runs(seen) else []
    return "; ".join(why + ["it has snapshots"] * bool(config.get("parent")))


def _disk(config: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return the disk that is named, as `scsi0 local-lvm:vm-100-disk-0 32G`, or nothing."""
    key = str(given.get("disk") or given.get("volume") or "")
    return next(iter(disks({key: config[key]})), "") if key in config else ""


def _journey(
    rows: Sequence[Mapping[str, Any]], guest: Guest, seen: Seen, given: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Say what a migration meets: the other node, disks that are copied, what PVE refuses."""
    target = str(given.get("target"))
    node = next((r for r in rows if r.get("type") == "node" and r.get("node") == target), {})
    facts = [("target", f"{line(target, 40)} is {line(node.get('status') or 'not seen', 20)}")]
    shared = {
        str(r["storage"])
        for r in rows
        if r.get("type") == "storage" and r.get("node") == guest.node and r.get("shared")
    }
    local = [d for d in disks(seen["config"] or {}) if d.split()[1].partition(":")[0] not in shared]
    if local:
        facts.append(("on storages that are not shared", line(", ".join(local), 300)))
    ways = ("online",) if guest.kind == "qemu" else ("online", "restart")
    if runs(seen) and not any(str(given.get(way)) == "1" for way in ways):
        needs = " or ".join(f"{way}=1" for way in ways)
        facts.append(("PVE refuses", f"it runs, and there is no {needs}"))
    return facts
