"""Containers: list, status, configuration."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.configs import show_config, show_pending
from pvemcp.sim.declare import Ask, Endpoint, endpoint, flag, index, listing, perm, text
from pvemcp.sim.guests import current, list_row, the_guest
from pvemcp.sim.refusal import failed

GUEST = "/nodes/{node}/lxc/{vmid}"
AUDIT = perm("/vms/{vmid}", "VM.Audit")
_INDEX = (
    "config", "pending", "status", "vncproxy", "termproxy", "vncwebsocket", "spiceproxy",
    "migrate", "clone", "template", "resize", "move_volume", "rrd", "rrddata", "snapshot",
    "firewall", "feature", "interfaces",
)  # fmt: skip
_STATUS = ("current", "start", "stop", "shutdown", "reboot", "migrate")


def _list(ask: Ask) -> list[dict[str, Any]]:
    return [
        list_row(ask.world, guest)
        for guest in ask.world.guests_on(ask.node, "lxc")
        if ask.may(f"/vms/{guest.vmid}", "VM.Audit")
    ]


def _status_index(ask: Ask) -> list[dict[str, str]]:
    the_guest(ask, "lxc")
    return [{"subdir": name} for name in _STATUS]


def _current(ask: Ask) -> dict[str, Any]:
    return current(ask.world, the_guest(ask, "lxc"))


def _config(ask: Ask) -> dict[str, Any]:
    return show_config(ask, the_guest(ask, "lxc"))


def _pending(ask: Ask) -> list[dict[str, Any]]:
    return show_pending(the_guest(ask, "lxc"))


def _interfaces(ask: Ask) -> list[dict[str, Any]]:
    guest = the_guest(ask, "lxc")
    if not guest.running:
        raise failed(f"CT {guest.vmid} not running")
    net = str(guest.config.get("net0", ""))
    fields = dict(part.split("=", 1) for part in net.split(",") if "=" in part)
    return [
        _interface("lo", "00:00:00:00:00:00", ()),
        _interface("eth0", fields.get("hwaddr", "").lower(), guest.addresses),
    ]


def _interface(name: str, mac: str, addresses: tuple[str, ...]) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for cidr in addresses:
        address, _, prefix = cidr.partition("/")
        kind = "inet6" if ":" in address else "inet"
        found.append({"ip-address": address, "ip-address-type": kind, "prefix": int(prefix)})
    row: dict[str, Any] = {"name": name, "hwaddr": mac, "hardware-address": mac}
    for entry in found:
        row[entry["ip-address-type"]] = f"{entry['ip-address']}/{entry['prefix']}"
    return {**row, "ip-addresses": found}


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint(
        "GET",
        "/nodes/{node}/lxc",
        _list,
        about="Containers of a node that the caller may see.",
        protected=True,
        returns=index("vmid", "name", "status"),
    ),
    endpoint(
        "GET",
        GUEST,
        listing(*_INDEX),
        about="What there is below a container.",
        returns=index("subdir"),
    ),
    endpoint(
        "GET",
        f"{GUEST}/status",
        _status_index,
        about="What there is below status.",
        returns=index("subdir"),
    ),
    endpoint(
        "GET",
        f"{GUEST}/status/current",
        _current,
        about="State of a container.",
        permissions=AUDIT,
        protected=True,
        returns="object",
    ),
    endpoint(
        "GET",
        f"{GUEST}/config",
        _config,
        about="Configuration of a container with its pending changes applied.",
        permissions=AUDIT,
        returns="object",
        parameters=(
            flag("current", "Without the pending changes.", default=0),
            text("snapshot", "That of a snapshot.", format="pve-configid", max_length=40),
        ),
    ),
    endpoint(
        "GET",
        f"{GUEST}/pending",
        _pending,
        about="Present and pending values of a container.",
        permissions=AUDIT,
        returns=index("key", "value", "pending", "delete"),
    ),
    endpoint(
        "GET",
        f"{GUEST}/interfaces",
        _interfaces,
        about="Interfaces and addresses of a running container.",
        permissions=AUDIT,
        protected=True,
        returns=index("name"),
    ),
)
