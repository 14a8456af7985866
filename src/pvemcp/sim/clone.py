"""Copies of guests: clone, template, migration."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.declare import (
    VMID_LIMITS,
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
from pvemcp.sim.edits import QEMU_DISKS
from pvemcp.sim.guests import lock_text, refuse_locked, refuse_root_only, sid, the_guest
from pvemcp.sim.progress import convert_lines, migration_lines, mirror_lines
from pvemcp.sim.refusal import TaskFailure, failed, forbidden, rejected
from pvemcp.sim.tasks import Work
from pvemcp.sim.usage import disk_size, disks, max_memory
from pvemcp.sim.volumes import local_volumes, need_storage, volid, volume_name
from pvemcp.sim.world import Guest, GuestType, World


def _clone(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        world, args, source = ask.world, ask.args, the_guest(ask, type_)
        newid = args["newid"]
        full = bool(args.get("full", not source.template))
        _refuse_clone(ask, source, full=full)
        base = _origin(source, args.get("snapname", ""))
        config = _copied(world, source, base, ask, full=full)
        clone = Guest(newid, type_, args.get("target", source.node), config)
        clone.agent_running, clone.addresses = source.agent_running, source.addresses
        work = _cloning(ask, source, clone, full=full)
        kind = "qmclone" if type_ == "qemu" else "vzclone"
        return world.tasks.start(ask.node, kind, id=str(source.vmid), user=ask.who.id, work=work)

    return handle


def _refuse_clone(ask: Ask, source: Guest, *, full: bool) -> None:
    _check_destination(ask, source, full=full)
    refuse_locked(source)
    newid = ask.args["newid"]
    if newid in ask.world.guests:
        raise failed(f"unable to create {source.word} {newid}: config file already exists")
    if not full and not source.template:
        drive = next(iter(disks(source.config)), "scsi0")
        raise failed(f"Linked clone feature is not supported for drive '{drive}'")
    if source.type == "lxc" and source.running and "snapname" not in ask.args:
        raise failed("Cannot do full clones on a running container without snapshots")


def _check_destination(ask: Ask, source: Guest, *, full: bool) -> None:
    world, args = ask.world, ask.args
    if "pool" in args and args["pool"] not in world.pools:
        raise failed(f"pool '{args['pool']}' does not exist")
    if "storage" in args:
        need_storage(world, args["storage"])
        path = f"/storage/{args['storage']}"
        if not ask.may(path, "Datastore.AllocateSpace"):
            raise forbidden(f"{path}, Datastore.AllocateSpace")
        if not full:
            raise failed("parameter 'storage' not allowed for linked clones")
    target = args.get("target", source.node)
    _need_node(world, target)
    if target != source.node and local_volumes(world, source):
        raise failed(f"can't clone {source.word} to node '{target}' (VM uses local storage)")


def _origin(source: Guest, snapname: str) -> dict[str, Any]:
    if not snapname:
        return source.config
    if snapname not in source.snapshots:
        raise failed(f"snapshot '{snapname}' does not exist")
    return source.snapshots[snapname].config


def _copied(
    world: World, source: Guest, base: dict[str, Any], ask: Ask, *, full: bool
) -> dict[str, Any]:
    args, newid = ask.args, ask.args["newid"]
    dropped = {"template", "protection", "lock"}
    config = {key: value for key, value in base.items() if key not in dropped}
    for number, (key, value) in enumerate(disks(base).items()):
        name = volid(value)
        storage = args.get("storage") or name.partition(":")[0]
        made = volume_name(world, storage, newid, number)
        if not full:
            made = f"{name}/{made.partition(':')[2]}"
        config[key] = ",".join([made, *value.split(",")[1:]])
    if source.type == "qemu":
        config["name"] = args.get("name") or f"Copy-of-VM-{source.name}"
        config["vmgenid"] = world.uuid()
    else:
        config["hostname"] = args.get("hostname") or f"Copy-of-CT-{source.name}"
    if "description" in args:
        config["description"] = args["description"]
    return config


def _cloning(ask: Ask, source: Guest, clone: Guest, *, full: bool) -> Work:
    world = ask.world

    def begin() -> None:
        clone.config["lock"] = "clone" if clone.type == "qemu" else "create"
        world.guests[clone.vmid] = clone
        if pool := ask.args.get("pool"):
            world.join_pool(pool, clone.vmid)

    def undo() -> None:
        world.leave_pool(clone.vmid)
        world.guests.pop(clone.vmid, None)

    def apply() -> None:
        clone.config.pop("lock", None)

    size = sum(disk_size(value) for value in disks(source.config).values())
    if not full or source.type == "lxc":
        lines: tuple[str, ...] = ("create linked clone of drive scsi0",) if not full else ()
    else:
        drive = next(iter(disks(source.config)), "scsi0")
        head = f"create full clone of drive {drive} ({volid(str(source.config.get(drive, '')))})"
        copied = mirror_lines(drive, size) if source.running else convert_lines(size)
        lines = (head, *copied)
    return Work(apply, begin=begin, undo=undo, lines=lines, seconds=20 if full else 2)


def _template(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        guest = the_guest(ask, type_)
        _refuse_template(guest)

        def check() -> None:
            if guest.lock:
                raise TaskFailure(lock_text(guest))

        kind = "qmtemplate" if type_ == "qemu" else "vztemplate"
        work = Work(lambda: _convert(guest), check)
        return ask.world.tasks.start(ask.node, kind, id=str(guest.vmid), user=ask.who.id, work=work)

    return handle


def _refuse_template(guest: Guest) -> None:
    what = guest.word
    if guest.snapshots:
        raise failed(f"unable to create template, because {what} contains snapshots")
    if guest.template:
        raise failed("you can't convert a template to a template")
    if guest.running:
        raise failed(f"you can't convert a {what} to template if the {what} is running")


def _convert(guest: Guest) -> None:
    guest.config["template"] = 1
    for key, value in disks(guest.config).items():
        guest.config[key] = value.replace(f"vm-{guest.vmid}-disk", f"base-{guest.vmid}-disk")


def _need_node(world: World, node: str) -> None:
    if node not in world.nodes:
        raise failed(f"no such cluster node '{node}'")


def _allowed(ask: Ask, guest: Guest) -> list[str]:
    others = (name for name in ask.world.nodes if name != guest.node)
    return [name for name in others if ask.world.online(name)]


def _preconditions(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> dict[str, Any]:
        guest = the_guest(ask, type_)
        if type_ == "lxc":
            return {
                "allowed-nodes": _allowed(ask, guest),
                "not-allowed-nodes": {},
                "running": int(guest.running),
            }
        local = set(local_volumes(ask.world, guest))
        rows = [
            _local_disk(guest, key, value)
            for key, value in disks(guest.config).items()
            if volid(value) in local
        ]
        return {
            "allowed_nodes": _allowed(ask, guest),
            "not_allowed_nodes": {},
            "local_disks": rows,
            "local_resources": [],
            "mapped-resource-info": {},
            "mapped-resources": [],
            "has-dbus-vmstate": 1,
            "running": int(guest.running),
        }

    return handle


def _local_disk(guest: Guest, key: str, value: str) -> dict[str, Any]:
    kept = {name: 1 for name, snap in guest.snapshots.items() if snap.config.get(key) == value}
    row: dict[str, Any] = {
        "cdrom": 0,
        "drivename": key,
        "is_attached": 1,
        "is_cloudinit": 0,
        "is_tpmstate": int(key.startswith("tpmstate")),
        "is_unused": int(key.startswith("unused")),
        "is_vmstate": 0,
        "replicate": 1,
        "shared": 0,
        "size": disk_size(value),
        "volid": volid(value),
    }
    return {**row, "referenced_in_snapshot": kept} if kept else row


def _migrate(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        refuse_root_only(ask, "force", "migration_type", "migration_network")
        world, args, target = ask.world, ask.args, ask.args["target"]
        if target == ask.node:
            raise rejected({"target": "target is local node."})
        _need_node(world, target)
        guest = the_guest(ask, type_)
        if guest.running and not args.get("online") and not args.get("restart"):
            option = "--online" if type_ == "qemu" else "--online or --restart"
            what = "VM" if type_ == "qemu" else "container"
            raise failed(f"can't migrate running {what} without {option}")
        work = _moving(ask, guest, target)
        if sid(guest) in world.ha:
            return _ask_ha(ask, guest, work)
        return _start_move(world, guest, ask.who.id, work)

    return handle


def _start_move(world: World, guest: Guest, user: str, work: Work) -> str:
    kind = "qmigrate" if guest.type == "qemu" else "vzmigrate"
    return world.tasks.start(guest.node, kind, id=str(guest.vmid), user=user, work=work)


def _ask_ha(ask: Ask, guest: Guest, work: Work) -> str:
    world = ask.world

    def follow() -> None:
        _start_move(world, guest, "root@pam", work)

    asked = Work(seconds=2, after=lambda: world.tasks.later(8, follow))
    return world.tasks.start(ask.node, "hamigrate", id=str(guest.vmid), user=ask.who.id, work=asked)


def _moving(ask: Ask, guest: Guest, target: str) -> Work:
    world = ask.world

    def check() -> None:
        if guest.lock:
            raise TaskFailure(lock_text(guest))
        if not world.online(target):
            raise TaskFailure("migration aborted")
        local = local_volumes(world, guest)
        if (
            local
            and guest.type == "qemu"
            and guest.running
            and not ask.args.get("with-local-disks")
        ):
            raise TaskFailure("migration aborted")

    def set_lock(lock: str) -> None:
        guest.config.pop("lock", None)
        if lock:
            guest.config["lock"] = lock

    def apply() -> None:
        set_lock("")
        guest.node = target

    lines = migration_lines(max_memory(guest)) if guest.running else ("migration finished",)
    return Work(
        apply,
        check,
        begin=lambda: set_lock("migrate"),
        undo=lambda: set_lock(""),
        lines=lines,
        seconds=15,
    )


_TARGET = text("target", "Node of the copy.", format="pve-node")
_COPY = (
    text("description", "Notes of the copy."),
    flag("full", "Copy all disks; a template's clone is linked otherwise."),
    whole("newid", "Id of the copy.", optional=False, **VMID_LIMITS),
    text("pool", "Pool of the copy.", format="pve-poolid"),
    text("snapname", "Copy this snapshot.", format="pve-configid", max_length=40),
    text("storage", "Storage of a full copy.", format="pve-storage-id"),
    _TARGET,
)
_MOVE = text("target", "The other node.", optional=False, format="pve-node")
_CLONE_RIGHT = {
    "check": [
        "and",
        ["perm", "/vms/{vmid}", ["VM.Clone"]],
        [
            "or",
            ["perm", "/vms/{newid}", ["VM.Allocate"]],
            ["perm", "/pool/{pool}", ["VM.Allocate"], "require_param", "pool"],
        ],
    ]
}
_ALLOCATE = perm("/vms/{vmid}", "VM.Allocate")
_MIGRATE = perm("/vms/{vmid}", "VM.Migrate")
_QEMU = "/nodes/{node}/qemu/{vmid}"
_LXC = "/nodes/{node}/lxc/{vmid}"
_QEMU_MOVE = (
    whole("bwlimit", "Limit in KiB/s.", minimum=0),
    flag("force", "Even with local devices; root@pam only."),
    text("migration_network", "Network to use.", format="CIDR"),
    choice("migration_type", "Protection of the traffic.", ("secure", "insecure")),
    flag("online", "Without stopping it."),
    _MOVE,
    text("targetstorage", "Storage mapping.", format="storage-pair-list"),
    flag("with-conntrack-state", "Take connection tracking along.", default=0),
    flag("with-local-disks", "Take local disks along."),
)
_LXC_MOVE = (
    real("bwlimit", "Limit in KiB/s.", minimum=0),
    flag("online", "Without stopping it."),
    flag("restart", "Stop it, move it, start it."),
    _MOVE,
    text("target-storage", "Storage mapping.", format="storage-pair-list"),
    whole("timeout", "Seconds for the shutdown.", default=180),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("POST", f"{_QEMU}/clone", _clone("qemu"), about="Copy a VM.",
             permissions=_CLONE_RIGHT, protected=True, returns="string",
             parameters=(*_COPY, whole("bwlimit", "Limit in KiB/s.", minimum=0),
                         choice("format", "Format of files.", ("raw", "qcow2", "vmdk")),
                         text("name", "Name of the copy.", format="dns-name"))),
    endpoint("POST", f"{_LXC}/clone", _clone("lxc"), about="Copy a container.",
             permissions=_CLONE_RIGHT, protected=True, returns="string",
             parameters=(*_COPY, real("bwlimit", "Limit in KiB/s.", minimum=0),
                         text("hostname", "Name of the copy.", format="dns-name"))),
    endpoint("POST", f"{_QEMU}/template", _template("qemu"), about="Make a VM a template.",
             permissions=_ALLOCATE, protected=True, returns="string",
             parameters=(choice("disk", "One disk alone.", QEMU_DISKS),)),
    endpoint("POST", f"{_LXC}/template", _template("lxc"), about="Make a container a template.",
             permissions=_ALLOCATE, protected=True, returns="null"),
    endpoint("GET", f"{_QEMU}/migrate", _preconditions("qemu"),
             about="Where a VM can go and what holds it.", permissions=_MIGRATE, protected=True,
             parameters=(text("target", "To this node.", format="pve-node"),),
             returns="object"),
    endpoint("GET", f"{_LXC}/migrate", _preconditions("lxc"),
             about="Where a container can go.", permissions=_MIGRATE, protected=True,
             parameters=(text("target", "To this node.", format="pve-node"),),
             returns="object"),
    endpoint("POST", f"{_QEMU}/migrate", _migrate("qemu"), about="Move a VM to another node.",
             permissions=_MIGRATE, protected=True, returns="string", parameters=_QEMU_MOVE),
    endpoint("POST", f"{_LXC}/migrate", _migrate("lxc"),
             about="Move a container to another node.", permissions=_MIGRATE, protected=True,
             returns="string", parameters=_LXC_MOVE),
)  # fmt: skip
