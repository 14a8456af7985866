"""Backups that a retention deletes; of retentions only `keep-last` is known here."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pvemcp.sim.declare import (
    VMID_LIMITS,
    Ask,
    Endpoint,
    choice,
    endpoint,
    index,
    perm,
    text,
    whole,
)
from pvemcp.sim.refusal import failed, forbidden
from pvemcp.sim.tasks import Work
from pvemcp.sim.volumes import need_storage
from pvemcp.sim.world import Volume

_PATH = "/nodes/{node}/storage/{storage}/prunebackups"
_AUDIT = perm("/storage/{storage}", "Datastore.Audit", "Datastore.AllocateSpace", any_of=True)


def _marked(ask: Ask) -> list[tuple[Volume, str]]:
    """Return the backups that are looked at, newest first, and what becomes of each."""
    name, args = str(ask.args["storage"]), ask.args
    need_storage(ask.world, name)
    found = re.search(r"keep-last=(\d+)", str(args.get("prune-backups", "")))
    if found is None:
        raise failed("only keep-last is simulated")
    seen: Counter[int] = Counter()
    marked = []
    backups = [v for v in ask.world.storages[name].volumes if v.content == "backup"]
    for volume in sorted(backups, key=lambda each: -each.ctime):
        if args.get("vmid") not in (None, volume.vmid) or not volume.vmid:
            continue
        seen[volume.vmid] += not volume.protected
        late = seen[volume.vmid] > int(found[1])
        mark = "protected" if volume.protected else "remove" if late else "keep"
        marked.append((volume, mark))
    return marked


def _dry(ask: Ask) -> list[dict[str, Any]]:
    return [
        {"volid": each.volid, "vmid": each.vmid, "ctime": int(each.ctime), "mark": mark,
         "type": "lxc" if "vzdump-lxc-" in each.volid else "qemu"}
        for each, mark in _marked(ask)
    ]  # fmt: skip


def _prune(ask: Ask) -> str:
    storage, one = f"/storage/{ask.args['storage']}", "vmid" in ask.args
    if not ask.may(storage, "Datastore.AllocateSpace" if one else "Datastore.Allocate"):
        raise forbidden(f"{storage}, Datastore.Allocate")
    gone = [volume for volume, mark in _marked(ask) if mark == "remove"]
    volumes = ask.world.storages[str(ask.args["storage"])].volumes

    def apply() -> None:
        for volume in gone:
            volumes.remove(volume)

    return ask.world.tasks.start(
        ask.node, "prunebackups", id="", user=ask.who.id, work=Work(apply, seconds=3)
    )


_PARAMETERS = (
    text("prune-backups", "What to keep.", format="prune-backups"),
    choice("type", "Of guests of this type.", ("qemu", "lxc")),
    whole("vmid", "Of this guest.", **VMID_LIMITS),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", _PATH, _dry, about="What would be deleted.", permissions=_AUDIT,
             protected=True, returns=index("volid"), parameters=_PARAMETERS),
    endpoint("DELETE", _PATH, _prune, about="Delete old backups.",
             protected=True, returns="string", parameters=_PARAMETERS),
)  # fmt: skip
