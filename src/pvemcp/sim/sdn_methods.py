"""What SDN's part of the API takes: the declarations of sdn.py."""

from __future__ import annotations

from pvemcp.pve.schema import Parameter
from pvemcp.sim import sdn
from pvemcp.sim.declare import (
    Endpoint,
    Permissions,
    choice,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
    whole,
)  # fmt: skip

_SDN = "/cluster/sdn"
_TOKEN = text("lock-token", "The token of who holds the lock.")
_DIGEST = text("digest", "Refuse when the configuration has changed.", max_length=64)
_GONE = text("delete", "Settings to remove.", format="pve-configid-list", max_length=4096)
_WHICH = (
    flag("pending", "What runs, with what waits."),
    flag("running", "What runs."),
)
_ZONE_TYPES = ("evpn", "faucet", "qinq", "simple", "vlan", "vxlan")
_CONTROLLER_TYPES = ("bgp", "evpn", "faucet", "isis")
_ALL: Permissions = {"user": "all"}


def _id(name: str) -> Parameter:
    return text(name, f"Name of the {name}.", optional=False, format=f"pve-sdn-{name}-id")


def _type(types: tuple[str, ...], *, optional: bool = False) -> Parameter:
    return choice("type", "Of one type.", types, optional=optional, format="pve-configid")


_ZONE = (
    text("bridge", "Bridge that the VLANs are on."),
    text("controller", "Controller of an EVPN zone."),
    choice("dhcp", "DHCP server.", ("dnsmasq",)),
    text("dns", "DNS server."),
    text("dnszone", "DNS zone.", format="dns-name"),
    text("exitnodes", "Nodes that route outwards.", format="pve-node-list"),
    text("exitnodes-primary", "The first of them.", format="pve-node"),
    text("fabric", "Fabric below the zone.", format="pve-sdn-fabric-id"),
    text("ipam", "Which IPAM."),
    text("mac", "MAC of the gateway.", format="mac-addr"),
    text("nodes", "Nodes that have the zone.", format="pve-node-list"),
    text("peers", "Addresses of VXLAN peers.", format="ip-list"),
    text("reversedns", "DNS server for addresses."),
    text("rt-import", "Route targets.", format="pve-sdn-bgp-rt-list"),
    choice("vlan-protocol", "Of a QinQ zone.", ("802.1q", "802.1ad"), default="802.1q"),
    *(flag(name, "Whether it is so.") for name in
      ("advertise-subnets", "bridge-disable-mac-learning", "disable-arp-nd-suppression",
       "exitnodes-local-routing")),
    whole("dp-id", "Faucet."),
    whole("mtu", "Largest packet."),
    whole("tag", "Outer VLAN of a QinQ zone.", minimum=0),
    whole("vrf-vxlan", "VXLAN of the VRF.", minimum=1, maximum=16777215),
    whole("vxlan-port", "UDP port.", minimum=1, maximum=65536, default=4789),
)  # fmt: skip
_ALIAS = r"(?^i:[\(\)-_.\w\d\s]{0,256})"
_VNET = (
    text("alias", "Another name.", pattern=_ALIAS, max_length=256),
    flag("isolate-ports", "Whether guests are kept apart."),
    whole("tag", "VLAN or VXLAN.", minimum=1, maximum=16777215),
    flag("vlanaware", "Whether VLANs of guests pass."),
)
_SUBNET = (
    text("dhcp-dns-server", "DNS server for guests.", format="ip"),
    Parameter("dhcp-range", "array", optional=True, description="Ranges for guests.",
              items={"type": "string", "format": "pve-sdn-dhcp-range"}),
    text("dnszoneprefix", "Prefix in the DNS zone.", format="dns-name"),
    text("gateway", "Gateway on the vnet.", format="ip"),
    flag("snat", "Whether addresses are masqueraded."),
)  # fmt: skip
_CONTROLLER = (
    whole("asn", "Own autonomous system.", minimum=0, maximum=4294967295),
    flag("bgp-multipath-as-path-relax", "BGP."),
    flag("ebgp", "External BGP."),
    whole("ebgp-multihop", "Hops of external BGP."),
    text("fabric", "Fabric below.", format="pve-sdn-fabric-id"),
    text("isis-domain", "IS-IS."),
    text("isis-ifaces", "IS-IS.", format="pve-iface-list"),
    text("isis-net", "IS-IS.", format="pve-sdn-isis-net"),
    text("loopback", "Interface of the router's address."),
    text("node", "On which node.", format="pve-node"),
    text("peers", "Addresses of peers.", format="ip-list"),
)


