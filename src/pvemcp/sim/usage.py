"""Made-up but steady figures: CPU, memory and traffic of guests, nodes and storages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvemcp.sim.world import GIB, Guest, Node, Storage, World

_SIZE = re.compile(r"(?:^|,)size=(\d+(?:\.\d+)?)([KMGT]?)")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": GIB, "T": 1024 * GIB}
_DISK_KEY = re.compile(r"(?:scsi|virtio|sata|ide|efidisk|tpmstate|mp|unused)\d+|rootfs")


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `32G`; 0 when it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else 0


def show_size(size: int) -> str:
    """Return bytes as PVE writes them in a configuration: `32G`, `528K`."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def disk_size(value: str) -> int:
    """Return the bytes of a drive or mount point out of its configuration value."""
    match = _SIZE.search(value)
    return int(float(match[1]) * _UNITS[match[2]]) if match else 0


def disks(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the drives and mount points of a configuration that lie on a storage."""
    return {
        key: str(value)
        for key, value in config.items()
        if _DISK_KEY.fullmatch(key) and "media=cdrom" not in str(value) and ":" in str(value)
    }


def root_disk(guest: Guest) -> int:
    """Return the bytes of the first disk."""
    if guest.type == "lxc":
        return disk_size(str(guest.config.get("rootfs", "")))
    value = guest.config.get("scsi0") or next(iter(disks(guest.config).values()), "")
    return disk_size(str(value))


def max_memory(guest: Guest) -> int:
    """Return the memory in bytes."""
    value = str(guest.config.get("memory", 512)).split(",")[0]
    return int(value.removeprefix("current=")) * 1024**2


def max_cpus(world: World, guest: Guest) -> int:
    """Return the number of virtual CPUs; a container without a limit has those of its node."""
    if guest.type == "lxc" and "cores" not in guest.config:
        return world.nodes[guest.node].cpus
    return int(guest.config.get("cores", 1)) * int(guest.config.get("sockets", 1))


def guest_usage(world: World, guest: Guest) -> dict[str, Any]:
    """Return cpu, mem, disk, netin, netout, diskread, diskwrite, uptime of a guest."""
    if not guest.running:
        return dict.fromkeys(
            ("cpu", "mem", "disk", "netin", "netout", "diskread", "diskwrite", "uptime"), 0
        )
    now = world.clock.now()
    uptime = int(now - guest.started)
    ticks = guest.vmid * 7919 + int(now) // 10 * 31
    return {
        "cpu": ticks % 997 / 3000,
        "mem": max_memory(guest) * (300 + ticks % 400) // 1000,
        "disk": root_disk(guest) * 42 // 100 if guest.type == "lxc" else 0,
        "netin": uptime * (2000 + guest.vmid % 977),
        "netout": uptime * (1200 + guest.vmid % 499),
        "diskread": uptime * (900 + guest.vmid % 311),
        "diskwrite": uptime * (700 + guest.vmid % 211),
        "uptime": uptime,
    }


def node_usage(world: World, node: Node) -> dict[str, Any]:
    """Return cpu (share of all), mem, disk (bytes) and uptime (seconds) of a node."""
    now = world.clock.now()
    ticks = node.nodeid * 6151 + int(now) // 10 * 17
    return {
        "cpu": 0.05 + ticks % 601 / 2000,
        "mem": node.memory * (400 + ticks % 200) // 1000,
        "disk": node.disk * 31 // 100,
        "uptime": int(now - node.booted),
    }


def storage_used(storage: Storage) -> int:
    """Return the used bytes of a storage."""
    share = storage.filled or 35 + len(storage.storage) * 7 % 40
    return storage.total * share // 100 + sum(volume.size for volume in storage.volumes)


def storage_on(storage: Storage, node: str) -> bool:
    """Whether a node has the storage."""
    return not storage.nodes or node in storage.nodes
