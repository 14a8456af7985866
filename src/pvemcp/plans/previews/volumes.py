"""Volumes: disks of a guest, its backups, and what else depends on them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pvemcp.access.rules import tags_in
from pvemcp.call import Intent, Target
from pvemcp.errors import Fault
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.diff import DISK
from pvemcp.plans.previews.looking import guests_line, line, look
from pvemcp.pve.client import Pve
from pvemcp.pve.volumes import owner
from pvemcp.tools.render import duration, moment, size

_VOLUME = re.compile(r"([^,:\s]+):([^,]+)")


def disks(config: Mapping[str, Any]) -> list[str]:
    """Return a guest's disks as `scsi0 local-lvm:vm-105-disk-0 32G`; drives of CDs are none."""
    found = []
    for key in sorted(config):
        text = str(config[key])
        if not DISK.fullmatch(key) or "media=cdrom" in text or text == "none":
            continue
        volume, *options = text.split(",")
        large = next((o.partition("=")[2] for o in options if o.startswith("size=")), "")
        found.append(f"{key} {line(volume)} {large}".rstrip())
    return found


def backup_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Describe the newest backup: age, verification, size, place."""
    if not rows:
        return "none was found"
    row = max(rows, key=lambda each: float(each.get("ctime") or 0))
    made = float(row.get("ctime") or 0)
    checked = row.get("verification")
    state = checked.get("state") if isinstance(checked, dict) else None
    parts = [
        f"{duration(max(0.0, time.time() - made))} old",
        f"verification {line(state, 20)}" if state else "not verified",
        *([size(float(row["size"]))] if row.get("size") else []),
        *(["protected"] if row.get("protected") else []),
        moment(made),
        line(row.get("volid")),
    ]
    text = ", ".join(parts)
    more = len(rows) - 1
    return f"{text}; {more} older" if more else text


async def holders(
    pve: Pve, vmid: int, config: Mapping[str, Any], searched: int
) -> tuple[list[str], list[str]]:
    """Return the volumes that are linked clones of this guest's, and what could not be seen.

    At most `searched` storages are looked through.

    Only a template has any: PVE names their volumes `base-VMID-…/…`, which stands in the volid of
    each clone (seen on PVE 9.1), so the configurations of the others need not be read.
    """
    if str(config.get("template", 0)) != "1":
        return [], []
    storages = {found[1] for text in config.values() if (found := _VOLUME.match(str(text)))}
    rows = await pve.resources()
    places = [r for r in rows if r.get("type") == "storage" and r.get("storage") in storages]
    by_name = {str(r["storage"]): str(r["node"]) for r in places}
    seen = await look({
        f"volumes on {name}": pve.get(f"/nodes/{node}/storage/{name}/content")
        for name, node in sorted(by_name.items())[:searched]
    })  # fmt: skip
    seen.unseen += [f"linked clones on {name}" for name in sorted(by_name)[searched:]]
    base = re.compile(rf"(?:base|basevol)-{vmid}-")
    clones = {
        f"{row.get('vmid') or owner(str(row['volid']))} ({line(row['volid'])})"
        for name in by_name
        for row in seen.rows(f"volumes on {name}")
        if row.get("vmid") != vmid
        and base.search(f"{row.get('parent') or ''} {row.get('volid')}")
        and owner(str(row["volid"])) != vmid
    }
    return sorted(clones), seen.unseen


async def delete(pve: Pve, intent: Intent) -> Preview:
    """Show a volume that is deleted: what it is, whose it is, and who still uses it."""
    volid = str(intent.params.get("volume"))
    storage = str(intent.params.get("storage"))
    volid = volid if ":" in volid else f"{storage}:{volid}"
    vmid = owner(volid)
    base = f"/nodes/{intent.node}/storage/{storage}"
    asked: dict[str, Any] = {"volumes": pve.get(f"{base}/content")}
    rows: Sequence[Mapping[str, Any]] = []
    try:
        rows = [row for row in await pve.resources() if row.get("vmid") == vmid]
    except Fault:
        rows = []
    if rows:
        guest = f"/nodes/{rows[0]['node']}/{rows[0]['type']}/{vmid}"
        asked["config of its guest"] = pve.get(f"{guest}/config")
    seen = await look(asked)
    listed = seen.rows("volumes")
    row = next((each for each in listed if each.get("volid") == volid), {})
    config = seen["config of its guest"] or {}
    uses = [key for key, text in config.items() if str(text).split(",")[0] == volid]
    facts = [
        ("volume", _about(row)),
        ("used by", f"{_named(vmid, rows)}: {', '.join(uses)}" if uses else "none seen"),
    ]
    if row.get("content") == "backup":
        facts[1:] = [
            ("a backup of", _named(vmid, rows)),
            ("other backups of it there", _rest(row, listed)),
        ]
    guest_row = rows[0] if rows else {}
    target = Target(
        "volume", volid, vmid=vmid, node=intent.node,
        pool=str(guest_row.get("pool") or ""), tags=tags_in(guest_row),
        protected=bool(row.get("protected")) or str(config.get("protection", 0)) == "1",
        known=bool(rows) or not vmid,
    )  # fmt: skip
    return Preview(
        intent,
        target,
        does=f"deletes the volume {line(volid)}",
        facts=tuple(facts),
        lost=(f"{line(volid)} and what is in it",),
        unseen=tuple(seen.unseen),
        state={"ctime": row.get("ctime"), "size": row.get("size"), "uses": sorted(uses)},
        confirm=volid.rsplit("/", 1)[-1].rpartition(":")[2],
    )


def _named(vmid: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """Name the owner of a volume, and say whether it runs."""
    return guests_line(rows) if rows else f"guest {vmid}, which is not seen: it may be gone"


def _rest(row: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> str:
    """Count the other backups of the same guest, and say when the newest was made."""
    made = [
        float(r.get("ctime") or 0)
        for r in listed
        if r.get("content") == "backup"
        and r.get("vmid") == row.get("vmid")
        and r.get("volid") != row.get("volid")
    ]
    return f"{len(made)}, the newest of {moment(max(made))}" if made else "none"


def _about(row: Mapping[str, Any]) -> str:
    if not row:
        return "not seen in the list of its storage"
    if row.get("content") == "backup":
        return backup_line([row])
    text = f"{row.get('content')} {row.get('format', '')}, {size(float(row.get('size') or 0))}"
    return f"{text}, protected" if row.get("protected") else text
