"""Safety snapshots: taken before what a snapshot can bring back, and shown in the plan."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvemcp.call import Call, Effect, Intent
from pvemcp.errors import Conflict, Fault, Unavailable
from pvemcp.journal.drives import is_drive, is_unused, volume_of
from pvemcp.journal.guests import SAFETY
from pvemcp.pve.client import Pve
from pvemcp.pve.tasks import run_task

WAIT = 600.0
"""Seconds that a snapshot may take."""
ONLY_NEWEST = ("zfspool", "zfs")
"""Storages that go back to the newest snapshot alone."""
_GUEST = re.compile(r"/nodes/(?P<node>[^/]+)/(?:qemu|lxc)/(?P<vmid>\d+)")


@dataclass(frozen=True, slots=True)
class Safety:
    """What is written before the call's own writes, and why nothing is, by intent."""

    first: tuple[Intent, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


async def safety(pve: Pve, intents: Sequence[Intent], *, keep: int) -> Safety:
    """Plan the safety snapshots of a call. `keep`: how many a guest keeps; 0 makes none."""
    call = pve.call
    notes: dict[str, str] = {}
    first: list[Intent] = []
    done: set[str] = set()
    for intent in intents if keep else ():
        guest = _GUEST.match(intent.path)
        if guest is None or guest[0] in done:
            continue
        call.planning = []
        try:
            notes[intent.digest] = await _plan(pve, intent, guest, keep)
            first += call.planning
        except Fault as fault:
            notes[intent.digest] = f"none: {fault.message}"
        finally:
            call.planning = None
        done.add(guest[0])
    return Safety(tuple(first), {digest: note for digest, note in notes.items() if note})


async def take(pve: Pve, call: Call, first: Sequence[Intent]) -> None:
    """Take what was planned. Raises a Fault when it fails; nothing else was done then."""
    for intent in first:
        rest = {k: v for k, v in intent.params.items() if f"{{{k}}}" not in intent.template}
        try:
            answer = await pve.request(intent.verb, intent.path, rest)
            end = await run_task(pve, answer.upid, wait=WAIT)
        except Fault as fault:
            raise Conflict(
                f"the safety snapshot could not be made, so {call.tool} was not run: "
                f"{fault.message}",
                hint="Repair that, or an administrator sets safety_snapshots = 0.",
            ) from None
        if end.status == "running":
            raise Unavailable(
                f"the safety snapshot takes longer than {WAIT:.0f} s, so {call.tool} was not run",
                hint=f"Follow the task {end.upid}, then make the call again.",
            )


async def _plan(pve: Pve, intent: Intent, guest: re.Match[str], keep: int) -> str:
    """Plan the snapshot before one write, or return why there is none; "" where none is needed."""
    if why := _useless(intent):
        return f"none: {why}"
    path = guest[0]
    rollback = intent.template.endswith("/rollback")
    if not rollback and (pve.call.undoes or not await _detaches(pve, path, intent)):
        return ""  # what an undo lets go of, a further undo attaches again
    if why := await _impossible(pve, intent, guest):
        return f"none: {why}"
    rows = [r for r in await pve.get(f"{path}/snapshot") if r.get("name") != "current"]
    name = f"{SAFETY}{_mark(intent, rows)}"
    about = f"Made by pvemcp before {intent.verb} {intent.path}"
    await pve.post(f"{path}/snapshot", snapname=name, description=about)
    if intent.effect is Effect.DESTROY:
        for old in _too_many(rows, keep, str(intent.params.get("snapname", ""))):
            await pve.delete(f"{path}/snapshot/{old}")
    return f"{name} is taken first"


async def _impossible(pve: Pve, intent: Intent, guest: re.Match[str]) -> str:
    """Return why no snapshot can be taken, or ""."""
    if "digest" in intent.params:
        return "the given digest would not hold any more"
    rights = await pve.permissions(f"/vms/{guest['vmid']}")
    if not any("VM.Snapshot" in held for held in rights.values()):
        return "the API token lacks VM.Snapshot"
    able = await pve.get(f"{guest[0]}/feature", feature="snapshot")
    if not (able or {}).get("hasFeature"):
        return "a storage of the guest cannot make snapshots"
    if not intent.template.endswith("/rollback"):
        return ""
    name = await _only_newest(pve, guest[0], guest["node"])
    return f"{name} goes back only to the newest snapshot" if name else ""


def _useless(intent: Intent) -> str:
    params = intent.params
    over = params.get("archive") or params.get("restore")
    if re.fullmatch(r"/nodes/\{node\}/(?:qemu|lxc)", intent.template) and params.get("force"):
        return "a restore deletes the guest's snapshots too; make a backup first" if over else ""
    gone = [n for n in _names(params.get("delete")) if is_unused(n)]
    force = [n for n in _names(params.get("delete")) if is_drive(n) and _on(params.get("force"))]
    if intent.template.endswith("/config") and (gone or force):
        return "PVE deletes no volume that a snapshot holds"
    return ""


async def _detaches(pve: Pve, path: str, intent: Intent) -> bool:
    """Whether a change of a configuration lets go of a volume."""
    if not re.fullmatch(r"/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}/config", intent.template):
        return False
    named = [n for n in _names(intent.params.get("delete")) if is_drive(n)]
    given = [n for n in intent.params if is_drive(n)]
    if not named and not given:
        return False
    config = await pve.get(f"{path}/config")
    held = {n: volume_of(config.get(n, "")) for n in (*named, *given)}
    return any(held[n] for n in named) or any(
        held[n] and held[n] != volume_of(intent.params[n]) for n in given
    )


async def _only_newest(pve: Pve, path: str, node: str) -> str:
    config = await pve.get(f"{path}/config")
    rows = await pve.get(f"/nodes/{node}/storage")
    kinds = {str(row["storage"]): row.get("type") for row in rows or ()}
    used = [volume_of(config[n]).partition(":")[0] for n in config if is_drive(n)]
    return next((name for name in used if kinds.get(name) in ONLY_NEWEST), "")


def _too_many(rows: Sequence[Mapping[str, Any]], keep: int, wanted: str) -> list[str]:
    ours = [r for r in rows if str(r["name"]).startswith(SAFETY) and r["name"] != wanted]
    ours.sort(key=lambda row: (int(row.get("snaptime") or 0), str(row["name"])))
    return [str(row["name"]) for row in ours[: max(0, len(ours) + 1 - keep)]]


def _mark(intent: Intent, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the same mark for the same plan: what a person approves has a fixed name."""
    seen = sorted(f"{row['name']} {row.get('snaptime')}" for row in rows)
    return hashlib.sha256("\n".join([intent.digest, *seen]).encode()).hexdigest()[:10]


def _names(value: Any) -> list[str]:
    listed = value if isinstance(value, (list, tuple)) else re.split(r"[,; ]+", str(value or ""))
    return [str(name) for name in listed if name]


def _on(value: Any) -> bool:
    return str(value) in ("1", "True")
