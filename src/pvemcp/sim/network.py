"""Interfaces of a node: changes are staged (`interfaces.new`) until the network is reloaded."""

from __future__ import annotations

import copy
import difflib
import ipaddress
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import (
    NODE,
    PATH_PARAMETERS,
    Answer,
    Ask,
    Endpoint,
    choice,
    endpoint,
    flag,
    index,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.refusal import failed, rejected
from pvemcp.sim.sdn import local_vnets
from pvemcp.sim.tasks import Work
from pvemcp.sim.validate import split_list
from pvemcp.sim.world import Interfaces, Node

_PLACES = ("eth", "bond", "vlan", "alias", "bridge")
"""The order in which PVE writes kinds of interfaces."""
_FIRST = 3
"""Priority of the first interface after the loopback device."""
_PORTS = ("bridge_ports", "slaves")
_MADE = ("method", "method6", "families", "type")


# Reading -------------------------------------------------------------------------------------


def _rows(node: Node) -> list[dict[str, Any]]:
    staged = node.interfaces if node.staged is None else node.staged
    order = sorted(staged, key=lambda name: _PLACES.index(staged[name]["type"]))
    return [_row(node, name, staged[name], order.index(name)) for name in order]


def _row(node: Node, name: str, config: dict[str, Any], place: int) -> dict[str, Any]:
    row = {"iface": name, **config, "priority": place + _FIRST}
    if config["type"] == "eth":
        row["exists"] = 1
    if name in node.interfaces:
        row["active"] = 1
    return row


def _changes(node: Node) -> str:
    """Return the difference that PVE shows between what is active and what is staged."""
    if node.staged is None:
        return ""
    old, new = (_file(each).splitlines(keepends=True) for each in (node.interfaces, node.staged))
    names = "/etc/network/interfaces", "/etc/network/interfaces.new"
    return "".join(difflib.unified_diff(old, new, *names))


def _file(interfaces: Interfaces) -> str:
    return "\n".join(_stanza(name, interfaces[name]) for name in sorted(interfaces))


def _stanza(name: str, config: dict[str, Any]) -> str:
    lines = [f"iface {name} inet {config['method']}"]
    lines += [
        f"\t{key.replace('_', '-')} {value}"
        for key, value in sorted(config.items())
        if key not in (*_MADE, "comments", "cidr", "cidr6")
    ]
    comments = str(config.get("comments", "")).splitlines()
    return "\n".join([*lines, *(f"#{line}" for line in comments)]) + "\n"


def _list(ask: Ask) -> Answer:
    node = ask.world.nodes[ask.node]
    wanted = str(ask.args.get("type", ""))
    bridges = {"any_bridge": "bridge", "any_local_bridge": "bridge", "include_sdn": ""}
    kind = bridges.get(wanted, wanted)
    rows = [row for row in _rows(node) if kind in ("", row["type"])]
    if wanted in ("any_bridge", "include_sdn", "vnet"):
        rows += local_vnets(ask)
    changes = _changes(node)
    return Answer(rows, {"changes": changes} if changes else {})


def _get(ask: Ask) -> dict[str, Any]:
    for row in _rows(ask.world.nodes[ask.node]):
        if row.pop("iface") == ask.args["iface"]:
            return row
    raise rejected({"iface": "interface does not exist"})


# Writing -------------------------------------------------------------------------------------


def _staged(node: Node) -> Interfaces:
    """Return a copy of what is staged, to be changed and put back."""
    return copy.deepcopy(node.interfaces if node.staged is None else node.staged)


def _given(ask: Ask) -> dict[str, Any]:
    """Return the settings of a request, with addresses as PVE keeps them."""
    given = {k: v for k, v in ask.args.items() if k not in ("node", "iface", "delete")}
    if str(given["type"]).startswith("OVS"):
        raise failed("Open VSwitch is not installed (need package 'openvswitch-switch')")
    for six in ("", "6"):
        cidr, address, mask = f"cidr{six}", f"address{six}", f"netmask{six}"
        if cidr in given:
            for name in (address, mask):
                if name in given:
                    raise rejected({name: f"{name} conflicts with {cidr}"})
            given[address], _, given[mask] = given[cidr].partition("/")
        elif address in given:
            network = ipaddress.ip_network(f"{given[address]}/{given[mask]}", strict=False)
            given[mask] = str(network.prefixlen)
            given[cidr] = f"{given[address]}/{network.prefixlen}"
        # A PUT without the address makes the interface `manual`, whatever it was before.
        given[f"method{six}"] = "static" if address in given else "manual"
    families = [f for f, a in (("inet", "address"), ("inet6", "address6")) if a in given]
    given["families"] = families or ["inet"]
    return given


def _check(interfaces: Interfaces, iface: str, given: dict[str, Any]) -> None:
    others = {name: config for name, config in interfaces.items() if name != iface}
    for key, what in (("gateway", "Default gateway"), ("gateway6", "Default ipv6 gateway")):
        for name, config in others.items():
            if given.get(key) and config.get(key):
                raise rejected({key: f"{what} already exists on interface '{name}'."})
    for key in _PORTS:
        for name, config in others.items():
            used = set(ports(config)) & set(ports({key: given.get(key, "")}))
            if used:
                raise rejected({key: f"{min(used)} already exists on interface '{name}'."})


def ports(config: dict[str, Any]) -> list[str]:
    """Return the interfaces that a bridge or a bond holds."""
    return [port for key in _PORTS for port in split_list(str(config.get(key) or ""))]


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as PVE reads it back from the file."""
    kept = {k: v for k, v in config.items() if v not in ("", 0)}
    if kept.get("comments"):
        kept["comments"] = str(kept["comments"]).rstrip("\n") + "\n"
    if kept["type"] == "bridge":
        kept = {"bridge_ports": "", "bridge_stp": "off", "bridge_fd": "0"} | kept
    if kept.get("bridge_vlan_aware"):
        kept.setdefault("bridge_vids", "2-4094")
    else:
        kept.pop("bridge_vids", None)
    return kept


def _create(ask: Ask) -> None:
    node, iface = ask.world.nodes[ask.node], ask.args["iface"]
    interfaces, given = _staged(node), _given(ask)
    if iface in interfaces:
        raise rejected({"iface": "interface already exists"})
    _check(interfaces, iface, given)
    interfaces[iface] = _kept(given)
    node.staged = interfaces


def _update(ask: Ask) -> None:
    node, iface = ask.world.nodes[ask.node], ask.args["iface"]
    interfaces, given = _staged(node), _given(ask)
    if iface not in interfaces:
        raise rejected({"iface": "interface does not exist"})
    _check(interfaces, iface, given)
    gone = set(split_list(ask.args.get("delete", "")))
    for six in ("", "6"):
        if gone & {f"cidr{six}", f"address{six}"}:
            gone |= {f"cidr{six}", f"address{six}", f"netmask{six}"}
    left = {k: v for k, v in interfaces[iface].items() if k not in gone}
    interfaces[iface] = _kept(left | given)
    node.staged = interfaces


def _delete(ask: Ask) -> None:
    node, iface = ask.world.nodes[ask.node], ask.args["iface"]
    interfaces = _staged(node)
    if iface not in interfaces:
        raise rejected({"iface": "interface does not exist"})
    gone = interfaces.pop(iface)
    if gone["type"] == "eth":  # a card is there whether or not the file has it
        interfaces[iface] = {
            "type": "eth", "method": "manual", "method6": "manual", "families": ["inet"],
        }  # fmt: skip
    node.staged = interfaces


def _revert(ask: Ask) -> None:
    ask.world.nodes[ask.node].staged = None


def _reload(ask: Ask) -> str:
    node = ask.world.nodes[ask.node]
    work = Work(node.take_over, lines=("ifreload -a",), seconds=4)
    return ask.world.tasks.start(ask.node, "srvreload", id="networking", user=ask.who.id, work=work)


# Declarations --------------------------------------------------------------------------------

_KINDS = ("bridge", "bond", "eth", "alias", "vlan", "fabric", "OVSBridge", "OVSBond", "OVSPort",
          "OVSIntPort", "vnet")  # fmt: skip
_FILTERS = (*_KINDS, "any_bridge", "any_local_bridge", "include_sdn")
_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb",
          "balance-alb", "balance-slb", "lacp-balance-slb", "lacp-balance-tcp")  # fmt: skip
_LIST = "pve-iface-list"
_IFACE = PATH_PARAMETERS["iface"]


def _settings() -> tuple[Parameter, ...]:
    return (
        choice("type", "Kind of interface.", (*_KINDS, "unknown"), optional=False),
        text("address", "IPv4 address.", format="ipv4", requires="netmask"),
        text("netmask", "IPv4 network mask.", format="ipv4mask", requires="address"),
        text("cidr", "IPv4 address with its network.", format="CIDRv4"),
        text("gateway", "IPv4 gateway.", format="ipv4"),
        text("address6", "IPv6 address.", format="ipv6", requires="netmask6"),
        whole("netmask6", "IPv6 prefix.", minimum=0, maximum=128, requires="address6"),
        text("cidr6", "IPv6 address with its network.", format="CIDRv6"),
        text("gateway6", "IPv6 gateway.", format="ipv6"),
        flag("autostart", "Up at boot."),
        text("comments", "Notes."),
        text("comments6", "Notes."),
        whole("mtu", "Largest packet.", minimum=1280, maximum=65520),
        text("bridge_ports", "Interfaces in the bridge.", format=_LIST),
        text("bridge_vids", "VLANs of the bridge.", format="pve-vlan-id-or-range-list"),
        flag("bridge_vlan_aware", "Whether the bridge knows VLANs."),
        text("slaves", "Interfaces in the bond.", format=_LIST),
        choice("bond_mode", "How a bond sends.", _MODES),
        choice("bond_xmit_hash_policy", "How a bond chooses.", ("layer2", "layer2+3", "layer3+4")),
        text("bond-primary", "The interface that a bond prefers.", format="pve-iface"),
        whole("vlan-id", "VLAN.", minimum=1, maximum=4094),
        text("vlan-raw-device", "Interface below the VLAN.", format="pve-iface"),
        text("ovs_bonds", "Open vSwitch.", format=_LIST),
        text("ovs_ports", "Open vSwitch.", format=_LIST),
        text("ovs_bridge", "Open vSwitch.", format="pve-iface"),
        text("ovs_options", "Open vSwitch.", max_length=1024),
        whole("ovs_tag", "Open vSwitch.", minimum=1, maximum=4094),
    )


_PATH = "/nodes/{node}/network"
_MODIFY = perm("/nodes/{node}", "Sys.Modify")
_GONE = text("delete", "Settings to remove.", format="pve-configid-list")

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", _PATH, _list, about="Interfaces of a node.", returns=index("iface"),
             parameters=(choice("type", "Of one kind.", _FILTERS),)),
    endpoint("POST", _PATH, _create, about="Stage a new interface.", permissions=_MODIFY,
             protected=True, parameters=(NODE, _IFACE, *_settings())),
    endpoint("PUT", _PATH, _reload, about="Make what is staged count.", permissions=_MODIFY,
             protected=True, returns="string",
             parameters=(flag("regenerate-frr", "The routing daemon too.", default=0),)),
    endpoint("DELETE", _PATH, _revert, about="Throw away what is staged.", permissions=_MODIFY,
             protected=True),
    endpoint("GET", f"{_PATH}/{{iface}}", _get, about="An interface, as it is staged.",
             permissions=perm("/nodes/{node}", "Sys.Audit"), returns="object"),
    endpoint("PUT", f"{_PATH}/{{iface}}", _update, about="Stage a change of an interface.",
             permissions=_MODIFY, protected=True, parameters=(*_settings(), _GONE)),
    endpoint("DELETE", f"{_PATH}/{{iface}}", _delete, about="Stage the removal of an interface.",
             permissions=_MODIFY, protected=True),
)  # fmt: skip
