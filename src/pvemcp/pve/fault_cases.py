"""What PVE's error texts mean: a Fault class and the next step for each, by pattern.

The texts are PVE's own (seen on PVE 9.1); they reach us as reason phrases, as `errors` of a 400
and as the exit status of tasks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pvemcp.errors import Conflict, Denied, Fault, Invalid, Missing, Rejected, Unavailable


@dataclass(frozen=True, slots=True)
class Clue:
    """What a better answer could be about: the kind, name and place of a thing."""

    kind: str
    """guest, node, storage, item (of the list at `path`) or lock (of a guest)."""
    name: str
    node: str = ""
    type: str = ""
    """qemu or lxc, for a guest; the name of the path's parameter, for an item."""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One meaning of a text. `hint` may hold the pattern's groups and {token}."""

    pattern: re.Pattern[str]
    fault: type[Fault]
    hint: str
    kind: str = ""
    """What the group `name` names, if PVE could not find it."""


LOCKS = {
    "backup": "a backup of it runs",
    "clone": "it is being cloned",
    "create": "it is being created or restored",
    "destroyed": "it is being destroyed",
    "disk": "one of its volumes is being moved or resized",
    "fstrim": "its file systems are being trimmed",
    "migrate": "it is being migrated",
    "mounted": "its file system is mounted on the host (pct mount)",
    "rollback": "it is being rolled back to a snapshot",
    "snapshot": "a snapshot of it is being made",
    "snapshot-delete": "a snapshot of it is being deleted",
    "suspended": "it is suspended to disk; resume it",
    "suspending": "it is being suspended to disk",
}
"""What usually holds a guest's lock."""


def _case(pattern: str, fault: type[Fault], hint: str, kind: str = "") -> Case:
    return Case(re.compile(pattern, re.IGNORECASE), fault, hint, kind)


_LIST = "List what exists with GET {list}."

