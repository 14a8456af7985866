"""Previews of what happens to a guest: destroyed, stopped, reconfigured."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pvemcp.access.rules import tags_in
from pvemcp.call import Intent, Target
from pvemcp.journal.undoable import BACK
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.diff import config_changes
from pvemcp.plans.previews.looking import Seen, gaps, line, look
from pvemcp.plans.previews.volumes import backup_line, disks, holders
from pvemcp.pve.backups import backup_places
from pvemcp.pve.client import Pve
from pvemcp.pve.volumes import takes_disk
from pvemcp.tools.guests import Guest as Located
from pvemcp.tools.guests import addresses
from pvemcp.tools.render import duration, moment

REQUESTS = 8
"""That the preview of a destruction makes at most."""
BACKUP_PLACES = 2
"""Storages that are searched for backups of a guest."""
CONSOLES = ("vncproxy", "termproxy", "spiceproxy", "vncshell")
_CARD = re.compile(r"(?:net|ipconfig)\d+")
_ADDRESS = re.compile(r"(?:^|,)ip6?=([^,]+)")
_POWER = {
    "stop": "takes the power of {}: unsaved data is lost",
    "reset": "resets {}: unsaved data is lost",
    "shutdown": "shuts {} down",
    "reboot": "reboots {}",
    "suspend": "suspends {}",
    "resume": "resumes {}",
    "start": "starts {}",
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest as the list of resources has it. `row` is empty when it is not in there."""

    path: str
    kind: str
    vmid: int
    node: str
    row: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Its type, id and name."""
        return f"{self.kind}/{self.vmid} {line(self.row.get('name', ''), 60)}".rstrip()

    def target(self, *, protected: bool = False) -> Target:
        """What the policy asks about it."""
        return Target(
            "guest",
            f"{self.kind}/{self.vmid}",
            name=line(self.row.get("name", ""), 60),
            vmid=self.vmid,
            node=self.node,
            pool=str(self.row.get("pool") or ""),
            tags=tags_in(self.row),
            protected=protected,
            known=bool(self.row),
        )


def guest_in(row: Mapping[str, Any]) -> Guest:
    """Return the guest of a row of the list of resources."""
    kind, node, vmid = str(row["type"]), str(row.get("node")), int(row["vmid"])
    return Guest(f"/nodes/{node}/{kind}/{vmid}", kind, vmid, node, row)


async def guest_of(pve: Pve, intent: Intent) -> Guest:
    """Return the guest of an intent whose path names one. Raises Fault when PVE lists none."""
    _, _, node, kind, vmid = intent.path.split("/")[:5]
    rows = await pve.resources()
    row = next((row for row in rows if str(row.get("vmid")) == vmid), {})
    return Guest(f"/nodes/{node}/{kind}/{vmid}", kind, int(vmid), node, row)


def unseen_guest(vmid: int = 0) -> Target:
    """Return what stands for a guest of which nothing is known; without an id, for any guests."""
    return Target("guest", str(vmid) if vmid else "unknown guests", vmid=vmid, known=False)


async def basics(pve: Pve, guest: Guest, **more: Awaitable[Any]) -> Seen:
    """Look up status and config of a guest, and whatever else is given, at once.

    Raises Missing where there is no such guest on that node, or it is of the other kind.
    """
    asked = {
        "status": pve.get(f"{guest.path}/status/current"),
        "config": pve.get(f"{guest.path}/config"),
        **more,
    }
    return await look(asked, must="config")


def protected(seen: Seen) -> bool:
    """Whether PVE's protection flag is set; an unseen config counts as protected."""
    config = seen["config"]
    return config is None or str(config.get("protection", 0)) == "1"


def state(seen: Seen) -> dict[str, Any]:
    """Return what an approval holds on to."""
    config, status = seen["config"] or {}, seen["status"] or {}
    found = {"digest": config.get("digest"), "status": status.get("status")}
    if (snapshots := seen["snapshots"]) is not None:
        found["snapshots"] = sorted(str(row.get("name")) for row in snapshots)
    return found


def runs(seen: Seen) -> bool:
    """Whether a guest runs."""
    return bool((seen["status"] or {}).get("status") == "running")


def running(seen: Seen) -> str:
    """Say in which state a guest is and for how long."""
    status = seen["status"] or {}
    text = "template" if status.get("template") else str(status.get("status") or "unknown")
    if status.get("uptime"):
        text += f" for {duration(float(status['uptime']))}"
    if status.get("lock"):
        text += f", locked ({line(status['lock'], 30)})"
    ha = status.get("ha") or {}
    if ha.get("managed"):
        text += f", HA-managed ({line(ha.get('state') or 'not taken up yet', 30)})"
    return text


