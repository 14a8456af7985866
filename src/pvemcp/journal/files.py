"""Files in VMs that are written through the guest agent, and the last backup of a guest."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from pvemcp.errors import Missing, Rejected
from pvemcp.journal.change import Recipe, Request, State, never
from pvemcp.journal.subject import Facts, Reader
from pvemcp.pve.backups import backup_places
from pvemcp.pve.client import Pve

LARGEST = 45_000
"""Bytes of a file that are kept: what PVE's own file-write takes at once."""
CONTENT = "_content"
"""The file itself, in base64: kept for the undo, not shown."""
PLACES = 3
"""Storages in which the last backup is looked for."""


def file_reader(path: str, file: str) -> Reader:
    """Return what reads a file of a VM; {} when there is none. Raises Rejected for a large one."""

    async def read(pve: Pve) -> State:
        try:
            data = await _bytes(pve, f"{path}/agent/file-read", file)
        except (Missing, Rejected):
            return {}
        if len(data) > LARGEST:
            return {"bytes": f"more than {LARGEST}"}
        content = base64.b64encode(data).decode()
        return {"bytes": len(data), "sha256": sha256(data).hexdigest(), CONTENT: content}

    return read


async def _bytes(pve: Pve, path: str, file: str) -> bytes:
    method = (await pve.description()).method("GET", "/nodes/{node}/qemu/{vmid}/agent/file-read")
    if method is not None and any(each.name == "decode" for each in method.parameters):
        answer = await pve.get(path, file=file, count=LARGEST + 1, decode=False)
        return base64.b64decode(answer.get("content") or "")
    answer = await pve.get(path, file=file)  # before PVE 9.1: all of it, as Latin-1
    return str(answer.get("content") or "").encode("latin-1", "replace")


def file_undo(facts: Facts) -> Recipe:
    """Write a file's former content again."""
    file = facts.text("file")
    if not facts.before:
        return never(f"{file} was not there before, or could not be read; remove it in the guest")
    if CONTENT not in facts.before:
        return never(f"{file} was too large to be kept")
    path = f"{facts.guest}/agent/file-write"
    values = {"file": file, "content": facts.before[CONTENT], "encode": 0}
    return Recipe((Request("POST", path, values),))


def destroyed_reader(config: Reader, params: Mapping[str, Any]) -> Reader:
    """Return what reads a guest that is destroyed, and its last backup."""

    async def read(pve: Pve) -> State:
        state = await config(pve)
        if not state:
            return {}
        newest = await _last_backup(pve, str(params["node"]), int(params["vmid"]))
        return {**state, **({"last backup": newest} if newest else {})}

    return read


async def _last_backup(pve: Pve, node: str, vmid: int) -> str:
    """Return the newest backup: the requests are those of the plan, whose answers are kept."""
    found: list[tuple[float, str]] = []
    for storage in (await backup_places(pve, node))[:PLACES]:
        place = f"/nodes/{node}/storage/{storage}/content"
        try:
            backups = await pve.get(place, content="backup", vmid=vmid)
        except (Missing, Rejected):
            continue
        found += [(float(each.get("ctime") or 0), str(each["volid"])) for each in backups or ()]
    return max(found)[1] if found else ""


def destroyed(facts: Facts) -> Recipe:
    """Say from what a destroyed guest could come back."""
    last = facts.before.get("last backup")
    if facts.after:
        return never("the guest is still there")
    if last:
        return never(f"a destroyed guest comes back only from a backup; the last one is {last}")
    return never("a destroyed guest comes back only from a backup, and none could be seen")
