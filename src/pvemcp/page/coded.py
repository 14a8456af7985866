"""What PVE asks for in its code alone, where its API description has no tree of permissions.

No rule here is milder than PVE's. Where PVE looks at what a plan does not name (the storages of
the guest that is cloned), the privilege is asked for on all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from pvemcp.page.needs import ALLOCATE, NOBODY, SPACE, Choice, Given, Need, Needs, both, each
from pvemcp.page.uses import used
from pvemcp.plans.previews.diff import names

_GUEST = re.compile(r"/nodes/\{node\}/(?:qemu|lxc)(?:/\{vmid\}/.*)?")
_ALL_STORAGES = Need("/storage", (SPACE,))
_EVERYTHING = Need("/", ("Sys.Modify",))
_CONFIG = tuple(f"VM.Config.{name}" for name in ("CPU", "Disk", "Memory", "Network", "Options"))
_QEMU = (*_CONFIG, "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Config.HWType")


def guests_use(template: str, given: Given) -> Needs:
    """Return what a write to a guest asks for besides: its storages, volumes, bridges, devices."""
    if not _GUEST.fullmatch(template):
        return ((),)
    found = list(used(given))
    if other := given.get("target-vmid"):
        found.append(Need(f"/vms/{other}", ("VM.Config.Disk",)))
    kind = template.rpartition("/{vmid}/")[2]
    if kind in _FROM_CONFIG and not given.get("storage"):
        found.append(_ALL_STORAGES)
    if kind == "clone":
        found.append(Need("/sdn/zones", ("SDN.Use",)))
    if kind == "status/suspend" and "todisk" in given:
        found += [Need(f"/vms/{given.get('vmid', '')}", ("VM.Config.Disk",)), _state(given)]
    return (tuple(dict.fromkeys(found)),)


_FROM_CONFIG = {"clone", "resize"}
"""They take space where the guest's own disks are."""


def _state(given: Given) -> Need:
    """Space for what the memory of a guest is written to."""
    named = given.get("statestorage")
    return Need(f"/storage/{named}", (SPACE,)) if named else _ALL_STORAGES


def _guests(given: Given, *privileges: str) -> Choice:
    """On every guest that is named; on / when all are meant."""
    named = names(given.get("vms") or given.get("vmid"))
    return each("/vms/", named, *privileges) or (Need("/", privileges),)


def _many(*privileges: str) -> Callable[[Given], Needs]:
    return lambda given: (_guests(given, *privileges),)


def _suspend(given: Given) -> Needs:
    return ((*_guests(given, "VM.PowerMgmt", "VM.Config.Disk"), _state(given)),)


def _backup(given: Given) -> Needs:
    storage = f"/storage/{given.get('storage') or 'local'}"
    found = [*_guests(given, "VM.Backup"), Need(storage, (SPACE,))]
    if not given.keys().isdisjoint({"prune-backups", "remove", "maxfiles"}):
        found.append(Need(storage, (ALLOCATE,)))  # it deletes older backups
    if not given.keys().isdisjoint({"bwlimit", "performance", "ionice"}):
        found.append(_EVERYTHING)
    if not given.keys().isdisjoint(_ROOTS_BACKUP):
        found.append(NOBODY)
    if "fleecing" in given:
        found.append(_ALL_STORAGES)
    return (tuple(found),)


_ROOTS_BACKUP = {"tmpdir", "dumpdir", "script", "job-id"}


def _job(given: Given) -> Needs:
    roots = (NOBODY,) if not given.keys().isdisjoint(_ROOTS_BACKUP) else ()
    return ((_EVERYTHING, *roots),)


def _created(*privileges: str) -> Callable[[Given], Needs]:
    """Make or restore a guest: PVE asks for each setting, too, on the guest or on its pool."""

    def rule(given: Given) -> Needs:
        more: Choice = ()
        if not given.keys().isdisjoint({"archive", "restore"}) and not given.get("storage"):
            more = (_ALL_STORAGES,)  # the disks go back to where they were
        at = _places(given.get("vmid", ""), given)
        return tuple((Need(path, ("VM.Allocate", *privileges)), *more) for path in at)

    return rule


def _places(vmid: str, given: Given) -> list[str]:
    """Where a new guest may be allowed: by its number, or by its pool."""
    return [f"/vms/{vmid}", *([f"/pool/{pool}"] if (pool := given.get("pool")) else [])]


