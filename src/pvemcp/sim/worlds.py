"""The three worlds: a home lab, a small cluster, a large one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.sim.everyday import cluster_past, homelab_past
from pvemcp.sim.world import (
    GIB,
    Guest,
    GuestType,
    HaResource,
    Node,
    Pool,
    Snapshot,
    Storage,
    Volume,
    World,
)

HOUR = 3600
DAY = 24 * HOUR


def homelab(world: World) -> None:
    """One node pve1 and twelve guests from VM 100 on."""
    now = world.clock.seconds()
    world.nodes["pve1"] = Node("pve1", "192.0.2.11", 1, booted=now - 41 * DAY)
    _storages(world, disks="local-lvm")
    world.options = {"keyboard": "en-us", "mac_prefix": "BC:24:11"}
    for poolid, comment in (("prod", "What the family uses"), ("lab", "May break")):
        world.pools[poolid] = Pool(poolid, comment)
    for vmid, (type_, name, more) in enumerate(_HOMELAB, start=100):
        _homelab_guest(world, vmid, type_, name, more)
    world.ha["vm:104"] = HaResource("vm:104", comment="router of the house")
    _snapshots(world)
    _volumes(world)
    _accounts(world)
    world.firewall["cluster"] = [
        {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "8006", "enable": 1},
        {"type": "in", "action": "DROP", "source": "203.0.113.0/24", "enable": 0},
    ]
    world.firewall["100"] = [
        {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "22", "enable": 1},
        {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "443", "enable": 1},
    ]
    world.backup_jobs["nightly"] = {
        "type": "vzdump",
        "schedule": "02:30",
        "storage": "nas",
        "mode": "snapshot",
        "enabled": 1,
        "all": 1,
        "comment": "every night",
        "prune-backups": {"keep-last": "3"},
    }
    homelab_past(world)


_HOMELAB: tuple[tuple[GuestType, str, Mapping[str, Any]], ...] = (
    ("qemu", "web01", {"on": 1, "agent": 1, "pool": "prod", "tags": "prod;web", "memory": 2048}),
    ("qemu", "db01", {"on": 1, "agent": 1, "pool": "prod", "tags": "db;prod", "memory": 8192}),
    ("lxc", "dns", {"on": 1, "pool": "prod", "tags": "prod", "memory": 256}),
    ("qemu", "debian13-tmpl", {"template": 1, "tags": "template", "memory": 1024}),
    ("qemu", "router", {"on": 1, "pool": "prod", "tags": "net;prod", "memory": 1024}),
    ("lxc", "mail", {"on": 1, "pool": "prod", "tags": "mail;prod", "memory": 2048}),
    ("qemu", "build", {"agent": 1, "pool": "lab", "tags": "lab", "memory": 16384, "cores": 8}),
    ("lxc", "media", {"on": 1, "tags": "home", "memory": 4096}),
    ("qemu", "win11", {"pool": "lab", "tags": "lab;windows", "memory": 8192, "ostype": "win11"}),
    ("lxc", "backup-test", {"pool": "lab", "tags": "lab", "memory": 512}),
    ("qemu", "homeassistant", {"on": 1, "agent": 1, "tags": "home", "memory": 2048}),
    ("qemu", "k3s", {"on": 1, "pool": "lab", "tags": "lab", "memory": 4096, "protection": 1}),
)


def _homelab_guest(
    world: World, vmid: int, type_: GuestType, name: str, more: Mapping[str, Any]
) -> None:
    guest = new_guest(
        world, vmid, type_, node="pve1", name=name, memory=more["memory"],
        cores=more.get("cores", 2), disks="local-lvm", tags=more["tags"],
    )  # fmt: skip
    guest.running = bool(more.get("on"))
    if more.get("agent"):
        guest.config["agent"] = "1"
        guest.agent_running = True
    for key in ("template", "protection", "ostype"):
        if key in more:
            guest.config[key] = more[key]
    if guest.template:
        guest.config["scsi0"] = f"local-lvm:base-{vmid}-disk-0,size=32G"
    if "pool" in more:
        world.join_pool(more["pool"], vmid)


def new_guest(
    world: World,
    vmid: int,
    type_: GuestType,
    *,
    node: str,
    name: str,
    memory: int = 2048,
    cores: int = 2,
    disks: str = "local-lvm",
    size: int = 32,
    tags: str = "",
) -> Guest:
    """Add a stopped guest with one disk of `size` GiB and one network card."""
    mac = f"BC:24:11:{vmid >> 16 & 255:02X}:{vmid >> 8 & 255:02X}:{vmid & 255:02X}"
    if type_ == "qemu":
        config: dict[str, Any] = {
            "boot": "order=scsi0;net0",
            "cores": cores,
            "memory": str(memory),
            "meta": f"creation-qemu=10.1.2,ctime={world.clock.seconds() - 200 * DAY}",
            "name": name,
            "net0": f"virtio={mac},bridge=vmbr0,firewall=1",
            "ostype": "l26",
            "scsi0": f"{disks}:vm-{vmid}-disk-0,size={size}G",
            "scsihw": "virtio-scsi-single",
        }
    else:
        config = {
            "arch": "amd64",
            "cores": cores,
            "hostname": name,
            "memory": memory,
            "net0": f"name=eth0,bridge=vmbr0,firewall=1,hwaddr={mac},ip=dhcp,type=veth",
            "ostype": "debian",
            "rootfs": f"{disks}:vm-{vmid}-disk-0,size={size}G",
            "swap": 512,
            "unprivileged": 1,
        }
    if tags:
        config["tags"] = tags
    guest = Guest(vmid, type_, node, config)
    guest.started = world.clock.seconds() - 3 * DAY - vmid * 37 % DAY
    guest.addresses = (f"10.{vmid >> 16 & 255}.{vmid >> 8 & 255}.{vmid & 255}/8",)
    world.guests[vmid] = guest
    return guest


def _storages(world: World, *, disks: str) -> None:
    world.storages["local"] = Storage(
        "local", "dir", ("iso", "vztmpl", "backup", "snippets", "import"), {"path": "/var/lib/vz"}
    )
    shared = disks != "local-lvm"
    options = {"pool": disks} if shared else {"thinpool": "data", "vgname": "pve"}
    world.storages[disks] = Storage(
        disks, "rbd" if shared else "lvmthin", ("images", "rootdir"), options, shared=shared,
        total=(8000 if shared else 900) * GIB,
    )  # fmt: skip
    world.storages["nas"] = Storage(
        "nas", "nfs", ("backup", "iso", "vztmpl", "images"),
        {"path": "/mnt/pve/nas", "server": "192.0.2.5", "export": "/volume1/pve"},
        shared=True, total=12000 * GIB,
    )  # fmt: skip


def _snapshots(world: World) -> None:
    guest, now = world.guests[100], world.clock.seconds()
    for n, (name, text) in enumerate((("before-upgrade", "nginx 1.26"), ("tested", ""))):
        parent = guest.parent
        guest.snapshots[name] = Snapshot(
            name, now - (9 - n) * DAY, dict(guest.config), text, parent
        )
        guest.parent = name
    stopped = world.guests[106]
    stopped.snapshots["clean"] = Snapshot("clean", now - 30 * DAY, dict(stopped.config), "fresh")
    stopped.parent = "clean"


def _volumes(world: World) -> None:
    now = world.clock.seconds()
    world.storages["local"].volumes = [
        Volume("local:iso/debian-13.1.0-amd64-netinst.iso", "iso", 783 * 1024**2, now - 60 * DAY),
        Volume(
            "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst", "vztmpl", 129710398,
            now - 50 * DAY, "tzst",
        ),
    ]  # fmt: skip


def _accounts(world: World) -> None:
    user = world.add_user("alice@pve", password="correct-horse")  # noqa: S106 - a made-up world
    user.details = {"comment": "operator", "firstname": "Alice"}
    world.grant("/pool/lab", "alice@pve", "PVEVMAdmin")
    world.add_user("auditor@pve")
    world.grant("/", "auditor@pve", "PVEAuditor")


def cluster(world: World) -> None:
    """Five nodes, one of them down, and 200 guests."""
    _farm(world, nodes=5, guests=200)
    world.nodes["pve5"].online = False
    for guest in world.guests.values():
        guest.running = guest.running and guest.node != "pve5"
    for n, vmid in enumerate((100, 101, 105, 110)):
        world.ha[f"vm:{vmid}"] = HaResource(f"vm:{vmid}", comment=f"service {n}")
        world.guests[vmid].running = True
    _accounts(world)
    cluster_past(world)


def large(world: World) -> None:
    """Thirty-two nodes and 10,000 guests."""
    _farm(world, nodes=32, guests=10_000)


_NAMES = ("web", "db", "app", "cache", "queue", "mail", "build", "proxy", "log", "k8s")
_POOLS = ("prod", "staging", "lab", "customers")


def _farm(world: World, *, nodes: int, guests: int) -> None:
    world.name = "farm"
    now = world.clock.seconds()
    for n in range(1, nodes + 1):
        world.nodes[f"pve{n}"] = Node(
            f"pve{n}", f"192.0.2.{10 + n}", n, cpus=64, memory=512 * GIB, booted=now - n * DAY
        )
    _storages(world, disks="ceph")
    for poolid in _POOLS:
        world.pools[poolid] = Pool(poolid)
    for n in range(guests):
        _farm_guest(world, n, node=f"pve{1 + n % nodes}")


def _farm_guest(world: World, n: int, *, node: str) -> None:
    vmid, kind, pool = 100 + n, _NAMES[n * 7 % len(_NAMES)], _POOLS[n % len(_POOLS)]
    guest = new_guest(
        world, vmid, "lxc" if n % 4 == 3 else "qemu", node=node, name=f"{kind}{n:05}",
        memory=1024 << n % 5, cores=1 + n % 8, disks="ceph", tags=f"{kind};{pool}",
    )  # fmt: skip
    guest.running = n % 5 != 4
    if guest.type == "qemu" and n % 2 == 0:
        guest.config["agent"] = "1"
        guest.agent_running = True
    world.join_pool(pool, vmid)


BUILDERS: Mapping[str, Callable[[World], None]] = {
    "homelab": homelab,
    "cluster": cluster,
    "large": large,
}
