"""A world like the host on which the answers were recorded."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.world import (
    GIB,
    Guest,
    HaResource,
    Node,
    Pool,
    Snapshot,
    Storage,
    Volume,
    World,
)  # fmt: skip

UNKNOWN = "00000000-0000-4000-8000-000000000000"
TASK = "UPID:pve1:000002F5:0003E451:6B03DB0E:vzdump:102:root@pam:"


def make_recorded_world() -> World:
    """Node pve1 with VMs 100, 101 (template), 102 (linked clone), 105 (HA) and container 200."""
    world = World()
    now = world.clock.seconds()
    world.nodes["pve1"] = Node("pve1", "192.0.2.2", 1, cpus=2, memory=24 * GIB, booted=now - 3300)
    kinds = ("images", "vztmpl", "iso", "rootdir", "backup", "snippets")
    local = {"path": "/var/lib/vz", "prune-backups": "keep-all=1"}
    world.storages["nas"] = Storage("nas", "dir", (*kinds, "import"), {"path": "/mnt/nas"})
    world.storages["local"] = Storage("local", "dir", kinds, local)
    template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"
    world.storages["local"].volumes = [Volume(template, "vztmpl", 41505207, now, "tzst")]
    _guests(world)
    _accounts(world)
    world.options = {
        "allowed-tags": ["prod", "web"],
        "description": "lab cluster\n",
        "mac_prefix": "BC:24:11",
        "migration": {"type": "secure"},
    }
    _rest(world)
    return world


def _vm(world: World, vmid: int, name: str, **config: Any) -> Guest:
    base: dict[str, Any] = {
        "boot": "order=net0",
        "cores": 1,
        "kvm": 0,
        "memory": "512",
        "meta": "creation-qemu=7.2.22,ctime=1795413738",
        "name": name,
        "net0": f"virtio=BC:24:11:F5:E1:{vmid - 100:02X},bridge=vmbr0,firewall=1",
        "ostype": "l26",
        "scsihw": "virtio-scsi-pci",
        "smbios1": "uuid=98e63323-cde2-47c8-a4f9-006f05b613c8",
        "tags": "prod;web",
        "vmgenid": "e07e4e04-92a4-48a4-a010-55ffd9af1310",
    }
    guest = Guest(vmid, "qemu", "pve1", {**base, **config})
    guest.started = world.clock.now() - 60
    world.guests[vmid] = guest
    return guest


def _guests(world: World) -> None:
    web = _vm(
        world, 100, "web01", agent="1", args="-append console=ttyS0", description="First VM",
        scsi0="local:100/vm-100-disk-0.qcow2,size=4G",
    )  # fmt: skip
    web.running = web.agent_running = True
    web.addresses = ("10.9.0.10/24", "fe80::be24:11ff:fef5:e17a/64")
    now = world.clock.seconds()
    frozen = {key: value for key, value in web.config.items() if key != "args"}
    web.snapshots["s1"] = Snapshot("s1", now - 900, frozen, "offline")
    web.snapshots["withram"] = Snapshot("withram", now - 500, frozen, "", "", vmstate=True)
    web.parent = "withram"
    base = "local:101/base-101-disk-0.qcow2"
    _vm(world, 101, "tmpl", agent="1", template=1, scsi0=f"{base},size=4G")
    linked = _vm(world, 102, "linked", agent="1", unused0=f"{base}/102/vm-102-disk-0.qcow2")
    linked.running = True
    ha = _vm(world, 105, "ha-vm", memory="128", scsi0="local:105/vm-105-disk-0.qcow2,size=1G")
    del ha.config["tags"], ha.config["net0"]
    ha.running = True
    container = Guest(200, "lxc", "pve1", {
        "arch": "amd64", "hostname": "ct-dns", "memory": 256,
        "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:9B:1C:7D,type=veth",
        "ostype": "debian", "rootfs": "local:200/vm-200-disk-0.raw,size=1G", "swap": 0,
        "unprivileged": 1,
    })  # fmt: skip
    container.running, container.started = True, world.clock.now() - 250
    world.guests[200] = container


def _accounts(world: World) -> None:
    world.token("root@pam", "full")
    world.access.users["root@pam"].tokens["full"].comment = "full admin"
    world.add_role("LabOps", "Datastore.Audit", "VM.Audit", "VM.PowerMgmt", "VM.Snapshot")
    world.grant("/", "audit@pve", "PVEAuditor")
    world.token("audit@pve", "ro")
    world.grant("/vms", "ops@pve", "PVEVMAdmin")
    world.token("ops@pve", "priv", privsep=True)
    world.grant("/vms/100", "ops@pve!priv", "LabOps")
    world.token("ops@pve", "nopriv", privsep=True)
    world.token("ops@pve", "exp")
    ops = world.access.users["ops@pve"]
    ops.tokens["exp"].expire = 1
    ops.details = {"comment": "operator", "email": "ops@lab.local", "firstname": "Op"}
    world.access.groups["admins"] = "Admins"


def _rest(world: World) -> None:
    world.sdn["zones"]["lab"] = {"type": "simple"}
    world.sdn["vnets"]["vnet1"] = {"type": "vnet", "zone": "lab"}
    world.sdn["subnets"]["lab-10.9.0.0-24"] = {
        "type": "subnet", "vnet": "vnet1", "gateway": "10.9.0.1",
    }  # fmt: skip
    world.sdn["controllers"]["bgppve1"] = {
        "type": "bgp", "asn": 65000, "node": "pve1", "peers": "10.0.0.1",
    }  # fmt: skip
    world.pools["jsonpool"] = Pool("jsonpool")
    world.pools["prod"] = Pool("prod", "Production", storages={"nas"})
    world.join_pool("jsonpool", 102)
    for vmid in (100, 101, 200):
        world.join_pool("prod", vmid)
    world.ha["vm:105"] = HaResource("vm:105", comment="ha")
    accept = {"type": "in", "action": "ACCEPT", "enable": 1}
    drop = {"type": "in", "action": "DROP", "source": "+mgmt", "enable": 0, "comment": "test rule"}
    world.ha_rules["r1"] = {"type": "node-affinity", "nodes": "pve1", "resources": "vm:105"}
    world.sections["/cluster/metrics/server"]["graf"] = {
        "type": "graphite", "server": "127.0.0.1", "port": 2003, "disable": 1,
    }  # fmt: skip
    world.sections["/cluster/notifications/matchers"]["m1"] = {
        "match-severity": ["error"], "origin": "user-created", "target": ["gf"],
    }  # fmt: skip
    named = world.firewall_names["cluster"]
    named.aliases["dmz"] = {"name": "dmz", "cidr": "10.0.0.0/24", "ipversion": 4}
    named.sets["mgmt"] = {}
    named.groups["websrv"] = "web servers"
    for guest in ("100", "200"):
        own = world.firewall_names[guest]
        own.aliases["al1"] = {"name": "al1", "cidr": "10.0.0.1", "ipversion": 4}
        own.sets["is1"] = {"10.0.0.2": {"cidr": "10.0.0.2"}}
    world.firewall_options["100"] = {"enable": 1, "policy_in": "DROP"}
    world.firewall = {
        "group websrv": [{**accept, "proto": "tcp", "dport": "80,443"}],
        "cluster": [drop],
        "pve1": [{**accept, "enable": 0}],
        "100": [{**accept, "proto": "tcp", "dport": "22"}],
        "200": [accept],
    }
    world.backup_jobs["3903b095-38a1-4018-bda7-f500e5e74dc8"] = {
        "comment": "nightly", "enabled": 1, "mode": "snapshot", "schedule": "mon..fri 02:30",
        "prune-backups": {"keep-last": "3"}, "storage": "nas", "type": "vzdump", "vmid": "100",
    }  # fmt: skip
