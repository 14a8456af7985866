"""What PVE would ask of a person for the writes of a plan, and what of it the person lacks.

The API description says it for most methods. Where PVE checks in its code alone, the rule stands
here, no milder than PVE's; what nobody wrote a rule for wants Sys.Modify on /.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvemcp.pve.description import Description

ROOT = "root@pam"
SERVICE = "pvemcp@pve"
"""The account that the clients' tokens belong to: not a person's."""
_HOLE = re.compile(r"\{([^{}]+)\}")
_CONFIG = re.compile(r"/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}/config")
_GUEST = re.compile(r"/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}/.*")

Held = Callable[[str], Awaitable[frozenset[str]]]
"""Returns the privileges that a person holds on an ACL path."""
Write = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Need:
    """Privileges on an ACL path: all of them, or any. Without a path: only root@pam has it."""

    path: str
    names: tuple[str, ...]
    any: bool = False

    def __str__(self) -> str:
        if not self.path:
            return f"to be {ROOT}"
        return f"{(' or ' if self.any else ' and ').join(self.names)} on {self.path}"


Choice = tuple[Need, ...]
"""Needs that must all be met."""
Needs = tuple[Choice, ...]
"""One of these must be met."""


async def missing(
    person: str, writes: Sequence[Write], description: Description, held: Held
) -> list[str]:
    """Return what a person lacks to make these writes, one line each; nothing: may approve."""
    lines: list[str] = []
    for write in writes or [{}]:
        choices = needs(person, write, description)
        lacks = [await _lacking(person, choice, held) for choice in choices]
        if lacks and all(lacks):
            lines.append(", or ".join(" and ".join(map(str, one)) for one in lacks))
    return list(dict.fromkeys(lines))


async def _lacking(person: str, choice: Choice, held: Held) -> list[Need]:
    return [need for need in choice if not await _met(person, need, held)]


async def _met(person: str, need: Need, held: Held) -> bool:
    if person == ROOT:
        return True
    if not need.path:
        return False
    have = await held(need.path)
    return (any if need.any else all)(name in have for name in need.names)


def needs(person: str, write: Write, description: Description) -> Needs:
    """Return what PVE asks for one write."""
    if write.get("verb") == "RUN":
        return _command(write)
    template = str(write.get("template", ""))
    own = _RULES.get(f"{write.get('verb')} {template}")
    method = description.method(str(write.get("verb", "")), template)
    if own is not None:
        found = own(_given(write))
    elif method is None:
        found = _STRICTEST
    elif not method.permissions:
        found = ((Need("", ()),),)
    elif "check" in method.permissions:
        found = _tree(method.permissions["check"], person, write)
    else:
        found = _STRICTEST
    return _both(found or _STRICTEST, _storages(template, _given(write)))


_STRICTEST: Needs = ((Need("/", ("Sys.Modify",)),),)


def _command(write: Write) -> Needs:
    """A command changes a node as its shell does, and a guest as its agent does."""
    if vmid := write.get("vmid"):
        return ((Need(f"/vms/{vmid}", ("VM.GuestAgent.Unrestricted", "VM.Monitor"), any=True),),)
    node = str(write.get("node") or "")
    return ((Need(f"/nodes/{node}".rstrip("/"), ("Sys.Modify", "Sys.Console")),),)


def _given(write: Write) -> dict[str, str]:
    given = {str(name): str(value) for name, value in (write.get("given") or {}).items()}
    if write.get("vmid") and "vmid" not in given:
        given["vmid"] = str(write["vmid"])
    return given


def _both(one: Needs, other: Needs) -> Needs:
    return tuple((*first, *second) for first in one for second in other)


def _storages(template: str, given: Mapping[str, str]) -> Needs:
    """A guest's disks take space on a storage: PVE asks for that in its code."""
    if not _GUEST.fullmatch(template):
        return ((),)
    named = [given[name] for name in _SPACE if given.get(name)]
    found = [Need(f"/storage/{name}", ("Datastore.AllocateSpace",)) for name in named]
    if other := given.get("target-vmid"):
        found.append(Need(f"/vms/{other}", ("VM.Config.Disk",)))
    return (tuple(found),)


_SPACE = ("storage", "target-storage", "targetstorage")


# PVE's own trees ------------------------------------------------------------------------------


def _tree(check: Sequence[Any], person: str, write: Write) -> Needs:
    given = _given(write)
    match check:
        case ["and", *parts]:
            found: Needs = ((),)
            for part in parts:
                found = _both(found, _tree(part, person, write))
            return found
        case ["or", *parts]:
            return tuple(choice for part in parts for choice in _tree(part, person, write))
        case ["perm", str(path), list(names), *options]:
            return _perm(path, names, options, write)
        case _:
            return _account(check, person, given)


def _account(check: Sequence[Any], person: str, given: Mapping[str, str]) -> Needs:
    """Return what PVE asks for a write to an account, or to an access list."""
    match check:
        case ["userid-param", "self"]:
            return ((),) if given.get("userid") == person else ()
        case ["userid-param", str(name)]:
            realm = given.get("userid", "").rpartition("@")[2]
            return ((Need(f"/access/realm/{realm}", (name,)),),)
        case ["userid-group", list(names), *_]:
            return ((Need("/access/groups", tuple(names)),),)
        case ["perm-modify", str(path)]:
            filled = _filled(path, given)
            return ((Need(filled, ("Permissions.Modify",)),),) if filled else _STRICTEST
        case _:
            return _STRICTEST


