"""Pictures of a simulated world, before a change and after it was taken back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pvemcp.journal.book import Book
from pvemcp.journal.change import Change
from pvemcp.sim.world import Guest, Interfaces, Node, Storage, World, WorldName
from tests.scenarios.rig import Caller, Rig, rig

Write = tuple[str, str, Mapping[str, Any]]
"""Verb, path, parameters."""
_MOVES = ("started", "runs", "system", "agent_socket", "addresses")
"""Of a guest: what time and its own software change."""


def picture(world: World) -> str:
    """Return all that administrators configure, in one canonical text."""
    said = {
        "guests": {vmid: _guest(guest) for vmid, guest in world.guests.items()},
        "pools": {name: dataclasses.asdict(pool) for name, pool in world.pools.items()},
        "firewall": {key: rules for key, rules in world.firewall.items() if rules},
        "firewall options": {k: on for k, v in world.firewall_options.items() if (on := _on(v))},
        "storages": {name: _storage(one) for name, one in world.storages.items()},
        "firewall names": {k: v for k, v in _names(world).items() if any(v.values())},
        "ha": {name: dataclasses.asdict(one) for name, one in world.ha.items()},
        "ha rules": {name: _rule(rule) for name, rule in world.ha_rules.items()},
        "replication": world.replication,
        "jobs": world.backup_jobs,
        "options": world.options,
        "sections": {path: values for path, values in world.sections.items() if values},
        "networks": {n.name: (n.interfaces, _staged(n)) for n in world.nodes.values()},
        "sdn": (world.sdn, world.sdn_running),
    }
    return json.dumps(said, sort_keys=True, indent=1, default=_plain)


def _on(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a firewall's options; one that is off is one that was never switched on."""
    return {name: value for name, value in options.items() if (name, value) != ("enable", 0)}


def _names(world: World) -> dict[str, dict[str, Any]]:
    """Return aliases, address sets and groups; an empty comment is none."""
    said = {key: dataclasses.asdict(names) for key, names in world.firewall_names.items()}
    for names in said.values():
        names["comments"] = {k: v for k, v in names["comments"].items() if v}
    return said


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule; the order of its resources means nothing."""
    return {**rule, "resources": sorted(rule["resources"].split(","))}


def _staged(node: Node) -> Interfaces:
    """Return what counts after the next reload: an interfaces.new that changes nothing is none."""
    return node.interfaces if node.staged is None else node.staged


def _storage(storage: Storage) -> dict[str, Any]:
    """Return a storage; the order of what may be on it, and of its nodes, means nothing."""
    sets = {"content": sorted(storage.content), "nodes": sorted(storage.nodes)}
    return dataclasses.asdict(storage) | sets


def _guest(guest: Guest) -> dict[str, Any]:
    found = dataclasses.asdict(dataclasses.replace(guest, system=None))
    return {name: value for name, value in found.items() if name not in _MOVES}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


async def write(client: Caller, verb: str, path: str, params: Mapping[str, Any]) -> None:
    """Make one write with the strongest of the generic tools."""
    await client.call("api_destroy", method=verb, path=path, params=dict(params))


def newest(r: Rig) -> Change:
    """Return the newest row of the journal."""
    return Book(r.store).list(limit=1)[0]


def guests(r: Rig) -> tuple[int, int, int]:
    """Return a stopped VM, a running VM and a stopped container of pve1."""
    found = [g for g in r.world.guests.values() if g.node == "pve1" and not g.template]
    stopped = next(g.vmid for g in found if g.type == "qemu" and not g.running)
    running = next(g.vmid for g in found if g.type == "qemu" and g.running)
    return stopped, running, next(g.vmid for g in found if g.type == "lxc")


async def come_back(writes: list[Write], world: WorldName = "homelab") -> None:
    """Make writes, and take each back, the last one first: the world is what it was before it."""
    async with rig(world) as r, r.client() as client:
        pictures = []
        for verb, path, params in writes:
            pictures.append(picture(r.world))
            await write(client, verb, path, params)
            assert not newest(r).recipe.why_not, (path, newest(r).undo)
            assert picture(r.world) != pictures[-1], path
        for change in Book(r.store).list():
            await client.call("change_undo", change=change.id)
            assert picture(r.world) == pictures.pop(), change
