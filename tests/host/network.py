"""The network of a machine: a /30 between a veth here and its `host0`, in a namespace of its own.

The namespace belongs to the machine's processes alone and has no name: when they are gone the
kernel removes it and both ends of the veth with it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from tests.host.images import SYSTEM_PATH, HostFault

_ENV = {"PATH": SYSTEM_PATH}
RANGE = IPv4Network("10.214.0.0/16")
IFACE = "host0"


def choose(used: Container[IPv4Network]) -> IPv4Network:
    """Return a /30 that neither a machine nor this computer's routes use."""
    rows = _ip("route", "show", "table", "all")
    routes = [IPv4Network(row["dst"]) for row in rows if row.get("dst", "")[:1].isdigit()]
    for net in RANGE.subnets(new_prefix=30):
        if net not in used and not any(net.overlaps(route) for route in routes):
            return net
    raise HostFault(f"no free network is left in {RANGE}")


def ours(net: IPv4Network) -> IPv4Address:
    """Return this computer's address in the network of a machine."""
    return net[1]


def theirs(net: IPv4Network) -> IPv4Address:
    """Return the machine's own address."""
    return net[2]


def connect(link: str, net: IPv4Network, pid: int) -> None:
    """Join this computer and the network namespace of a process, before anything runs in it."""
    _batch(
        [
            f"link add {link} type veth peer name {IFACE} netns {pid}",
            f"addr add {ours(net)}/30 dev {link}",
            f"link set {link} up",
        ]
    )
    _batch(
        [
            "link set lo up",
            f"addr add {theirs(net)}/30 dev {IFACE}",
            f"link set {IFACE} up",
            f"route add default via {ours(net)}",
        ],
        ("nsenter", f"--net=/proc/{pid}/ns/net"),
    )


def join(first: int, second: int, net: IPv4Network, iface: str = "cluster0") -> None:
    """Join the network namespaces of two processes by a cable of their own."""
    _batch([f"link add {iface} netns {first} type veth peer name {iface} netns {second}"])
    for pid, address in ((first, ours(net)), (second, theirs(net))):
        inside = ("nsenter", f"--net=/proc/{pid}/ns/net")
        _batch([f"addr add {address}/{net.prefixlen} dev {iface}", f"link set {iface} up"], inside)


def disconnect(link: str) -> None:
    """Remove the veth, if the kernel has not done so yet."""
    subprocess.run(["ip", "link", "del", link], env=_ENV, capture_output=True, check=False)


def links() -> set[str]:
    """Return the names of the interfaces in this computer's own namespace."""
    return {row["ifname"] for row in _ip("link")}


def _batch(commands: list[str], inside: tuple[str, ...] = ()) -> None:
    done = subprocess.run(
        [*inside, "ip", "-4", "-batch", "-"],
        input="\n".join(commands) + "\n",
        capture_output=True,
        text=True,
        env=_ENV,
        check=False,
    )
    if done.returncode:
        raise HostFault(f"ip failed: {done.stderr}")


def _ip(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-4", "-j", *words], env=_ENV, capture_output=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return rows
