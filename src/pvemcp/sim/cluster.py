"""The cluster as a whole: resources, status, tasks, the next free id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pvemcp.sim.api import encode
from pvemcp.sim.declare import (
    ANY_USER,
    VMID_LIMITS,
    Answer,
    Ask,
    Endpoint,
    choice,
    endpoint,
    index,
    listing,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.guests import resource_row
from pvemcp.sim.nodes import node_row
from pvemcp.sim.refusal import rejected
from pvemcp.sim.sections import written
from pvemcp.sim.tasklist import finished_row, may_see
from pvemcp.sim.usage import guest_usage, max_cpus, max_memory, storage_on, storage_used
from pvemcp.sim.world import Pool, Storage, World

_INDEX = (
    "acme", "backup", "backup-info", "bulk-action", "ceph", "config", "firewall", "ha", "jobs",
    "log", "mapping", "metrics", "notifications", "nextid", "options", "replication",
    "resources", "status", "tasks", "sdn",
)  # fmt: skip
_REFRESH = 10
"""Seconds between two looks of pvestatd: what is measured stays the same in between."""
_LARGE = 150
"""Guests from which on the list is kept until the world changes: see World.touch."""
_RECENT = 25
"""Tasks that a node broadcasts."""


def _resources(ask: Ask) -> Answer:
    world, kind = ask.world, ask.args.get("type", "")
    key = ("resources", ask.who.id, kind, world.clock.seconds() // _REFRESH)
    # Direct changes of a small world by a test are seen at once; others are kept encoded.
    if len(world.guests) < _LARGE:
        return Answer(list(_rows(ask, kind)))
    if key not in world.cached:
        world.cached[key] = encode({"data": list(_rows(ask, kind))})
    return Answer(None, encoded=world.cached[key])


def _rows(ask: Ask, kind: str) -> Iterator[dict[str, Any]]:
    for name, rows in _KINDS.items():
        if kind in {"", name}:
            yield from rows(ask)


def _pools(ask: Ask) -> Iterator[dict[str, Any]]:
    for pool in ask.world.pools.values():
        if ask.may(f"/pool/{pool.poolid}", "Pool.Audit"):
            yield _pool_row(ask.world, pool)


def _guests(ask: Ask) -> Iterator[dict[str, Any]]:
    visible = {name for name in ask.world.pools if ask.may(f"/pool/{name}", "Pool.Audit")}
    for guest in ask.world.guests.values():
        if ask.may(f"/vms/{guest.vmid}", "VM.Audit"):
            pool = ask.world.pool_of(guest.vmid)
            yield resource_row(ask.world, guest, pool=pool if pool in visible else "")


def _nodes(ask: Ask) -> Iterator[dict[str, Any]]:
    for name in ask.world.nodes:
        row = node_row(ask, name)
        row.pop("ssl_fingerprint", None)
        if row["status"] == "online":
            row |= {"cgroup-mode": 2, "hastate": "online"}
        yield row


def _storages(ask: Ask) -> Iterator[dict[str, Any]]:
    for storage in ask.world.storages.values():
        if ask.may(f"/storage/{storage.storage}", "Datastore.Audit", "Datastore.AllocateSpace"):
            yield from storage_rows(ask.world, storage)


def _zones(ask: Ask) -> Iterator[dict[str, Any]]:
    if ask.may("/sdn/zones/localnetwork", "SDN.Audit", "SDN.Use"):
        yield from (_zone_row(name) for name in ask.world.nodes)


_KINDS: Mapping[str, Callable[[Ask], Iterator[dict[str, Any]]]] = {
    "pool": _pools,
    "vm": _guests,
    "node": _nodes,
    "storage": _storages,
    "sdn": _zones,
}


def _pool_row(world: World, pool: Pool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"/pool/{pool.poolid}", "pool": pool.poolid, "type": "pool"}
    running = [world.guests[vmid] for vmid in pool.vms if world.guests[vmid].running]
    if running:
        uses = [guest_usage(world, guest) for guest in running]
        row["maxcpu"] = cpus = sum(max_cpus(world, guest) for guest in running)
        row["maxmem"] = sum(max_memory(guest) for guest in running)
        used = zip(running, uses, strict=True)
        row["cpu"] = sum(use["cpu"] * max_cpus(world, guest) for guest, use in used) / cpus
        row["mem"] = sum(use["mem"] for use in uses)
        row["uptime"] = max(use["uptime"] for use in uses)
    return row


def storage_rows(world: World, storage: Storage) -> Iterator[dict[str, Any]]:
    """Return a storage as /cluster/resources lists it: once for each node."""
    for node in world.nodes:
        if not storage_on(storage, node) or storage.disabled:
            continue
        row: dict[str, Any] = {
            "id": f"storage/{node}/{storage.storage}",
            "type": "storage",
            "storage": storage.storage,
            "node": node,
            "plugintype": storage.type,
            "content": ",".join(storage.content),
            "shared": int(storage.shared),
            "status": "available" if world.online(node) else "unknown",
        }
        if world.online(node):
            row |= {"disk": storage_used(storage), "maxdisk": storage.total}
        yield row


def _zone_row(node: str) -> dict[str, Any]:
    return {
        "id": f"network/{node}/zone/localnetwork",
        "network": "localnetwork",
        "network-type": "zone",
        "node": node,
        "status": "ok",
        "type": "network",
    }


def _status(ask: Ask) -> list[dict[str, Any]]:
    world = ask.world
    rows: list[dict[str, Any]] = [
        {
            "id": f"node/{node.name}",
            "type": "node",
            "name": node.name,
            "nodeid": node.nodeid if len(world.nodes) > 1 else 0,
            "ip": node.ip,
            "level": "",
            "local": int(node is world.local),
            "online": int(world.online(node.name)),
        }
        for node in world.nodes.values()
    ]
    if len(world.nodes) > 1:
        quorate = not world.faults.quorum_lost
        head = {"id": "cluster", "type": "cluster", "name": world.name, "version": 7}
        rows.insert(0, {**head, "nodes": len(world.nodes), "quorate": int(quorate)})
    return rows


def _tasks(ask: Ask) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for task in ask.world.tasks.newest():
        count = seen.get(task.node, 0)
        if count < _RECENT and may_see(ask, task):
            seen[task.node] = count + 1
            rows.append(finished_row(task, brief=True))
    return rows


def _nextid(ask: Ask) -> str:
    wanted = ask.args.get("vmid")
    if wanted is None:
        return str(ask.world.next_vmid())
    if wanted in ask.world.guests:
        raise rejected({"vmid": f"VM {wanted} already exists"})
    return str(wanted)


def _options(ask: Ask) -> dict[str, Any]:
    return dict(ask.world.options)


def _set_options(ask: Ask) -> None:
    """Write datacenter.cfg, which is shown taken apart."""
    values = written(ask, ask.world.options)
    if isinstance(moves := values.get("migration"), str):
        values["migration"] = dict(each.split("=", 1) for each in moves.split(","))
    if isinstance(tags := values.get("registered-tags"), str):
        values["registered-tags"] = tags.split(";")
    ask.world.options = values


_TAG = r"(?^i:[a-z0-9_][a-z0-9_\-\+\.]*)"
_MIGRATION = {
    "network": {"type": "string", "optional": 1, "format": "CIDR"},
    "type": {"type": "string", "default_key": 1, "enum": ["secure", "insecure"]},
}

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint(
        "GET",
        "/cluster",
        listing(*_INDEX, key="name"),
        about="What there is.",
        returns=index("name"),
    ),
    endpoint(
        "GET",
        "/cluster/resources",
        _resources,
        about="Guests, nodes, storages, pools that the caller may see.",
        parameters=(choice("type", "One kind alone.", ("vm", "storage", "node", "sdn")),),
        returns=index("id", "type"),
    ),
    endpoint(
        "GET",
        "/cluster/status",
        _status,
        about="Nodes and quorum.",
        permissions=perm("/", "Sys.Audit"),
        protected=True,
        returns=index("id", "type", "name"),
    ),
    endpoint(
        "GET",
        "/cluster/tasks",
        _tasks,
        about="Recent tasks of every node.",
        returns=index("upid"),
    ),
    endpoint(
        "GET",
        "/cluster/nextid",
        _nextid,
        about="A free guest id, or a check of one.",
        parameters=(whole("vmid", "The id to check.", **VMID_LIMITS),),
        returns="integer",
    ),
    endpoint(
        "GET",
        "/cluster/options",
        _options,
        about="Settings of the data centre.",
        permissions={**perm("/", "Sys.Audit"), **ANY_USER},
        returns="object",
    ),
    endpoint(
        "PUT",
        "/cluster/options",
        _set_options,
        about="Change settings of the data centre.",
        permissions=perm("/", "Sys.Modify"),
        protected=True,
        parameters=(
            choice("console", "Which console.", ("applet", "vv", "html5", "xtermjs")),
            text("description", "Notes.", max_length=65536),
            text("http_proxy", "A proxy.", pattern="http://.*"),
            whole("max_workers", "Tasks at once.", minimum=1),
            text("migration", "How guests move.", format=_MIGRATION),
            text("registered-tags", "Tags for administrators.", pattern=f"(?:{_TAG};)*{_TAG}"),
            text("delete", "Settings to remove.", format="pve-configid-list"),
        ),
    ),
)
