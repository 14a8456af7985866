"""SDN: zones, vnets, subnets, controllers; what is written waits until it is applied.

`World.sdn` is what stands in `/etc/pve/sdn/*.cfg`, `World.sdn_running` what the last PUT
/cluster/sdn has made count (`.running-config`), both by kind and id.
"""

from __future__ import annotations

import copy
import hashlib
import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.sim.declare import Ask, Handler
from pvemcp.sim.refusal import Refusal, failed, forbidden
from pvemcp.sim.tasks import Work
from pvemcp.sim.validate import split_list
from pvemcp.sim.world import Sections, World

KINDS = {"zones": "zone", "vnets": "vnet", "subnets": "subnet", "controllers": "controller"}
"""Kinds of objects, and the parameter that names one."""
_READ = ("SDN.Audit", "SDN.Allocate")
_CONTROL = frozenset({"delete", "digest", "lock-token", "pending", "running", "release-lock"})
_REQUIRED = {"vlan": ("bridge",), "qinq": ("bridge", "tag"), "evpn": ("controller", "vrf-vxlan")}
"""What a zone of a type cannot do without."""
_TAGS = {"vlan": "vlan", "qinq": "vlan", "vxlan": "vxlan", "evpn": "vxlan"}
_ALWAYS = ("type", "vnet")
"""What pending objects show outside `pending`."""


# Who may -------------------------------------------------------------------------------------


def acl(world: World, kind: str, id_: str) -> str:
    """Return the ACL path of an object."""
    if kind == "controllers":
        return f"/sdn/controllers/{id_}"
    if kind == "zones":
        return f"/sdn/zones/{id_}"
    vnet = id_ if kind == "vnets" else str(_either(world, "subnets", id_).get("vnet"))
    return f"/sdn/zones/{_either(world, 'vnets', vnet).get('zone')}/{vnet}"


def _either(world: World, kind: str, id_: str) -> Mapping[str, Any]:
    """Return an object as it is written, or as it runs when it was deleted since."""
    return world.sdn[kind].get(id_) or world.sdn_running[kind].get(id_) or {}


def _need(ask: Ask, kind: str, id_: str, *privileges: str) -> None:
    path = acl(ask.world, kind, id_)
    if not ask.may(path, *privileges):
        raise forbidden(f"{path}, {'|'.join(privileges)}")


def zone_of(world: World, bridge: str) -> str:
    """Return the zone of a vnet that is applied; bridges of the nodes are in `localnetwork`."""
    return str(world.sdn_running["vnets"].get(bridge, {}).get("zone", "localnetwork"))


# Reading -------------------------------------------------------------------------------------


def _digest(sections: Sections, kind: str) -> str:
    content = repr(sorted((id_, sorted(one.items())) for id_, one in sections[kind].items()))
    return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()


def _objects(ask: Ask, kind: str) -> dict[str, dict[str, Any]]:
    """Return what is written, what runs, or both compared, as the caller wants it."""
    world = ask.world
    if ask.args.get("pending"):
        ids = sorted({*world.sdn[kind], *world.sdn_running[kind]})
        return {id_: _pending(world, kind, id_) for id_ in ids}
    return (world.sdn_running if ask.args.get("running") else world.sdn)[kind]


def _pending(world: World, kind: str, id_: str) -> dict[str, Any]:
    old, new = world.sdn_running[kind].get(id_, {}), world.sdn[kind].get(id_, {})
    gone = {key: "deleted" for key in old if key not in new} if new else {}
    changed = {k: v for k, v in new.items() if old.get(k) != v and k not in _ALWAYS} | gone
    row = {**old, **{k: v for k, v in new.items() if k in _ALWAYS}}
    if not old or not new or changed:
        row |= {"pending": changed, "state": _state(old, new)}
    return row