CASES = (
    _case(
        r"Configuration file 'nodes/(?P<node>[^/']+)/(?P<type>qemu|lxc)(?:-server)?"
        r"/(?P<name>\d+)\.conf' does not exist",
        Missing, "List the guests with GET /cluster/resources.", "guest",
    ),
    _case(
        r"(?:VM|CT)?(?: \d+)? ?is locked(?: \((?P<lock>[\w-]+)\))?", Conflict,
        "{holder} Look for its task, wait for its end and try again. If nothing runs any more, an "
        "administrator clears the lock with `qm unlock VMID` or `pct unlock VMID` on the node.",
    ),
    _case(
        r"checksum mismatch|detected modified configuration", Conflict,
        "Someone changed it meanwhile. Read it again, and repeat with its new digest if the change "
        "is still right.",
    ),
    _case(r"protection mode enabled", Conflict,
          "Protection keeps it from being removed. Unset it first (protection=0), if it really "
          "is to go."),
    _case(r"is running - destroy failed|(?:VM|CT|container) (?:\d+ )?(?:is|already) running"
          r"|already running", Conflict, "Shut it down first, or leave it as it is."),
    _case(r"base (?:volume|image) .* in use|linked clone", Conflict,
          "Its linked clones need this volume: delete them first, or move their disks, which makes "
          "full copies."),
    _case(r"(?:it'?s|is) a template|on (?:a )?template", Conflict,
          "A template never runs: clone it."),
    _case(r"because VM contains snapshots|existing snapshots|has snapshots", Conflict,
          "Delete its snapshots first, if they may go."),
    _case(r"snapshot feature is not available", Rejected,
          "Every volume must be on a storage with snapshots (qcow2, ZFS, LVM-thin, Ceph RBD); "
          "make a backup instead, or move the volumes."),
    _case(r"shrinking (?:disks )?is not supported|unable to shrink", Rejected,
          "A disk can only grow: give +SIZE, or a size above the present one."),
    _case(r"reserved name", Rejected, "Choose another name."),
    _case(r"SSH public key validation error", Invalid,
          "Give whole lines as in authorized_keys; sshkeys of a VM URL-encoded, once."),
    _case(r"read-only option", Rejected,
          "It is set when the guest is made: leave it out, or restore a backup into another."),
    _case(r"no options specified", Invalid, "Give at least one parameter to change."),
    _case(r"not a valid block device", Missing, "List the disks with GET /nodes/NODE/disks/list."),
    _case(r"not HA managed", Missing, _LIST.format(list="/cluster/ha/resources")),
    _case(r"volume_size_info on .* failed|no format$", Missing,
          "No such volume, or not an image: GET /nodes/NODE/storage/STORAGE/content lists them."),
    _case(r"node is not in a cluster", Conflict,
          "This is a single node; make a cluster in PVE first, if there should be one."),
    _case(r"No QEMU guest agent configured", Conflict,
          "Set agent=1 in the VM's options, install qemu-guest-agent in the guest, restart it."),
    _case(r"QEMU guest agent is not running", Conflict,
          "Start the service qemu-guest-agent inside the guest."),
    _case(r"is not running|not running$", Conflict, "Start the guest first."),
    _case(r"no quorum|cluster not ready", Unavailable,
          "Too few nodes are online, so the configuration is read-only. Look at GET "
          "/cluster/status; nothing was changed."),
    _case(r"only root can|only allowed for root@pam|user != root@pam|only root is allowed", Denied,
          "Only the user root@pam itself may do this, never an API token. Leave the parameter out, "
          "or let an administrator do it on the node."),
    _case(r"hostname lookup '(?P<name>[^']+)' failed|no such cluster node '(?P<name2>[^']+)'"
          r"|address lookup for '(?P<name3>[^']+)'", Missing,
          "List the nodes with GET /nodes.", "node"),
    _case(r"can'?t lock file|got lock (?:request )?timeout|lock .*timeout|unable to acquire .*lock",
          Conflict, "Another operation holds the lock. Wait for running tasks and try again."),
    _case(r"already exists|already defined|already used|already a pool member|already in use"
          r"|snapshot name '[^']*' already used", Conflict,
          "Choose another name or id, or work with the one that exists."),
    _case(r"storage '(?P<name>[^']+)' (?:does not exist|is not available|is not online)"
          r"|No such storage", Missing, _LIST.format(list="/storage"), "storage"),
    _case(r"snapshot '[^']+' does not exist|no such snapshot", Missing,
          "List the guest's snapshots with GET …/snapshot."),
    _case(r"no such user", Missing, _LIST.format(list="/access/users")),
    _case(r"no such token", Missing, _LIST.format(list="/access/users/USER/token")),
    _case(r"role '[^']*' does not exist", Missing, _LIST.format(list="/access/roles")),
    _case(r"group '[^']*' does not exist", Missing, _LIST.format(list="/access/groups")),
    _case(r"domain '[^']*' does not exist", Missing, _LIST.format(list="/access/domains")),
    _case(r"pool '[^']*' does not exist", Missing, _LIST.format(list="/pools")),
    _case(r"no such resource", Missing, _LIST.format(list="/cluster/ha/resources")),
    _case(r"no such task", Missing,
          "List tasks with GET /nodes/NODE/tasks; PVE forgets old ones."),
    _case(r"no rule at position", Missing, "List the rules: positions move when one is deleted."),
    _case(r"not installed|please install|^Install '|open3: exec of \S+.* failed: No such file",
          Rejected, "The node lacks the software for this. An administrator can install it there."),
    _case(r"ha groups have been migrated to rules", Rejected, "Use /cluster/ha/rules instead."),
    _case(r"unable to parse \S* ?volume (?:name|ID)", Invalid,
          "A volume id is STORAGE:KIND/NAME; GET /nodes/NODE/storage/STORAGE/content lists them."),
    _case(r"no such alias", Missing,
          "Give an address, a network, an alias (GET /cluster/firewall/aliases) or +IPSET."),
    _case(r"resource '[^']+' does not exist in cluster", Missing,
          "List the guests with GET /cluster/resources?type=vm."),
    _case(r"Agent error: .*No such file", Missing, "Check the path inside the guest."),
    _case(r"does not exist|no such|not found|not defined$|unable to find", Missing,
          "List what exists, and mind upper and lower case."),
    _case(r"can'?t connect|invalid server response|GET to https?:", Rejected,
          "The node could not fetch that address: check it, and the node's DNS and proxy."),
    _case(r"^command '", Rejected,
          "A command on the node failed. Its journal has more: GET /nodes/NODE/journal."),
    _case(r"Agent error", Rejected, "That is the guest agent's own answer."),
    _case(r"not enough (?:free )?space|no space left|out of space", Rejected,
          "Free space on the storage, or choose another: GET /nodes/NODE/storage."),
    _case(r"powerdown failed|shutdown failed|(?:VM|CT|container) did not stop", Rejected,
          "The guest did not shut down in time: it may ignore the request, or lack a guest agent. "
          "Look inside, wait longer, or take its power with stop."),
    _case(r"got timeout|timed? ?out", Unavailable,
          "The node or the guest is slow. Look whether it happened before you try again."),
)  # fmt: skip


def meaning(text: str) -> tuple[Case, dict[str, str]] | None:
    """Find the case of a text, with its pattern's groups; None for an unknown text."""
    for case in CASES:
        if found := case.pattern.search(text[:4000]):
            groups = {key: value or "" for key, value in found.groupdict().items()}
            groups["name"] = next(
                (groups[k] for k in ("name", "name2", "name3") if groups.get(k)), ""
            )
            return case, groups
    return None


def hint_of(case: Case, groups: dict[str, str]) -> str:
    """Write the next step of a case."""
    if "{holder}" not in case.hint:
        return case.hint
    held = LOCKS.get(groups.get("lock", ""))
    return case.hint.replace("{holder}", f"The lock means that {held}." if held else "").strip()


def clue_of(case: Case, groups: dict[str, str]) -> Clue | None:
    """Return what PVE could not find, if the case is about that."""
    if not case.kind or not groups["name"]:
        return None
    return Clue(case.kind, groups["name"], groups.get("node", ""), groups.get("type", ""))