def _collection(
    kind: str,
    new: tuple[Parameter, ...],
    edit: tuple[Parameter, ...],
    rights: tuple[Permissions, Permissions, Permissions],
    types: tuple[Parameter, ...] = (),
) -> list[Endpoint]:
    """Declare the five methods of a kind. `rights`: to create, to read one, to change one."""
    path, name = f"{_SDN}/{kind}", sdn.KINDS[kind]
    one, (create, read, change) = f"{path}/{{{name}}}", rights
    return [
        endpoint("GET", path, sdn.listed(kind), about=f"All {kind}.", permissions=_ALL,
                 parameters=(*types, *_WHICH), returns=index(name)),
        endpoint("POST", path, sdn.created(kind), about=f"A new {name}.", permissions=create,
                 protected=True, parameters=(_id(name), *new, *edit, _TOKEN)),
        endpoint("GET", one, sdn.shown(kind), about=f"A {name}.", permissions=read,
                 parameters=(_id(name), *_WHICH), returns="object"),
        endpoint("PUT", one, sdn.updated(kind), about=f"Change a {name}.", permissions=change,
                 protected=True, parameters=(_id(name), *edit, _GONE, _DIGEST, _TOKEN,
                                             *((text("zone", "Its zone."),)
                                               if kind == "vnets" else ()))),
        endpoint("DELETE", one, sdn.deleted(kind), about=f"Remove a {name}.", permissions=change,
                 protected=True, parameters=(_id(name), _TOKEN)),
    ]  # fmt: skip


def _subnets() -> list[Endpoint]:
    path = f"{_SDN}/vnets/{{vnet}}/subnets"
    vnet, subnet = _id("vnet"), _id("subnet")
    loose = text("vnet", "Its vnet.")
    of = text("vnet", "Its vnet.", optional=False)
    return [
        endpoint("GET", path, sdn.subnets, about="Subnets of a vnet.", permissions=_ALL,
                 parameters=(vnet, *_WHICH), returns=index("subnet")),
        endpoint("POST", path, sdn.created("subnets"), about="A new subnet.", permissions=_ALL,
                 protected=True, parameters=(of, subnet, *_SUBNET, _TOKEN,
                                             choice("type", "Kind.", ("subnet",), optional=False))),
        endpoint("GET", f"{path}/{{subnet}}", sdn.shown("subnets"), about="A subnet.",
                 permissions=_ALL, parameters=(vnet, subnet, *_WHICH), returns="object"),
        endpoint("PUT", f"{path}/{{subnet}}", sdn.updated("subnets"), about="Change a subnet.",
                 permissions=_ALL, protected=True,
                 parameters=(loose, subnet, *_SUBNET, _GONE, _DIGEST, _TOKEN)),
        endpoint("DELETE", f"{path}/{{subnet}}", sdn.deleted("subnets"), about="Remove a subnet.",
                 permissions=_ALL, protected=True, parameters=(vnet, subnet, _TOKEN)),
    ]  # fmt: skip


def _allocate(path: str) -> Permissions:
    return perm(path, "SDN.Allocate")


_RELEASE = flag("release-lock", "Give the lock back.", default=1)

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", _SDN, listing("vnets", "zones", "controllers", "ipams", "dns", "fabrics",
                                  key="id"),
             about="What there is.", permissions=perm("/sdn", "SDN.Audit"), returns=index("id")),
    endpoint("PUT", _SDN, sdn.applied, about="Make what is written count on all nodes.",
             permissions=_allocate("/sdn"), protected=True, parameters=(_TOKEN, _RELEASE),
             returns="string"),
    endpoint("POST", f"{_SDN}/rollback", sdn.rolled_back, about="Throw away what waits.",
             permissions=_allocate("/sdn"), protected=True, parameters=(_TOKEN, _RELEASE)),
    *_collection("zones", (_type(_ZONE_TYPES),), _ZONE,
                 (_allocate("/sdn/zones"), *(_allocate("/sdn/zones/{zone}"),) * 2),
                 (choice("type", "Of one type.", _ZONE_TYPES),)),
    *_collection("vnets", (text("zone", "Its zone.", optional=False),
                           choice("type", "Kind.", ("vnet",))), _VNET,
                 (_allocate("/sdn/zones/{zone}"), _ALL, _ALL)),
    *_subnets(),
    *_collection("controllers", (_type(_CONTROLLER_TYPES),), _CONTROLLER,
                 (_allocate("/sdn/controllers"), _allocate("/sdn/controllers/{controller}"),
                  _allocate("/sdn/controllers")),
                 (choice("type", "Of one type.", _CONTROLLER_TYPES),)),
    endpoint("GET", f"{_SDN}/ipams", sdn.ipams, about="All IPAMs.", permissions=_ALL,
             parameters=(choice("type", "Of one type.", ("netbox", "phpipam", "pve")),),
             returns=index("ipam")),
    endpoint("GET", f"{_SDN}/ipams/{{ipam}}", sdn.ipam, about="An IPAM.",
             permissions=_allocate("/sdn/ipams/{ipam}"), parameters=(_id("ipam"),),
             returns="object"),
)  # fmt: skip
