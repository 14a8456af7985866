"""Nodes: list, index, status, version, time."""

from __future__ import annotations

import hashlib
from typing import Any

from pvemcp.sim.declare import Ask, Endpoint, choice, endpoint, index, listing, perm, text
from pvemcp.sim.guests import stop_guest
from pvemcp.sim.sections import keep
from pvemcp.sim.usage import node_usage

VERSION = {"release": "9.1", "repoid": "f40095996bcb6bf7", "version": "9.1.9"}
NODE = "/nodes/{node}"
AUDIT = perm(NODE, "Sys.Audit")
_INDEX = (
    "qemu", "lxc", "ceph", "vzdump", "services", "subscription", "network", "tasks", "storage",
    "version", "syslog", "status", "time", "dns", "hosts", "journal", "rrddata", "apt", "disks",
    "firewall", "certificates", "config", "execute", "aplinfo", "report", "scan", "sdn",
)  # fmt: skip


def node_fingerprint(name: str) -> str:
    """Return a fixed made-up certificate fingerprint of a node."""
    digest = hashlib.sha256(f"certificate of {name}".encode()).digest()
    return ":".join(f"{byte:02X}" for byte in digest)


def node_row(ask: Ask, name: str) -> dict[str, Any]:
    """Return a node as lists show it; figures need Sys.Audit and a node that answers."""
    world, node = ask.world, ask.world.nodes[name]
    online = world.online(name)
    row: dict[str, Any] = {
        "id": f"node/{name}",
        "node": name,
        "type": "node",
        "level": "",
        "status": "online" if online else "offline",
        "ssl_fingerprint": node_fingerprint(name),
    }
    if online and ask.may(f"/nodes/{name}", "Sys.Audit"):
        row |= node_usage(world, node)
        row |= {"maxcpu": node.cpus, "maxmem": node.memory, "maxdisk": node.disk}
    return row


def _list(ask: Ask) -> list[dict[str, Any]]:
    return [node_row(ask, name) for name in ask.world.nodes]


def _version(_ask: Ask) -> dict[str, str]:
    return dict(VERSION)


def _time(ask: Ask) -> dict[str, Any]:
    now = ask.world.clock.seconds()
    zone = ask.world.sections[f"time {ask.node}"].get("timezone", "UTC")
    return {"time": now, "localtime": now, "timezone": zone}


def _set_time(ask: Ask) -> None:
    zone = {"timezone": ask.args["timezone"]}
    keep(ask.world, f"time {ask.node}", zone, {"timezone": "UTC"})


def _power(ask: Ask) -> None:
    """Take the guests of a node down with it; here it is up again at once."""
    for guest in ask.world.guests.values():
        if guest.node == ask.node and guest.running:
            stop_guest(guest)


def _status(ask: Ask) -> dict[str, Any]:
    node = ask.world.nodes.get(ask.node, ask.world.local)
    use = node_usage(ask.world, node)
    load = use["cpu"] * node.cpus
    return {
        "boot-info": {"mode": "efi", "secureboot": 0},
        "cpu": use["cpu"],
        "cpuinfo": {
            "cores": node.cpus // 2, "cpus": node.cpus, "sockets": 1, "family": "25",
            "flags": "fpu vme de pse tsc msr pae svm aes avx2", "hvm": "1", "mhz": "3493.000",
            "model": "AMD EPYC 4464P 12-Core Processor", "user_hz": 100,
            "vendor": "AuthenticAMD",
        },
        "current-kernel": {
            "machine": "x86_64", "release": "6.17.2-1-pve", "sysname": "Linux",
            "version": "#1 SMP PREEMPT_DYNAMIC PMX 6.17.2-1",
        },
        "idle": 0,
        "ksm": {"shared": 0},
        "kversion": "Linux 6.17.2-1-pve #1 SMP PREEMPT_DYNAMIC PMX 6.17.2-1",
        "loadavg": [f"{load:.2f}", f"{load * 0.9:.2f}", f"{load * 0.8:.2f}"],
        "memory": {
            "total": node.memory, "used": use["mem"],
            "free": (node.memory - use["mem"]) * 9 // 10, "available": node.memory - use["mem"],
        },
        "pveversion": f"pve-manager/{VERSION['version']}/{VERSION['repoid']}",
        "rootfs": {
            "total": node.disk, "used": use["disk"], "free": node.disk - use["disk"],
            "avail": (node.disk - use["disk"]) * 95 // 100,
        },
        "swap": {"total": 8 * 1024**3, "used": 0, "free": 8 * 1024**3},
        "uptime": use["uptime"],
        "wait": 0.002,
    }  # fmt: skip


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint(
        "GET",
        "/",
        listing("version", "cluster", "nodes", "storage", "access", "pools"),
        about="What there is.",
        returns=index("subdir"),
    ),
    endpoint("GET", "/version", _version, about="Version of the API.", returns="object"),
    endpoint("GET", "/nodes", _list, about="Nodes of the cluster.", returns=index("node")),
    endpoint(
        "GET",
        NODE,
        listing(*_INDEX, key="name"),
        about="What there is below a node.",
        local=True,
        returns=index("name"),
    ),
    endpoint(
        "GET",
        f"{NODE}/status",
        _status,
        about="Load, memory, kernel, versions of a node.",
        permissions=AUDIT,
        returns="object",
    ),
    endpoint(
        "POST",
        f"{NODE}/status",
        _power,
        about="Reboot or shut a node down.",
        permissions=perm(NODE, "Sys.PowerMgmt"),
        protected=True,
        parameters=(choice("command", "What to do.", ("reboot", "shutdown"), optional=False),),
    ),
    endpoint(
        "GET",
        f"{NODE}/version",
        _version,
        about="Version of the API on a node.",
        returns="object",
    ),
    endpoint(
        "GET",
        f"{NODE}/time",
        _time,
        about="Time and zone of a node.",
        permissions=AUDIT,
        returns="object",
    ),
    endpoint(
        "PUT",
        f"{NODE}/time",
        _set_time,
        about="Set the zone of a node.",
        permissions=perm("/nodes/{node}", "Sys.Modify"),
        protected=True,
        parameters=(text("timezone", "Such as Europe/Vienna.", optional=False),),
    ),
)