def _container(given: Given) -> Needs:
    apart = given.get("unprivileged", "" if "restore" in given else "1")
    more: list[Need] = [] if apart in ("1", "True") else [_EVERYTHING]
    if given.keys().isdisjoint({"storage", "rootfs"}):
        more.append(Need("/storage/local", (SPACE,)))
    return both(_created(*_CONFIG)(given), (tuple(more),))


def _volume(given: Given) -> Needs:
    path = f"/storage/{given.get('storage', '')}"
    own: Choice = (Need(path, (ALLOCATE,)),)
    volume = given.get("volume", "backup/")
    if not given.get("vmid") or not volume.rpartition(":")[2].startswith("backup/"):
        return (own,)
    guest = Need(f"/vms/{given['vmid']}", ("VM.Backup",))
    return (own, (Need(path, (SPACE,)), guest))


def _task(given: Given) -> Needs:
    return ((Need(f"/nodes/{given.get('node', '')}", ("Sys.Modify",)),),)


def _replication(given: Given) -> Needs:
    return (each("/vms/", [given.get("id", "").partition("-")[0]], "VM.Replicate"),)


def _clone(given: Given) -> Needs:
    at = _places(given.get("newid", ""), given)
    source = Need(f"/vms/{given.get('vmid', '')}", ("VM.Clone",))
    return tuple((source, Need(path, ("VM.Allocate",))) for path in at)


def _pool(given: Given) -> Needs:
    """Who moves something into a pool gives those who may work the pool rights on it."""
    return ((
        Need(f"/pool/{given.get('poolid', '')}", ("Pool.Allocate",)),
        *_modify("/vms/", given.get("vms", ""), "VM.Allocate"),
        *_modify("/storage/", given.get("storage", ""), ALLOCATE),
        *([Need("/pool", ("Pool.Allocate",))] if "allow-move" in given else []),
    ),)  # fmt: skip


def _modify(prefix: str, listed: str, privilege: str) -> Iterable[Need]:
    for name in names(listed):
        yield Need(f"{prefix}{name}", ("Permissions.Modify", privilege), any=True)


def _disks(given: Given) -> Needs:
    more = [] if given.keys().isdisjoint({"add_storage", "cleanup-config"}) else [ALLOCATE]
    return ((_EVERYTHING, *(Need("/storage", (name,)) for name in more)),)


def _monitor(given: Given) -> Needs:
    return ((Need(f"/vms/{given.get('vmid', '')}", ("Sys.Modify",)), _EVERYTHING),)


_DISKS = ("lvm", "lvmthin", "directory", "zfs")
_POWER, _STORAGE = _many("VM.PowerMgmt"), "/nodes/{node}/storage/{storage}"
RULES: Mapping[str, Callable[[Given], Needs]] = {
    "POST /cluster/backup": _job,
    "PUT /cluster/backup/{id}": _job,
    "POST /nodes/{node}/vzdump": _backup,
    "POST /nodes/{node}/qemu": _created(*_QEMU),
    "POST /nodes/{node}/lxc": _container,
    "POST /nodes/{node}/qemu/{vmid}/clone": _clone,
    "POST /nodes/{node}/lxc/{vmid}/clone": _clone,
    "POST /nodes/{node}/qemu/{vmid}/monitor": _monitor,
    f"DELETE {_STORAGE}/content/{{volume}}": _volume,
    f"PUT {_STORAGE}/content/{{volume}}": _volume,
    f"DELETE {_STORAGE}/prunebackups": _volume,
    "DELETE /nodes/{node}/tasks/{upid}": _task,
    "POST /nodes/{node}/startall": _POWER,
    "POST /nodes/{node}/stopall": _POWER,
    "POST /nodes/{node}/suspendall": _suspend,
    "POST /nodes/{node}/migrateall": _many("VM.Migrate"),
    "POST /cluster/bulk-action/guest/start": _POWER,
    "POST /cluster/bulk-action/guest/shutdown": _POWER,
    "POST /cluster/bulk-action/guest/suspend": _suspend,
    "POST /cluster/bulk-action/guest/migrate": _many("VM.Migrate"),
    "POST /cluster/replication": _replication,
    "PUT /cluster/replication/{id}": _replication,
    "DELETE /cluster/replication/{id}": _replication,
    "POST /nodes/{node}/replication/{id}/schedule_now": _replication,
    "PUT /pools": _pool,
    "PUT /pools/{poolid}": _pool,
    **{f"POST /nodes/{{node}}/disks/{kind}": _disks for kind in _DISKS},
    **{f"DELETE /nodes/{{node}}/disks/{kind}/{{name}}": _disks for kind in _DISKS},
}
"""By verb and template; what is not here, and has no tree of PVE's, wants the strictest."""
