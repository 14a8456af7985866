"""Guests as a whole: power, snapshots, their node, their storages, whether they exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.journal.change import Recipe, Request, State, never
from pvemcp.journal.config import PENDING, config_reader, config_subject, config_undo, guest_path
from pvemcp.journal.drives import volume_of
from pvemcp.journal.files import destroyed, destroyed_reader, file_reader, file_undo
from pvemcp.journal.subject import Facts, Reader, Subject, absent_or, nothing
from pvemcp.journal.undoable import promise
from pvemcp.pve.client import Pve

_GUEST = re.compile(r"/nodes/\{node\}/(qemu|lxc)(?P<at>/\{vmid\})?(?P<rest>.*)")
SAFETY = "pvemcp-"
"""Begins the names of safety snapshots."""


def guest_subject(verb: str, template: str, params: Mapping[str, Any]) -> Subject | None:
    """Return the subject of a change to a guest, or None for other paths."""
    found = _GUEST.fullmatch(template)
    if found is None or "vmid" not in params:
        return None
    rest = found["rest"]
    if rest.startswith("/firewall") or rest == "/snapshot/{snapname}/config":
        return None  # lists, and plain settings
    if rest == "/config":
        return config_subject(template, params)
    path = guest_path(params, template)
    if not found["at"]:
        return _subject(path, config_reader(path), _created)
    if rest == "/clone":
        new = f"/nodes/{params.get('target') or params['node']}/{found[1]}/{params['newid']}"
        return _subject(new, config_reader(new), _created)
    reader, undo = _part(verb, rest, path, params)
    return _subject(path, reader, undo)


def _part(
    verb: str, rest: str, path: str, params: Mapping[str, Any]
) -> tuple[Reader, Callable[[Facts], Recipe]]:
    """Return how a part of a guest is read, and how a change of it is taken back."""
    config = config_reader(path)
    kinds: dict[str, tuple[Reader, Callable[[Facts], Recipe]]] = {
        "": (destroyed_reader(config, params), destroyed) if verb == "DELETE" else (config, _never),
        "agent/file-write": (file_reader(path, str(params.get("file"))), file_undo),
        "status": (_power_reader(path), _power),
        "snapshot": (_snapshot_reader(path), _snapshot),
        "migrate": (_place_reader(path, params), _migrated),
        "move_disk": (config, _moved),
        "move_volume": (config, _moved),
        "resize": (config, _never),
        "template": (config, _never),
    }
    word = rest.strip("/")
    return kinds.get(word) or kinds.get(word.split("/")[0]) or (nothing, _never)


def _subject(path: str, reader: Reader, undo: Callable[[Facts], Recipe]) -> Subject:
    return Subject("guest", "/".join(path.split("/")[3:5]), reader, undo)


def _never(facts: Facts) -> Recipe:
    return never(promise(facts.verb, facts.template, facts.params).why_not or "no way is known")


# Power ------------------------------------------------------------------------------------------


def _watched(status: Mapping[str, Any]) -> State:
    """Note that HA watches a guest: it is told, and does what was asked a little later."""
    return {"ha": True} if (status.get("ha") or {}).get("managed") else {}


def _power_reader(path: str) -> Reader:
    async def read(pve: Pve) -> State:
        found = await absent_or(pve, f"{path}/status/current")
        if not found:
            return {}
        paused = found.get("qmpstatus") in ("paused", "suspended")
        power = "paused" if paused else str(found.get("status"))
        state: State = {"power": power, **_watched(found)}
        config = await config_reader(path)(pve)
        waiting = [n.removesuffix(PENDING) for n in config if n.endswith(PENDING)]
        return {**state, **({"waiting": waiting} if waiting else {})}

    return read


_POWER: Mapping[tuple[str, str], tuple[str, str]] = {
    ("stopped", "running"): ("shutdown", "what it has written meanwhile stays"),
    ("running", "stopped"): ("start", "what was in its memory"),
    ("paused", "stopped"): ("start", "what was in its memory, and that it was paused"),
    ("running", "paused"): ("resume", ""),
    ("paused", "running"): ("suspend", ""),
}


_WANTED = {"stop": "stopped", "shutdown": "stopped", "start": "running"}
"""What HA is told to make of a guest."""


def _power(facts: Facts) -> Recipe:
    if facts.template.endswith(("/reboot", "/reset")):
        return _never(facts)
    change, keys = (str(facts.before.get("power")), str(facts.after.get("power"))), ("power",)
    if change[0] == change[1] and facts.after.get("ha"):
        wanted = _WANTED.get(facts.template.rsplit("/", 1)[1], change[1])
        change, keys = (change[0], wanted), ("ha",)
    action, lost = _POWER.get(change, ("", ""))
    if not action:
        return never("its power state did not change")
    suspended = facts.template.endswith("/suspend") and change == ("running", "stopped")
    lost = "" if suspended else lost  # to disk: a start goes on where it was
    all_lost = [lost] if lost else []
    if (waited := facts.before.get("waiting")) and not facts.after.get("waiting"):
        all_lost.append(f"what waited for the next start counts now: {', '.join(waited)}")
    request = Request("POST", f"{facts.guest}/status/{action}")
    return Recipe((request,), tuple(all_lost), keys=keys)


# Snapshots --------------------------------------------------------------------------------------


def _snapshot_reader(path: str) -> Reader:
    async def read(pve: Pve) -> State:
        rows = await absent_or(pve, f"{path}/snapshot")
        state: State = {}
        for row in rows or ():
            if row["name"] == "current":
                state["at"] = row.get("parent", "")
                state["running"] = int(row.get("running") or 0)
            else:
                state[f"snapshot {row['name']}"] = row.get("snaptime", 0)
        return state

    return read


def _snapshot(facts: Facts) -> Recipe:
    name = facts.text("snapname")
    if facts.template.endswith("/snapshot") and facts.verb == "POST":
        key = f"snapshot {name}"
        if key not in facts.after or key in facts.before:
            return never("there is no new snapshot")
        request = Request("DELETE", f"{facts.guest}/snapshot/{name}")
        return Recipe((request,), keys=(key,))
    if facts.template.endswith("/rollback") and facts.safety:
        path = f"{facts.guest}/snapshot/{facts.safety}/rollback"
        lost = ("what was in its memory", f"the snapshot {facts.safety} stays")
        start = {"start": 1} if facts.before.get("running") else {}
        return Recipe((Request("POST", path, start),), lost, keys=(f"snapshot {facts.safety}",))
    if facts.template.endswith("/rollback"):
        return never("no safety snapshot was taken before; what came after it is lost")
    return _never(facts)


# Existence --------------------------------------------------------------------------------------


def _created(facts: Facts) -> Recipe:
    if facts.before:
        return _never(facts)
    if not facts.after:
        return never("there is no new guest")
    new = facts.text("newid") or facts.text("vmid")
    node = facts.text("target") or facts.text("node")
    path = f"/nodes/{node}/{facts.template.split('/')[3]}/{new}"
    stop = [Request("POST", f"{path}/status/stop")] if facts.flag("start") else []
    return Recipe((*stop, Request("DELETE", path, {"purge": 1})))


# Places -----------------------------------------------------------------------------------------


def _place_reader(path: str, params: Mapping[str, Any]) -> Reader:
    async def read(pve: Pve) -> State:
        for node in (params["node"], params.get("target")):
            there = path.replace(f"/nodes/{params['node']}/", f"/nodes/{node}/", 1)
            found = await absent_or(pve, f"{there}/status/current") if node else None
            if found:
                return {"node": str(node), "power": str(found.get("status")), **_watched(found)}
        return {}

    return read


def _migrated(facts: Facts) -> Recipe:
    source, here, keys = facts.before.get("node"), facts.after.get("node"), ("node",)
    if source == here and facts.after.get("ha"):
        here, keys = facts.text("target"), ("ha",)
    if not source or not here or source == here:
        return never("the guest is where it was")
    kind = facts.guest.split("/")[3]
    values: State = {"target": source}
    if facts.after.get("power") == "running":
        values["online" if kind == "qemu" else "restart"] = 1
    if facts.flag("with-local-disks"):
        values["with-local-disks"] = 1
    path = facts.guest.replace(f"/nodes/{source}/", f"/nodes/{here}/", 1)
    return Recipe((Request("POST", f"{path}/migrate", values),), keys=keys)


def _moved(facts: Facts) -> Recipe:
    name = facts.text("disk") or facts.text("volume")
    old, new = facts.before.get(name), facts.after.get(name)
    if facts.text("target-vmid"):
        return _reassigned(facts, name)
    if old is None or new is None or volume_of(old) == volume_of(new):
        return config_undo(facts)
    storage = volume_of(old).partition(":")[0]
    key = "disk" if facts.text("disk") else "volume"
    values = {key: name, "storage": storage, "delete": 1}
    kept = f"{name} gets a new volume on {storage}, of another name"
    return Recipe((Request("POST", facts.path, values),), (kept,), keys=(name,))


def _reassigned(facts: Facts, name: str) -> Recipe:
    key = "disk" if facts.text("disk") else "volume"
    there = facts.text(f"target-{key}") or name
    parts = facts.path.split("/")
    parts[4] = facts.text("target-vmid")
    values = {key: there, "target-vmid": facts.text("vmid"), f"target-{key}": name}
    back = [Request("POST", "/".join(parts), values)]
    keys = [name]
    boot = facts.before.get("boot")
    if boot is not None and facts.after.get("boot") != boot:  # PVE takes the disk out of it
        back.append(Request("PUT", f"{facts.guest}/config", {"boot": boot}))
        keys.append("boot")
    return Recipe(tuple(back), keys=tuple(keys))