def _state(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if not old:
        return "new"
    return "changed" if new else "deleted"


def _shown(ask: Ask, kind: str, id_: str, config: Mapping[str, Any]) -> dict[str, Any]:
    row = {**config, KINDS[kind]: id_}
    if not ask.args.get("pending"):
        row["digest"] = _digest(ask.world.sdn, kind)
    if kind == "subnets":
        zone, network, mask = id_.rsplit("-", 2)
        row |= {"id": id_, "zone": zone, "network": network, "mask": mask}
        row |= {"cidr": f"{network}/{mask}", "dhcp-range": _ranges(config)}
    return row


def _ranges(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return DHCP ranges as PVE shows them: it takes texts and gives objects."""
    texts = config.get("dhcp-range", ())
    return [dict(part.split("=", 1) for part in text.split(",")) for text in texts]


def listed(kind: str) -> Handler:
    """Return the handler of a list of objects."""

    def handle(ask: Ask) -> list[dict[str, Any]]:
        wanted = ask.args.get("type")
        return [
            _shown(ask, kind, id_, one)
            for id_, one in _objects(ask, kind).items()
            if ask.may(acl(ask.world, kind, id_), *_READ) and wanted in (None, one["type"])
        ]

    return handle


def subnets(ask: Ask) -> list[dict[str, Any]]:
    """Answer with the subnets of a vnet."""
    _the(ask.world, "vnets", ask.args["vnet"])
    _need(ask, "vnets", ask.args["vnet"], *_READ)
    found = _objects(ask, "subnets")
    return [
        _shown(ask, "subnets", id_, one)
        for id_, one in found.items()
        if one["vnet"] == ask.args["vnet"]
    ]


def shown(kind: str) -> Handler:
    """Return the handler of one object."""

    def handle(ask: Ask) -> dict[str, Any]:
        id_, objects = ask.args[KINDS[kind]], _objects(ask, kind)
        if kind in ("vnets", "subnets"):
            _need(ask, kind, id_, *_READ)
        if id_ not in objects:
            raise failed(f"sdn '{id_}' does not exist")
        return _shown(ask, kind, id_, objects[id_])

    return handle


def ipams(_ask: Ask) -> list[dict[str, Any]]:
    """Answer with the one that is always there."""
    return [{"ipam": "pve", "type": "pve", "digest": hashlib.sha1(b"").hexdigest()}]  # noqa: S324


def ipam(ask: Ask) -> dict[str, Any]:
    """Answer with one of them."""
    if ask.args["ipam"] != "pve":
        raise failed(f"sdn '{ask.args['ipam']}' does not exist")
    return ipams(ask)[0]


def local_vnets(ask: Ask) -> list[dict[str, Any]]:
    """Return the vnets that run on a node, as the list of its interfaces shows them."""
    running = ask.world.sdn_running
    rows = []
    for name, vnet in running["vnets"].items():
        nodes = split_list(str(running["zones"].get(vnet["zone"], {}).get("nodes", "")))
        seen = ask.may(f"/sdn/zones/{vnet['zone']}/{name}", "SDN.Audit", "SDN.Use")
        if seen and (not nodes or ask.node in nodes):
            rows.append({"iface": name, "type": "vnet", "active": "1"})
    return rows


# Writing -------------------------------------------------------------------------------------


def _the(world: World, kind: str, id_: str) -> dict[str, Any]:
    if id_ not in world.sdn[kind]:
        raise failed(f"sdn '{id_}' does not exist")
    return world.sdn[kind][id_]


def _given(ask: Ask, kind: str) -> dict[str, Any]:
    return {k: v for k, v in ask.args.items() if k not in (*_CONTROL, KINDS[kind])}


def _no_lock(ask: Ask) -> None:
    """Nobody holds the lock of the configuration here: no token is the right one."""
    if ask.args.get("lock-token"):
        raise failed("invalid lock token provided!")


def _word(kind: str) -> str:
    return f"sdn {KINDS[kind]} object"


def created(kind: str) -> Handler:
    """Return the handler that writes a new object."""

    def handle(ask: Ask) -> None:
        _no_lock(ask)
        world, given, id_ = ask.world, _given(ask, kind), ask.args[KINDS[kind]]
        if kind == "subnets":
            _need(ask, "vnets", given["vnet"], "SDN.Allocate")
            zone = _the(world, "vnets", given["vnet"])["zone"]
            id_ = f"{zone}-{id_.replace('/', '-')}"
        given = {"type": KINDS[kind], **given}
        fails = f"create {_word(kind)} failed"
        if id_ in world.sdn[kind]:
            raise failed(f"{fails}: {_word(kind)} ID '{id_}' already defined")
        _check(world, kind, id_, given, fails)
        world.sdn[kind][id_] = given

    return handle


def updated(kind: str) -> Handler:
    """Return the handler that changes an object."""

    def handle(ask: Ask) -> None:
        _no_lock(ask)
        world, id_ = ask.world, ask.args[KINDS[kind]]
        config = _the(world, kind, id_)
        if kind in ("vnets", "subnets"):
            _need(ask, kind, id_, "SDN.Allocate")
        fails = f"update {_word(kind)} failed"
        if ask.args.get("digest") not in (None, _digest(world.sdn, kind)):
            changed = "detected modified configuration - file changed by other user? Try again."
            raise failed(f"{fails}: {changed}")
        gone = split_list(ask.args.get("delete", ""))
        new = {k: v for k, v in config.items() if k not in gone} | _given(ask, kind)
        moved = kind == "vnets" and new.get("zone") != config["zone"]
        if moved and _subnets_of(world, id_):
            raise _inside(fails, "zone", "can't change zone if subnets exist")
        _check(world, kind, id_, new, fails)
        world.sdn[kind][id_] = new

    return handle


def deleted(kind: str) -> Handler:
    """Return the handler that removes an object."""

    def handle(ask: Ask) -> None:
        _no_lock(ask)
        world, id_ = ask.world, ask.args[KINDS[kind]]
        _the(world, kind, id_)
        if kind in ("vnets", "subnets"):
            _need(ask, kind, id_, "SDN.Allocate")
        fails = f"delete {_word(kind)} failed"
        if kind == "zones":
            for name, vnet in world.sdn["vnets"].items():
                if vnet["zone"] == id_:
                    raise failed(f"{fails}: zone {id_} is used by vnet {name}")
        if kind == "vnets" and _subnets_of(world, id_):
            raise _inside(fails, "vnet", "Can't delete vnet if subnets exists")
        del world.sdn[kind][id_]

    return handle


def _inside(fails: str, name: str, problem: str) -> Refusal:
    """Return a parameter's error as it leaves the lock: in the text of a 500."""
    return failed(f"{fails}: 400 Parameter verification failed.\n{name}: {problem}")


def _subnets_of(world: World, vnet: str) -> list[str]:
    return [id_ for id_, one in world.sdn["subnets"].items() if one["vnet"] == vnet]


def _check(world: World, kind: str, id_: str, config: Mapping[str, Any], fails: str) -> None:
    if problem := _PROBLEMS[kind](world, id_, config):
        name, _, text = problem.partition(": ")
        raise _inside(fails, name, text) if text else failed(f"{fails}: {problem}")


def _zone_problem(_world: World, _id: str, config: Mapping[str, Any]) -> str:
    names = (name for name in _REQUIRED.get(config["type"], ()) if name not in config)
    return next((f"{name}: property is missing and it is not optional" for name in names), "")


def _vnet_problem(world: World, id_: str, config: Mapping[str, Any]) -> str:
    zone = world.sdn["zones"].get(str(config.get("zone")))
    if zone is None:
        return "cannot lookup undefined type!"
    if (tag := _TAGS.get(zone["type"])) and "tag" not in config:
        return f"tag: missing {tag} tag"
    if config.get("vlanaware") and _subnets_of(world, id_):
        return "vlanaware: vlanaware vnet is not compatible with subnets"
    return ""


def _subnet_problem(_world: World, id_: str, config: Mapping[str, Any]) -> str:
    gateway, cidr = config.get("gateway"), "/".join(id_.rsplit("-", 2)[1:])
    network = ipaddress.ip_network(cidr, strict=False)
    if gateway and ipaddress.ip_address(gateway) not in network:
        return f"gateway: {gateway} is not in subnet {cidr}"
    return ""


_PROBLEMS: Mapping[str, Callable[[World, str, Mapping[str, Any]], str]] = {
    "zones": _zone_problem,
    "vnets": _vnet_problem,
    "subnets": _subnet_problem,
    "controllers": lambda *_given: "",
}
"""What is wrong with an object, as `parameter: text` or as a plain text; empty: nothing."""


# Making it count -----------------------------------------------------------------------------


def applied(ask: Ask) -> str:
    """Make what is written count at once, and have all nodes reload their network in a task."""
    _no_lock(ask)
    world = ask.world
    world.sdn_running = copy.deepcopy(world.sdn)

    def reload() -> None:
        # Seen in PVE's source: each node's reload takes over its staged interfaces, too.
        for node in world.nodes.values():
            if world.online(node.name):
                node.take_over()

    lines = tuple(f"{name}: reloading network config" for name in world.nodes)
    work = Work(reload, lines=lines, seconds=5)
    return world.tasks.start(
        world.local.name, "reloadnetworkall", id="", user=ask.who.id, work=work
    )


def rolled_back(ask: Ask) -> None:
    """Throw away what is written and not applied."""
    _no_lock(ask)
    ask.world.sdn = copy.deepcopy(ask.world.sdn_running)
