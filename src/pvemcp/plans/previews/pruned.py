"""The preview of backups that a retention deletes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pvemcp.call import Intent, Target
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.diff import config_changes
from pvemcp.plans.previews.guest import guest_in, unseen_guest
from pvemcp.plans.previews.looking import line, look
from pvemcp.plans.previews.plain import plain
from pvemcp.pve.client import Pve
from pvemcp.tools.render import moment

SHOWN = 100
"""Backups that are named."""


async def prune(pve: Pve, intent: Intent) -> Preview:
    """Show which backups go, as PVE itself reckons it, and whose they are."""
    place = ("node", "storage")
    given = {name: value for name, value in intent.params.items() if name not in place}
    storage = str(intent.params["storage"])
    path = f"/nodes/{intent.node}/storage/{storage}/prunebackups"
    seen = await look({"what would be deleted": pve.get(path, **given)})
    gone = [row for row in seen.rows("what would be deleted") if row.get("mark") == "remove"]
    lost = [f"{line(row.get('volid'))} of {moment(float(row.get('ctime') or 0))}" for row in gone]
    more = [f"{len(lost) - SHOWN} more backups"] if len(lost) > SHOWN else []
    return replace(
        await plain(pve, intent),
        target=Target("storage", storage, name=storage, node=intent.node),
        does=f"deletes {len(gone)} backups on {storage}",
        changes=tuple(config_changes({}, given)[0]),
        lost=(*lost[:SHOWN], *more),
        unseen=tuple(seen.unseen),
        state={"goes": sorted(str(row.get("volid")) for row in gone)},
        confirm=storage,
        users=(unseen_guest(),) if seen.unseen else await _owners(pve, gone),
    )


async def _owners(pve: Pve, gone: Sequence[Mapping[str, Any]]) -> tuple[Target, ...]:
    known = {row["vmid"]: row for row in await pve.resources("vm")}
    vmids = sorted({int(row["vmid"]) for row in gone if row.get("vmid")})
    return tuple(
        guest_in(known[vmid]).target(protected=True) if vmid in known else unseen_guest(vmid)
        for vmid in vmids
    )
