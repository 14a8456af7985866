"""Endpoints that change a guest's configuration, its disks, or create and remove it."""

from __future__ import annotations

from typing import Any

from pvemcp.sim import lxc_options, qemu_options
from pvemcp.sim.configs import LXC_EDIT, QEMU_EDIT, check_settings, edit, settings, write
from pvemcp.sim.declare import (
    VMID,
    Ask,
    Endpoint,
    Handler,
    choice,
    endpoint,
    flag,
    perm,
    real,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.guests import (
    check_digest,
    guest_in_task,
    lock_text,
    refuse_root_only,
    sid,
    start_guest,
    the_guest,
)  # fmt: skip
from pvemcp.sim.progress import convert_lines
from pvemcp.sim.refusal import TaskFailure, failed, forbidden
from pvemcp.sim.tasks import Work
from pvemcp.sim.usage import disk_size, disks, parse_size, show_size
from pvemcp.sim.volumes import linked_clones, need_storage, storage_of
from pvemcp.sim.world import GIB, Guest, GuestType, HaResource, World

_SIZE = r"\+?\d+(\.\d+)?[KMGT]?"


# Configuration -------------------------------------------------------------------------------


def _put(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> None:
        refuse_root_only(ask, "skiplock")
        edit(ask, the_guest(ask, type_))

    return handle


def _post_config(ask: Ask) -> str:
    refuse_root_only(ask, "skiplock")
    guest = the_guest(ask, "qemu")
    edit(ask, guest)
    return ask.world.tasks.start(
        ask.node, "qmconfig", id=str(guest.vmid), user=ask.who.id, work=Work()
    )


# Disks ---------------------------------------------------------------------------------------


def _resize(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        refuse_root_only(ask, "skiplock")
        guest = the_guest(ask, type_)
        check_digest(ask, guest)
        disk, wanted = ask.args["disk"], ask.args["size"]

        def check() -> None:
            if guest.lock:
                raise TaskFailure(lock_text(guest))
            if disk not in disks(guest.config):
                raise TaskFailure(f"disk '{disk}' does not exist")
            if _new_size(guest, disk, wanted) < disk_size(str(guest.config[disk])):
                raise TaskFailure("shrinking disks is not supported")

        def apply() -> None:
            size = show_size(_new_size(guest, disk, wanted))
            parts = str(guest.config[disk]).split(",")
            kept = [part for part in parts if not part.startswith("size=")]
            guest.config[disk] = ",".join([*kept, f"size={size}"])

        return ask.world.tasks.start(
            ask.node, "resize", id=str(guest.vmid), user=ask.who.id, work=Work(apply, check)
        )

    return handle


def _new_size(guest: Guest, disk: str, wanted: str) -> int:
    before = disk_size(str(guest.config[disk])) if wanted.startswith("+") else 0
    return before + parse_size(wanted.removeprefix("+"))


def _feature(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> dict[str, Any]:
        guest = the_guest(ask, type_)
        has = _has_feature(ask.world, guest, ask.args["feature"])
        if type_ == "lxc":
            return {"hasFeature": int(has)}
        return {"hasFeature": int(has), "nodes": [guest.node] if has else []}

    return handle


def _has_feature(world: World, guest: Guest, feature: str) -> bool:
    if feature == "copy":
        return True
    if feature == "clone" and not guest.template:
        return False
    return can_snapshot(world, guest)


def can_snapshot(world: World, guest: Guest) -> bool:
    """Whether all storages of the guest can make snapshots: raw files of containers cannot."""
    names = {storage_of(value) for value in disks(guest.config).values()}
    kinds = {world.storages[name].type for name in names if name in world.storages}
    return not (guest.type == "lxc" and kinds & {"dir", "nfs", "cifs"})


# Create --------------------------------------------------------------------------------------

_CREATE_ONLY = frozenset(
    """
    archive bwlimit force ha-managed import-working-storage live-restore pool start storage
    unique vmid node ignore-unpack-errors ostemplate password restore ssh-public-keys
    """.split()
)


def _may_create(ask: Ask, vmid: int) -> None:
    pool = ask.args.get("pool")
    if ask.may(f"/vms/{vmid}", "VM.Allocate") or (pool and ask.may(f"/pool/{pool}", "VM.Allocate")):
        return
    raise forbidden()


def _refuse_existing(ask: Ask, vmid: int, *, restore: bool) -> None:
    other = ask.world.guests.get(vmid)
    if other is None or (restore and ask.args.get("force")):
        return
    raise failed(f"{other.word} {vmid} already exists on node '{other.node}'")


def _create(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        world, args = ask.world, ask.args
        vmid = args["vmid"]
        archive = args.get("archive") or (args["ostemplate"] if args.get("restore") else "")
        _may_create(ask, vmid)
        if (pool := args.get("pool")) and pool not in world.pools:
            raise failed(f"pool '{pool}' does not exist")
        chosen = {k: v for k, v in settings(args).items() if k not in _CREATE_ONLY}
        check_settings(ask, type_, chosen, [])
        _refuse_existing(ask, vmid, restore=bool(archive))
        if storage := args.get("storage"):
            need_storage(world, storage)
        guest = Guest(vmid, type_, ask.node, _initial(world, type_, vmid, args))
        write(world, guest, chosen, [])
        work = _creation(ask, guest, archive)
        prefix = "qm" if type_ == "qemu" else "vz"
        kind = f"{prefix}{'restore' if archive else 'create'}"
        return world.tasks.start(ask.node, kind, id=str(vmid), user=ask.who.id, work=work)

    return handle


def _initial(world: World, type_: GuestType, vmid: int, args: Any) -> dict[str, Any]:
    if type_ == "qemu":
        stamp = world.clock.seconds()
        return {
            "boot": " ",
            "meta": f"creation-qemu=10.1.2,ctime={stamp}",
            "smbios1": f"uuid={world.uuid()}",
            "vmgenid": world.uuid(),
        }
    storage = args.get("storage", "local")
    root = f"{storage}:vm-{vmid}-disk-0,size=4G"
    return {"arch": "amd64", "memory": 512, "swap": 512, "ostype": "debian", "rootfs": root}


def _creation(ask: Ask, guest: Guest, archive: str) -> Work:
    world, vmid = ask.world, guest.vmid
    source = archive or ask.args.get("ostemplate", "")
    verb = "restore" if archive else "create"

    def check() -> None:
        if source and not _volume_exists(world, source):
            raise TaskFailure(
                f"unable to {verb} {guest.word} {vmid} - volume '{source}' does not exist"
            )

    def begin() -> None:
        if vmid not in world.guests:
            guest.config["lock"] = "create"
            world.guests[vmid] = guest

    def undo() -> None:
        if world.guests.get(vmid) is guest:
            del world.guests[vmid]

    lines = convert_lines(8 * GIB) if archive else ()
    seconds = 20.0 if archive else 4.0
    return Work(lambda: _arrive(ask, guest), check, begin, undo, lines, seconds)


def _arrive(ask: Ask, guest: Guest) -> None:
    """Let a created guest be there, and do what was asked for with it."""
    world = ask.world
    guest.config.pop("lock", None)
    world.guests[guest.vmid] = guest
    if pool := ask.args.get("pool"):
        world.join_pool(pool, guest.vmid)
    if ask.args.get("ha-managed"):
        world.ha[sid(guest)] = HaResource(sid(guest))
    if ask.args.get("start"):
        start_guest(world, guest)


def _volume_exists(world: World, name: str) -> bool:
    storage = world.storages.get(name.partition(":")[0])
    return storage is not None and any(volume.volid == name for volume in storage.volumes)


# Remove --------------------------------------------------------------------------------------


def _remove(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        refuse_root_only(ask, "skiplock")
        world, guest = ask.world, the_guest(ask, type_)
        _refuse_removal(ask, guest)

        def check() -> None:
            found = guest_in_task(world, ask.node, type_, guest.vmid)
            if found.lock:
                raise TaskFailure(lock_text(found))
            for base in linked_clones(world, found):
                raise TaskFailure(f"base volume '{base}' is still in use by linked cloned")

        def apply() -> None:
            world.leave_pool(guest.vmid)
            world.guests.pop(guest.vmid, None)
            if ask.args.get("purge"):
                world.ha.pop(sid(guest), None)

        kind = "qmdestroy" if type_ == "qemu" else "vzdestroy"
        return world.tasks.start(
            ask.node, kind, id=str(guest.vmid), user=ask.who.id, work=Work(apply, check)
        )

    return handle


def _refuse_removal(ask: Ask, guest: Guest) -> None:
    word, vmid = guest.word, guest.vmid
    if guest.config.get("protection"):
        raise failed(f"can't remove {word} {vmid} - protection mode enabled")
    if sid(guest) in ask.world.ha and not ask.args.get("purge"):
        raise failed(
            f"unable to remove {word} {vmid} - used in HA resources and purge parameter not set."
        )
    if not guest.running:
        return
    if guest.type == "qemu":
        raise failed(f"VM {vmid} is running - destroy failed")
    if not ask.args.get("force"):
        raise failed(f"unable to destroy CT {vmid} - container is running")


# Declarations --------------------------------------------------------------------------------

_CONFIG_PRIVILEGES = tuple(
    f"VM.Config.{name}"
    for name in ("Disk", "CDROM", "CPU", "Memory", "Network", "HWType", "Options", "Cloudinit")
)
_LXC_PRIVILEGES = tuple(
    f"VM.Config.{name}" for name in ("Disk", "CPU", "Memory", "Network", "Options")
)
QEMU_DISKS = (
    *(f"ide{n}" for n in range(4)),
    *(f"scsi{n}" for n in range(31)),
    *(f"virtio{n}" for n in range(16)),
    *(f"sata{n}" for n in range(6)),
    "efidisk0",
    "tpmstate0",
)
LXC_DISKS = ("rootfs", *(f"mp{n}" for n in range(256)))
_START = flag("start", "Start it when it is there.", default=0)
_POOL = text("pool", "Pool to put it into.", format="pve-poolid")
_STORAGE = text("storage", "Storage when none is named.", format="pve-storage-id")
_HA = flag("ha-managed", "Make it an HA resource.", default=0)
_QEMU_CREATE = (
    VMID,
    *qemu_options.OPTIONS,
    text("archive", "Backup to restore.", max_length=255),
    whole("bwlimit", "Limit in KiB/s.", minimum=0),
    flag("force", "Overwrite the VM.", requires="archive"),
    _HA,
    text("import-working-storage", "Storage for work on imports.", format="pve-storage-id"),
    flag("live-restore", "Start while restoring."),
    _POOL,
    _START,
    _STORAGE,
    flag("unique", "New MAC addresses.", requires="archive"),
)
_LXC_CREATE = (
    VMID,
    *lxc_options.OPTIONS,
    real("bwlimit", "Limit in KiB/s.", minimum=0),
    flag("force", "Overwrite the container."),
    _HA,
    flag("ignore-unpack-errors", "Go on after errors of the archive."),
    text("ostemplate", "Template, or the backup to restore.", optional=False, max_length=255),
    text("password", "Password of root.", min_length=5),
    _POOL,
    flag("restore", "The template is a backup."),
    text("ssh-public-keys", "Keys of root, one a line."),
    _START,
    text("storage", "Storage when none is named.", format="pve-storage-id", default="local"),
    flag("unique", "New MAC addresses.", requires="restore"),
)
_QEMU = "/nodes/{node}/qemu/{vmid}"
_LXC = "/nodes/{node}/lxc/{vmid}"
_ALLOCATE = perm("/vms/{vmid}", "VM.Allocate")
_AUDIT = perm("/vms/{vmid}", "VM.Audit")
_UNREFERENCED = flag("destroy-unreferenced-disks", "Remove volumes that nothing names too.")
_FEATURE = (
    choice("feature", "The feature.", ("snapshot", "clone", "copy"), optional=False),
    text("snapname", "From this snapshot.", format="pve-configid", max_length=40),
)
_DIGEST = text("digest", "Refuse when the configuration has changed.", max_length=40)

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("POST", "/nodes/{node}/qemu", _create("qemu"), about="Create or restore a VM.",
             parameters=_QEMU_CREATE, protected=True, returns="string"),
    endpoint("POST", "/nodes/{node}/lxc", _create("lxc"), about="Create or restore a container.",
             parameters=_LXC_CREATE, protected=True, returns="string"),
    endpoint("DELETE", _QEMU, _remove("qemu"), about="Remove a VM and its disks.",
             permissions=_ALLOCATE, protected=True, returns="string",
             parameters=(_UNREFERENCED, flag("purge", "Remove it from HA and jobs too."),
                         flag("skiplock", "Ignore locks; root@pam only."))),
    endpoint("DELETE", _LXC, _remove("lxc"), about="Remove a container and its volumes.",
             permissions=_ALLOCATE, protected=True, returns="string",
             parameters=(_UNREFERENCED, flag("force", "Even if it runs.", default=0),
                         flag("purge", "Remove it from HA and jobs too.", default=0))),
    endpoint("PUT", f"{_QEMU}/config", _put("qemu"), about="Change a VM at once.",
             permissions=perm("/vms/{vmid}", *_CONFIG_PRIVILEGES, any_of=True),
             parameters=QEMU_EDIT, protected=True),
    endpoint("POST", f"{_QEMU}/config", _post_config, about="Change a VM in a task.",
             permissions=perm("/vms/{vmid}", *_CONFIG_PRIVILEGES, any_of=True),
             parameters=(*QEMU_EDIT, whole("background_delay", "Seconds to wait for the end.",
                                           minimum=1, maximum=30)),
             protected=True, returns="string"),
    endpoint("PUT", f"{_LXC}/config", _put("lxc"), about="Change a container.",
             permissions=perm("/vms/{vmid}", *_LXC_PRIVILEGES, any_of=True),
             parameters=LXC_EDIT, protected=True),
    endpoint("PUT", f"{_QEMU}/resize", _resize("qemu"), about="Grow a disk.",
             permissions=perm("/vms/{vmid}", "VM.Config.Disk"), protected=True, returns="string",
             parameters=(_DIGEST, choice("disk", "The disk.", QEMU_DISKS, optional=False),
                         text("size", "New size, or +size to add.", optional=False, pattern=_SIZE),
                         flag("skiplock", "Ignore locks; root@pam only."))),
    endpoint("PUT", f"{_LXC}/resize", _resize("lxc"), about="Grow a volume.",
             permissions=perm("/vms/{vmid}", "VM.Config.Disk", any_of=True), protected=True,
             returns="string",
             parameters=(_DIGEST, choice("disk", "The volume.", LXC_DISKS, optional=False),
                         text("size", "New size, or +size to add.", optional=False,
                              pattern=_SIZE))),
    endpoint("GET", f"{_QEMU}/feature", _feature("qemu"), about="Whether a VM can do something.",
             permissions=_AUDIT, parameters=_FEATURE, protected=True, returns="object"),
    endpoint("GET", f"{_LXC}/feature", _feature("lxc"),
             about="Whether a container can do something.", permissions=_AUDIT,
             parameters=_FEATURE, protected=True, returns="object"),
)  # fmt: skip
