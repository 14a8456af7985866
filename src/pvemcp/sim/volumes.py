"""Disks of guests: where they lie, how they are made, who depends on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pvemcp.sim.refusal import failed
from pvemcp.sim.usage import disks, parse_size, show_size
from pvemcp.sim.world import Guest, World

_ALLOCATE = re.compile(r"([A-Za-z][A-Za-z0-9\-_.]*):(\d+(?:\.\d+)?)")
_DRIVE = re.compile(r"(scsi|virtio|sata|ide|efidisk|tpmstate|mp|unused)\d+|rootfs|cdrom")
_FILES = frozenset({"dir", "nfs", "cifs", "btrfs", "cephfs"})


def is_drive(key: str) -> bool:
    """Whether a setting names a disk, mount point or CD-ROM."""
    return bool(_DRIVE.fullmatch(key))


def volid(value: str) -> str:
    """Return the volume id out of a drive's setting."""
    first = value.split(",", 1)[0]
    return first.split("=", 1)[1] if first.startswith(("file=", "volume=")) else first


def storage_of(value: str) -> str:
    """Return the storage out of a drive's setting; empty for a path or no medium."""
    name, colon, _ = volid(value).partition(":")
    return name if colon else ""


def is_new(value: str) -> bool:
    """Whether a drive's setting asks for a new volume: `STORAGE:GIB`."""
    return bool(_ALLOCATE.fullmatch(volid(value)))


def need_storage(world: World, storage: str) -> None:
    """Raise the 500 for a storage that does not exist."""
    if storage not in world.storages:
        raise failed(f"storage '{storage}' does not exist")


def allocated(world: World, guest: Guest, value: str, taken: set[str]) -> str:
    """Turn `STORAGE:GIB` into a new volume of the guest; other values stay as they are."""
    head, comma, rest = value.partition(",")
    match = _ALLOCATE.fullmatch(volid(head))
    if match is None:
        if storage := storage_of(head):
            need_storage(world, storage)
        return value
    need_storage(world, match[1])
    size = parse_size(match[2] + "G")
    if size > world.storages[match[1]].total:
        raise failed("unable to create image: the size is too large")
    name = free_volume(world, guest, match[1], taken)
    return f"{name}{comma}{rest},size={show_size(size)}"


def free_volume(world: World, guest: Guest, storage: str, taken: set[str]) -> str:
    """Return the id of a volume that the guest does not have yet, and note it in `taken`."""
    present = taken | {volid(value) for value in disks(guest.config).values()}
    number = 0
    while (name := volume_name(world, storage, guest.vmid, number)) in present:
        number += 1
    taken.add(name)
    return name


def volume_name(world: World, storage: str, vmid: int, number: int) -> str:
    """Return the id of a guest's volume: with a folder and an ending on storages of files."""
    if world.storages[storage].type not in _FILES:
        return f"{storage}:vm-{vmid}-disk-{number}"
    ending = "raw" if world.guests.get(vmid) and world.guests[vmid].type == "lxc" else "qcow2"
    return f"{storage}:{vmid}/vm-{vmid}-disk-{number}.{ending}"


def detach(config: dict[str, Any], key: str) -> None:
    """Take a drive out of a configuration; its volume stays behind as unused."""
    value = str(config.pop(key))
    if "media=cdrom" in value or not storage_of(value) or key.startswith("unused"):
        return
    number = 0
    while f"unused{number}" in config:
        number += 1
    config[f"unused{number}"] = volid(value)


def unboot(config: dict[str, Any], device: str) -> None:
    """Take a device out of the boot order of a VM that loses it."""
    head, equals, order = str(config.get("boot", "")).partition("order=")
    if equals:
        config["boot"] = head + equals + ";".join(d for d in order.split(";") if d != device)


def linked_clones(world: World, guest: Guest) -> Iterator[str]:
    """Return the base volumes of a template that other guests build on."""
    bases = {volid(value) for value in disks(guest.config).values()}
    for other in world.guests.values():
        if other.vmid == guest.vmid:
            continue
        for value in disks(other.config).values():
            base = base_of(volid(value))
            if base in bases:
                yield base


def base_of(name: str) -> str:
    """Return the base of `STORAGE:BASE/VOLUME`; empty when it is no linked clone."""
    storage, _, path = name.partition(":")
    match = re.fullmatch(r"((?:\d+/)?base-\d+-disk-\d+(?:\.\w+)?)/.+", path)
    return f"{storage}:{match[1]}" if match else ""


def local_volumes(world: World, guest: Guest) -> list[str]:
    """Return the guest's volumes on storages that are not shared."""
    names = (volid(value) for value in disks(guest.config).values())
    return [
        name
        for name in names
        if (store := world.storages.get(name.partition(":")[0])) and not store.shared
    ]