def _perm(path: str, names: list[str], options: list[Any], write: Write) -> Needs:
    given = _given(write)
    more = dict(zip(options[::2], options[1::2], strict=False))
    if (wanted := more.get("require_param")) and wanted not in given:
        return ()
    filled = _filled(path, given)
    if not filled:
        return _STRICTEST
    # PVE asks for one of these at first, and for each changed option's own one later: all then.
    single = bool(more.get("any")) and not _CONFIG.fullmatch(str(write.get("template")))
    return ((Need(filled, tuple(names), any=single),),)


def _filled(path: str, given: Mapping[str, str]) -> str:
    """Fill in a path's placeholders; empty when a value is not known."""
    if any(not given.get(name) for name in _HOLE.findall(path)):
        return ""
    return _HOLE.sub(lambda hole: given[hole[1]], path)


# What PVE checks in its code ------------------------------------------------------------------


def _each(prefix: str, names: Iterable[str], *privileges: str) -> Choice:
    listed = [name for name in names if name]
    return tuple(Need(f"{prefix}{name}", privileges) for name in listed)


def _guests(given: Mapping[str, str], *privileges: str) -> Choice:
    """On every guest that is named; on / when all are meant."""
    named = re.split(r"[\s,;]+", given.get("vms") or given.get("vmid") or "")
    return _each("/vms/", named, *privileges) or (Need("/", privileges),)


def _many(*privileges: str) -> Callable[[Mapping[str, str]], Needs]:
    return lambda given: (_guests(given, *privileges),)


def _backup(given: Mapping[str, str]) -> Needs:
    space = _each("/storage/", [given.get("storage") or "local"], "Datastore.AllocateSpace")
    return ((*_guests(given, "VM.Backup"), *space),)


def _create(given: Mapping[str, str]) -> Needs:
    space = _each("/storage/", [given.get("storage", "")], "Datastore.AllocateSpace")
    at = [f"/vms/{given.get('vmid', '')}", *([f"/pool/{p}"] if (p := given.get("pool")) else [])]
    return tuple((Need(path, ("VM.Allocate",)), *space) for path in at)


def _volume(given: Mapping[str, str]) -> Needs:
    path = f"/storage/{given.get('storage', '')}"
    own: Choice = (Need(path, ("Datastore.Allocate",)),)
    volume = given.get("volume", "backup/")
    if not given.get("vmid") or not volume.rpartition(":")[2].startswith("backup/"):
        return (own,)
    guest = Need(f"/vms/{given['vmid']}", ("VM.Backup",))
    return (own, (Need(path, ("Datastore.AllocateSpace",)), guest))


def _task(given: Mapping[str, str]) -> Needs:
    return ((Need(f"/nodes/{given.get('node', '')}", ("Sys.Modify",)),),)


def _replication(given: Mapping[str, str]) -> Needs:
    return (_each("/vms/", [given.get("id", "").partition("-")[0]], "VM.Replicate"),)


def _clone(given: Mapping[str, str]) -> Needs:
    source = Need(f"/vms/{given.get('vmid', '')}", ("VM.Clone",))
    return _both(((source,),), _create({**given, "vmid": given.get("newid", ""), "storage": ""}))


_POWER, _STORAGE = _many("VM.PowerMgmt"), "/nodes/{node}/storage/{storage}"
_RULES: Mapping[str, Callable[[Mapping[str, str]], Needs]] = {
    "POST /nodes/{node}/vzdump": _backup,
    "POST /nodes/{node}/qemu": _create,
    "POST /nodes/{node}/lxc": _create,
    "POST /nodes/{node}/qemu/{vmid}/clone": _clone,
    "POST /nodes/{node}/lxc/{vmid}/clone": _clone,
    f"DELETE {_STORAGE}/content/{{volume}}": _volume,
    f"PUT {_STORAGE}/content/{{volume}}": _volume,
    f"DELETE {_STORAGE}/prunebackups": _volume,
    "DELETE /nodes/{node}/tasks/{upid}": _task,
    "POST /nodes/{node}/startall": _POWER,
    "POST /nodes/{node}/stopall": _POWER,
    "POST /nodes/{node}/suspendall": _many("VM.PowerMgmt", "VM.Config.Disk"),
    "POST /nodes/{node}/migrateall": _many("VM.Migrate"),
    "POST /cluster/bulk-action/guest/start": _POWER,
    "POST /cluster/bulk-action/guest/shutdown": _POWER,
    "POST /cluster/bulk-action/guest/suspend": _many("VM.PowerMgmt", "VM.Config.Disk"),
    "POST /cluster/bulk-action/guest/migrate": _many("VM.Migrate"),
    "POST /cluster/replication": _replication,
    "PUT /cluster/replication/{id}": _replication,
    "DELETE /cluster/replication/{id}": _replication,
    "POST /nodes/{node}/replication/{id}/schedule_now": _replication,
}
"""By verb and template; what is not here, and has no tree of PVE's, wants the strictest."""
