"""Disks that move: to another storage, or to another guest."""

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
from pvemcp.sim.edits import LXC_DISKS, QEMU_DISKS
from pvemcp.sim.guests import check_digest, lock_text, refuse_locked, the_guest
from pvemcp.sim.progress import convert_lines, mirror_lines
from pvemcp.sim.refusal import TaskFailure, failed, rejected
from pvemcp.sim.tasks import Work
from pvemcp.sim.usage import disk_size, disks
from pvemcp.sim.volumes import detach, free_volume, need_storage, storage_of, unboot, volid
from pvemcp.sim.world import Guest, GuestType

_KINDS = {"qemu": ("disk", "qmmove"), "lxc": ("volume", "move_volume")}


def _move(type_: GuestType) -> Handler:
    key, kind = _KINDS[type_]

    def handle(ask: Ask) -> str:
        guest, name = the_guest(ask, type_), ask.args[key]
        check_digest(ask, guest)
        if name not in disks(guest.config):
            raise failed(f"disk '{name}' does not exist")
        if "target-vmid" in ask.args:
            work = _reassigning(ask, guest, name, ask.args.get(f"target-{key}", name))
        else:
            work = _moving(ask, guest, name)
        return ask.world.tasks.start(ask.node, kind, id=str(guest.vmid), user=ask.who.id, work=work)

    return handle


def _refuse(ask: Ask, guest: Guest, name: str, storage: str) -> None:
    need_storage(ask.world, storage)
    refuse_locked(guest)
    if storage_of(str(guest.config[name])) == storage and "format" not in ask.args:
        raise failed(f"you can't move to the same storage with same format ({storage})")
    if guest.type == "lxc" and guest.running:
        raise failed("cannot move volumes of a running container")
    kept = any(name in snapshot.config for snapshot in guest.snapshots.values())
    if ask.args.get("delete") and kept:
        raise failed("you can't move a disk with snapshots and delete the source")


def _moving(ask: Ask, guest: Guest, name: str) -> Work:
    storage = ask.args.get("storage")
    if not storage:
        raise rejected({"storage": "either 'storage' or 'target-vmid' is needed"})
    _refuse(ask, guest, name, storage)

    def check() -> None:
        if guest.lock:
            raise TaskFailure(lock_text(guest))

    def apply() -> None:
        old = str(guest.config[name])
        new = free_volume(ask.world, guest, storage, set())
        detach(guest.config, name)
        if ask.args.get("delete"):
            for each in [k for k, v in guest.config.items() if v == volid(old)]:
                del guest.config[each]
        guest.config[name] = ",".join([new, *old.split(",")[1:]])

    size = disk_size(str(guest.config[name]))
    lines = mirror_lines(name, size) if guest.running else convert_lines(size)
    return Work(apply, check, lines=lines, seconds=20)


def _reassigning(ask: Ask, guest: Guest, name: str, there: str) -> Work:
    world, vmid = ask.world, ask.args["target-vmid"]
    target = world.guests.get(vmid)
    if target is None or target.type != guest.type or target.node != guest.node:
        raise failed(f"Both guests need to be on the same node ({guest.node}).")
    if there in target.config:
        raise failed(f"Target disk key '{there}' is already in use for {target.word} {vmid}")
    if guest.running:
        raise failed("Moving a disk of a running guest to another guest isn't supported")

    def apply() -> None:
        value = str(guest.config.pop(name))
        unboot(guest.config, name)
        new = free_volume(world, target, storage_of(value), set())
        target.config[there] = ",".join([new, *value.split(",")[1:]])

    return Work(apply)


_DIGEST = text("digest", "Refuse when the configuration has changed.", max_length=40)
_THERE = text("target-digest", "Of the other guest.", max_length=40)
_STORAGE = text("storage", "To this storage.", format="pve-storage-id")
_DELETE = flag("delete", "Remove the volume that is left behind.", default=0)
_GUEST = whole("target-vmid", "To this guest.", **VMID_LIMITS)
_UNUSED = tuple(f"unused{n}" for n in range(256))
_RIGHT = perm("/vms/{vmid}", "VM.Config.Disk")


def _both(key: str, names: tuple[str, ...]) -> tuple[Any, ...]:
    return (
        choice(key, "What is moved.", names, optional=False),
        choice(f"target-{key}", "Its name there.", names),
    )


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("POST", "/nodes/{node}/qemu/{vmid}/move_disk", _move("qemu"), about="Move a disk.",
             permissions=_RIGHT, protected=True, returns="string",
             parameters=(*_both("disk", (*QEMU_DISKS, *_UNUSED)), _STORAGE, _DELETE, _GUEST,
                         _DIGEST, _THERE, whole("bwlimit", "Limit in KiB/s.", minimum=0),
                         choice("format", "Of a file.", ("raw", "qcow2", "vmdk")))),
    endpoint("POST", "/nodes/{node}/lxc/{vmid}/move_volume", _move("lxc"),
             about="Move a volume.", permissions=_RIGHT, protected=True, returns="string",
             parameters=(*_both("volume", (*LXC_DISKS, *_UNUSED)), _STORAGE, _DELETE, _GUEST,
                         _DIGEST, _THERE, real("bwlimit", "Limit in KiB/s.", minimum=0))),
)  # fmt: skip