def about(intent: Intent, guest: Guest, seen: Seen, does: str, **more: Any) -> Preview:
    """Return the preview of a write to a guest that was looked up."""
    made = Preview(
        intent,
        guest.target(protected=protected(seen)),
        does,
        unseen=tuple(seen.unseen),
        state=state(seen),
    )
    told = tuple(more.pop("facts", ()))
    known = {name for name, _ in told}
    marks = (each for each in _marks(guest, seen) if each[0] not in known)
    return replace(made, facts=(*told, *marks), **more)


def _marks(guest: Guest, seen: Seen) -> list[tuple[str, str]]:
    """Return what rules of the policy look at, so that who is asked sees why."""
    marks = [("tags", line(guest.row["tags"]))] if guest.row.get("tags") else []
    flag = str((seen["config"] or {}).get("protection", 0)) == "1"
    return [*marks, *([("protection", "on")] if flag else [])]


async def destroy(pve: Pve, intent: Intent) -> Preview:
    """Show what is lost with a guest: at most 8 requests, nearly all at once.

    Its state is the list's, up to 10 s old: PVE itself refuses to destroy what runs.
    """
    guest = await guest_of(pve, intent)
    is_running, template = guest.row.get("status") == "running", bool(guest.row.get("template"))
    places = await backup_places(pve, guest.node)
    searched = places[: 1 if is_running else BACKUP_PLACES]
    asked = _asked(pve, guest, searched)
    if not template:
        asked["snapshots"] = pve.get(f"{guest.path}/snapshot")
        asked["firewall"] = pve.get(f"{guest.path}/firewall/rules")
    if is_running:
        asked["addresses"] = addresses(pve, Located(guest.vmid, "", guest.kind, guest.node))
    seen = await look(asked, must="config")
    config = seen["config"] or {}
    left = REQUESTS - 1 - len(asked)  # the list of resources is the first
    clones, blind = await holders(pve, guest.vmid, config, left)
    backups = [row for name in searched for row in seen.rows(f"backups on {name}")]
    unseen = [*seen.unseen, *blind]
    if left_out := places[len(searched) :]:
        unseen.append(f"backups on {', '.join(left_out)}")
    if not (is_running or template or _configured(config)):
        unseen.append("addresses: it does not run")
    if not backups:
        unseen += await gaps(pve, ("/storage", "Datastore.Audit"))
    snapshots = [r for r in seen.rows("snapshots") if r.get("name") != "current"]
    lost = [f"the disk {disk}" for disk in disks(config)] or ["its configuration"]
    lost += [f"the snapshot {line(row['name'], 40)} of {_when(row)}" for row in snapshots]
    lost += [f"linked clone {clone} depends on it" for clone in clones]
    status = {name: guest.row.get(name) for name in ("status", "uptime", "lock", "template")}
    seen.found["status"] = status
    facts = [("state", running(seen)), *_serves(guest, config, seen)]
    facts += [("last backup", backup_line(backups)), *_references(guest, seen)]
    facts += _refusal(guest, intent, seen)
    return about(
        intent,
        guest,
        seen,
        f"destroys {guest.label} and its disks",
        facts=tuple(facts),
        lost=tuple(lost),
        unseen=tuple(unseen),
        confirm=str(guest.vmid),
    )


def _asked(pve: Pve, guest: Guest, searched: Sequence[str]) -> dict[str, Awaitable[Any]]:
    """Return what is asked about a guest that is destroyed, whatever its state."""
    base = f"/nodes/{guest.node}/storage"
    return {
        "config": pve.get(f"{guest.path}/config"),
        "replication": pve.get("/cluster/replication"),
        "backup jobs": pve.get("/cluster/backup"),
        **{
            f"backups on {name}": pve.get(
                f"{base}/{name}/content", content="backup", vmid=guest.vmid
            )
            for name in searched
        },
    }


def _serves(guest: Guest, config: Mapping[str, Any], seen: Seen) -> list[tuple[str, str]]:
    facts = []
    if tags := guest.row.get("tags"):
        facts.append(("tags", line(tags)))
    if notes := config.get("description"):
        facts.append(("notes (written by others)", line(notes)))
    if rows := seen["addresses"]:
        listed = [each for row in rows if row["name"] != "lo" for each in row["addresses"]]
        facts.append(("addresses", line(", ".join(listed) or "none")))
    elif given := _configured(config):
        facts.append(("addresses", f"{line(', '.join(given))} (configured)"))
    if str(config.get("protection", 0)) == "1":
        facts.append(("protection", "on: PVE refuses until it is switched off"))
    return facts


def _configured(config: Mapping[str, Any]) -> list[str]:
    """Return the addresses that stand in a configuration: of a container, or for cloud-init."""
    cards = [str(config[key]) for key in sorted(config) if _CARD.fullmatch(key)]
    return [found for card in cards for found in _ADDRESS.findall(card)]


