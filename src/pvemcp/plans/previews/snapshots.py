"""Previews of a guest that goes back to a snapshot, and of a snapshot that is deleted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pvemcp.call import Intent
from pvemcp.journal.drives import is_unused
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.diff import config_changes
from pvemcp.plans.previews.guest import about, basics, guest_of, running, runs
from pvemcp.plans.previews.looking import line
from pvemcp.pve.client import Pve
from pvemcp.tools.render import duration, moment


async def rollback(pve: Pve, intent: Intent) -> Preview:
    """Show what is newer than the snapshot that a guest goes back to."""
    guest = await guest_of(pve, intent)
    name = str(intent.params.get("snapname"))
    path = f"{guest.path}/snapshot"
    seen = await basics(
        pve, guest, snapshots=pve.get(path), snapshot=pve.get(f"{path}/{name}/config")
    )
    rows = {str(row["name"]): row for row in seen.rows("snapshots")}
    taken = float(rows.get(name, {}).get("snaptime") or 0)
    later = _later(rows, taken)
    lost = [f"everything the guest wrote since {moment(taken)}"]
    if runs(seen):
        lost.append(f"what runs in it now: {_afterwards(rows.get(name, {}), intent)}")
    if seen["snapshot"] is not None and seen["config"] is not None:
        before, now = _put_back(seen["snapshot"]), _put_back(seen["config"])
        gone = ",".join(sorted(set(now) - set(before)))
        changes, _ = config_changes(now, {**before, "delete": gone})
    else:
        changes = []
    facts = [("state", running(seen)), ("snapshot", f"{line(name, 40)} of {_age(taken)}")]
    if later:
        facts.append(("newer snapshots", line(", ".join(later), 300)))
    return about(
        intent,
        guest,
        seen,
        f"puts {guest.label} back to its snapshot {line(name, 40)}",
        changes=tuple(changes),
        facts=tuple(facts),
        lost=tuple(lost),
        confirm=str(guest.vmid),
    )


_OWN = frozenset(
    {"digest", "parent", "snaptime", "snapstate", "vmstate", "runningmachine", "runningcpu",
     "running-nets-host-mtu", "description", "vmgenid", "lock"}
)  # fmt: skip
"""What a rollback does not bring from the snapshot: a guest keeps its notes and unused volumes.

Read in PVE's `__snapshot_apply_config`; seen on PVE 9.2.
"""


def _put_back(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in _OWN and not is_unused(k)}


def _afterwards(row: Mapping[str, Any], intent: Intent) -> str:
    """Say whether a running guest runs again after a rollback: PVE stops it first."""
    if row.get("vmstate"):
        return "it goes on from the memory of the snapshot"
    if str(intent.params.get("start")) == "1":
        return "it is started anew"
    return "it is stopped, and stays so (start=1 would start it)"


def _later(rows: Mapping[str, Mapping[str, Any]], taken: float) -> list[str]:
    return [
        name
        for name, row in rows.items()
        if name != "current" and float(row.get("snaptime") or 0) > taken
    ]


def _age(taken: float) -> str:
    if not taken:
        return "unknown age"
    return f"{moment(taken)}, {duration(max(0.0, time.time() - taken))} ago"


async def unsnapshot(pve: Pve, intent: Intent) -> Preview:
    """Show a snapshot that is deleted: its age, and which are newer."""
    guest = await guest_of(pve, intent)
    name = str(intent.params.get("snapname"))
    seen = await basics(pve, guest, snapshots=pve.get(f"{guest.path}/snapshot"))
    rows = {str(row["name"]): row for row in seen.rows("snapshots")}
    row = rows.get(name, {})
    taken = float(row.get("snaptime") or 0)
    facts = [("snapshot", f"{line(name, 40)} of {_age(taken)}" if row else "not seen")]
    if row and (later := _later(rows, taken)):
        facts.append(("newer snapshots", line(", ".join(later), 300)))
    if row.get("description"):
        facts.append(("notes (written by others)", line(row["description"])))
    return about(
        intent,
        guest,
        seen,
        f"deletes the snapshot {line(name, 40)} of {guest.label}",
        facts=tuple(facts),
        lost=(f"the way back to {moment(taken)}" if row else "the way back to it",),
        confirm=name,
    )