def _refusal(guest: Guest, intent: Intent, seen: Seen) -> list[tuple[str, str]]:
    """Say why PVE would refuse to destroy a guest, so that nobody says yes for nothing.

    Read in PVE's `destroy_vm`; protection is told by itself.
    """
    forced = guest.kind == "lxc" and _on(intent, "force")
    why = []
    if guest.row.get("status") == "running" and not forced:
        why.append("it runs: stop it first")
    if not _on(intent, "purge"):
        if guest.row.get("hastate"):
            why.append("HA watches it, and there is no purge=1")
        if _replicas(guest, seen):
            why.append("it is replicated, and there is no purge=1")
    return [("PVE refuses", "; ".join(why))] if why else []


def _replicas(guest: Guest, seen: Seen) -> list[str]:
    rows = seen.rows("replication")
    return [str(r.get("target")) for r in rows if str(r.get("guest")) == str(guest.vmid)]


def _walls(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count a guest's own rules, and name the groups of rules that it takes in."""
    groups = [line(row.get("action"), 40) for row in rows if row.get("type") == "group"]
    own = len(rows) - len(groups)
    said = [f"{own} rule{'s' * (own != 1)} of its own"] if own else []
    said += [f"the security groups {', '.join(groups)}"] if groups else []
    return ", ".join(said)


def _references(guest: Guest, seen: Seen) -> list[tuple[str, str]]:
    vmid = str(guest.vmid)
    jobs = _replicas(guest, seen)
    backups = [
        str(row.get("id"))
        for row in seen.rows("backup jobs")
        if vmid in str(row.get("vmid") or "").split(",")
    ]
    facts = []
    if jobs:
        facts.append(("replicated to", line(", ".join(jobs))))
    if backups:
        facts.append(("named by backup jobs", line(", ".join(backups))))
    if ha := guest.row.get("hastate"):
        facts.append(("HA", line(ha, 40)))
    if rules := _walls(seen.rows("firewall")):
        facts.append(("firewall", line(rules)))
    if pool := guest.row.get("pool"):
        facts.append(("pool", line(pool)))
    return facts


def _when(row: Mapping[str, Any]) -> str:
    return moment(float(row.get("snaptime") or 0))


async def power(pve: Pve, intent: Intent) -> Preview:
    """Show what a change of the power state meets: how long it ran, and who looks at it."""
    guest, action = await guest_of(pve, intent), intent.path.rsplit("/", 1)[1]
    more: dict[str, Awaitable[Any]] = {}
    if action in ("stop", "reset", "shutdown", "reboot"):
        active = pve.get(f"/nodes/{guest.node}/tasks", source="active", vmid=guest.vmid)
        more["consoles"] = active
    seen = await basics(pve, guest, **more)
    facts = [("state", running(seen))]
    users = [str(row.get("user")) for row in seen.rows("consoles") if row.get("type") in CONSOLES]
    if users:
        facts.append(("at its console", line(", ".join(dict.fromkeys(users)))))
    hard = action in ("stop", "reset") or str(intent.params.get("forceStop")) == "1"
    return about(
        intent,
        guest,
        seen,
        _POWER.get(action, action + " {}").format(guest.label),
        facts=tuple(facts),
        lost=("what the guest has not written to its disks",) if hard else (),
    )


async def reconfigure(pve: Pve, intent: Intent) -> Preview:
    """Show each key of a config from what to what, and what waits for a restart."""
    guest = await guest_of(pve, intent)
    seen = await basics(pve, guest, pending=pve.get(f"{guest.path}/pending"))
    config = seen["config"] or {}
    changes, lost = config_changes(config, intent.params, force=_on(intent, "force"))
    if takes_disk(intent.params):
        lost.append("what a disk of another guest holds, once both write to it")
    facts = [("state", running(seen))]
    if waits := [str(row["key"]) for row in seen.rows("pending") if _waits(row)]:
        facts.append(("waits for a restart already", line(", ".join(waits))))
    secret = any(change.old == "[redacted]" for change in changes)
    return about(
        intent,
        guest,
        seen,
        f"changes the configuration of {guest.label}",
        changes=tuple(changes),
        facts=tuple(facts),
        lost=tuple(lost),
        undo=f"{BACK}, but for secrets" if secret and not lost else "",
        confirm=str(guest.vmid) if any("deleted" in text for text in lost) else "",
    )


async def unlink(pve: Pve, intent: Intent) -> Preview:
    """Show disks that are taken out by PVE's older method: it is a `delete` of them."""
    delete = intent.params.get("idlist", "")
    given = {name: value for name, value in intent.params.items() if name != "idlist"}
    same = replace(intent, params={**given, "delete": delete})
    return replace(await reconfigure(pve, same), intent=intent)


def _waits(row: Mapping[str, Any]) -> bool:
    return "pending" in row or bool(row.get("delete"))


def _on(intent: Intent, name: str) -> bool:
    return str(intent.params.get(name, 0)) == "1"
