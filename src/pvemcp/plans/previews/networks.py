"""Previews of networks: which guests and addresses hang on an interface, a vnet, a reload."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pvemcp.call import Intent, Target
from pvemcp.plans.preview import Change, Preview
from pvemcp.plans.previews.bridges import Row, Sdn, Users, sdn, stack, users, zone_of
from pvemcp.plans.previews.looking import line, look, value
from pvemcp.plans.previews.plain import plain
from pvemcp.plans.previews.things import lockout, thing
from pvemcp.pve.client import Pve

LINES = 60
"""Lines of a difference that are shown."""
NODES = 16
"""Nodes that are asked what they have staged."""
_VNETS = 16
"""Vnets that are asked for subnets that wait."""
_CHANGED = re.compile(r"[-+](?![-+]{2} )\s*\S")
_NO_SETTINGS = ("pending", "state", "digest", "type")


async def interface(pve: Pve, intent: Intent) -> Preview:
    """Show an interface that is made, changed or deleted, and all that stands on it."""
    found = await lockout(pve, intent)
    node, iface = intent.node, str(intent.params.get("iface"))
    seen = await look({"interfaces": pve.get(f"/nodes/{node}/network")})
    on = stack(seen.rows("interfaces"), iface)
    zones = await sdn(pve)
    using = await users(pve, {*on.names, *zones.on_bridges(on.names)}, node)
    facts = [("stands on it", ", ".join(on.above))] if on.above else []
    if on.addresses:
        facts.append(("the node's own addresses", ", ".join(on.addresses)))
    gone = intent.verb == "DELETE"
    return replace(
        found,
        changes=(*found.changes, *_becomes_manual(found, intent)),
        facts=(*found.facts, *facts, *using.facts()),
        lost=(*found.lost, *(_cut_off(using, "after the next reload") if gone else ())),
        unseen=(*found.unseen, *seen.unseen, *zones.unseen, *using.unseen),
        state={**found.state, "guests": list(using.rows)},
        users=using.targets() if gone else (),
    )


def _becomes_manual(found: Preview, intent: Intent) -> list[Change]:
    """PVE sets the method by the address that comes with a PUT, not by the one that is there."""
    if intent.verb != "PUT":
        return []
    return [
        Change(f"method{six}", "static", "manual (no address is given again)")
        for six in ("", "6")
        if found.state.get(f"method{six}") == "static"
        and not intent.params.get(f"cidr{six}")
        and not intent.params.get(f"address{six}")
    ]


def _cut_off(using: Users, when: str) -> list[str]:
    count = len(using.rows)
    if not count:
        return []
    return [f"{count} guests lose a network {when}; {using.running} of them run"]


async def reload(pve: Pve, intent: Intent) -> Preview:
    """Show what a reload makes count, and which guests are on the node's network."""
    base = await lockout(pve, intent)
    staged, unseen = await _staged(pve, [intent.node])
    using = await users(pve, None, intent.node)
    return replace(
        base,
        facts=(*base.facts, *(staged or [("staged", "nothing")]), *using.facts()),
        unseen=(*base.unseen, *unseen, *using.unseen),
        state={"staged": staged, "guests": list(using.rows)},
        users=using.targets(),
    )


async def revert(pve: Pve, intent: Intent) -> Preview:
    """Show what is staged, and thrown away."""
    base = await thing(pve, intent)
    staged, unseen = await _staged(pve, [intent.node])
    return replace(
        base,
        facts=(*base.facts, *(staged or [("staged", "nothing")])),
        lost=("the staged changes above",) if staged else (),
        unseen=(*base.unseen, *unseen),
        state={"staged": staged},
    )


async def _staged(pve: Pve, nodes: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return PVE's difference between active and staged interfaces of nodes, as facts.

    And what was not seen: of more than NODES nodes the first are asked.
    """
    some = nodes[:NODES]
    asked = {f"staged on {n}": pve.request("GET", f"/nodes/{n}/network") for n in some}
    seen = await look(asked)
    more = len(nodes) - len(some)
    unasked = [f"what {more} more nodes have staged: only {NODES} are asked"] * (more > 0)
    facts = [
        (name, _diff(seen[name].changes))
        for name in asked
        if seen[name] is not None and seen[name].changes
    ]
    return facts, [*seen.unseen, *unasked]


def _diff(text: str) -> str:
    lines = [line(each) for each in text.splitlines() if _CHANGED.match(each)]
    more = [f"and {len(lines) - LINES} more lines"] * (len(lines) > LINES)
    return "".join(f"\n      {each}" for each in [*lines[:LINES], *more])


# SDN -----------------------------------------------------------------------------------------


async def sdn_object(pve: Pve, intent: Intent) -> Preview:
    """Show a zone, vnet, subnet or controller that is written, and which guests use it."""
    found = await lockout(pve, intent)
    zones = await sdn(pve)
    using = await users(pve, _touched(zones, intent))
    gone = intent.verb == "DELETE" and not intent.template.endswith("{subnet}")
    return replace(
        found,
        target=Target("sdn", intent.path, name=intent.path.rpartition("/")[2]),
        facts=(*found.facts, *using.facts()),
        lost=(*found.lost, *(_cut_off(using, "once SDN is applied") if gone else ())),
        unseen=(*found.unseen, *zones.unseen, *using.unseen),
        state={**found.state, "guests": list(using.rows)},
        users=using.targets() if gone else (),
    )


def _touched(zones: Sdn, intent: Intent) -> set[str]:
    """Return the vnets that a write is about."""
    said = intent.params
    if intent.verb == "POST" and "{vnet}" not in intent.template:
        return set()
    if "{vnet}" in intent.template:
        return {str(said.get("vnet"))}
    if controller := said.get("controller"):
        by = {str(z["zone"]) for z in zones.zones if z.get("controller") == controller}
        return zones.in_zones(by)
    return zones.in_zones({str(said.get("zone"))})


async def apply(pve: Pve, intent: Intent) -> Preview:
    """Show what waits to be applied, what nodes have staged, and which guests it is about.

    Each node's reload takes over its staged interfaces, too (read in PVE's source).
    """
    base = await plain(pve, intent)
    found = await sdn(pve, pending=True)
    subnets, unseen = await _subnets(pve, found)
    changes = _waiting(found, subnets)
    using = await users(pve, _affected(found, subnets))
    staged, more = await _staged(pve, await _nodes(pve))
    beware = ("beware", "a wrong one can cut guests and nodes off")
    return replace(
        base,
        target=Target("sdn", intent.path),
        changes=tuple(changes),
        facts=(*base.facts, beware, *staged, *using.facts()),
        unseen=(*base.unseen, *found.unseen, *unseen, *more, *using.unseen),
        state={"waits": [str(c) for c in changes], "staged": staged, "guests": list(using.rows)},
        users=using.targets(),
    )


async def rollback(pve: Pve, intent: Intent) -> Preview:
    """Show what waits to be applied, and is thrown away."""
    base = await plain(pve, intent)
    found = await sdn(pve, pending=True)
    subnets, unseen = await _subnets(pve, found)
    changes = _waiting(found, subnets)
    return replace(
        base,
        target=Target("sdn", intent.path),
        lost=tuple(f"what waits: {change}" for change in changes),
        unseen=(*base.unseen, *found.unseen, *unseen),
        state={"waits": [str(change) for change in changes]},
    )


async def _nodes(pve: Pve) -> list[str]:
    rows = await pve.resources()
    online = [r for r in rows if r.get("type") == "node" and r.get("status") == "online"]
    return sorted(str(row["node"]) for row in online)


async def _subnets(pve: Pve, found: Sdn) -> tuple[list[Row], list[str]]:
    names = sorted(str(vnet["vnet"]) for vnet in found.vnets if vnet.get("state") != "deleted")
    path = "/cluster/sdn/vnets/{vnet}/subnets"
    seen = await look({n: pve.get(path, vnet=n, pending=1) for n in names[:_VNETS]})
    more = len(names) - _VNETS
    unseen = [f"subnets of {more} more vnets: only those of {_VNETS} are read"] * (more > 0)
    rows: list[Row] = [{"vnet": name, **row} for name in names[:_VNETS] for row in seen.rows(name)]
    return rows, [*seen.unseen, *unseen]


def _waiting(found: Sdn, subnets: Sequence[Row]) -> list[Change]:
    """Write everything that waits to be applied."""
    kinds = {"controller": found.controllers, "zone": found.zones, "vnet": found.vnets}
    looked = {**kinds, "subnet": subnets}
    return [change for kind, rows in looked.items() for row in rows for change in _said(kind, row)]


def _said(kind: str, row: Row) -> list[Change]:
    """Write one object that waits: made, removed, or each setting from what to what."""
    name, waits = f"{kind} {line(row.get(kind), 60)}", row.get("pending") or {}
    match row.get("state"):
        case "new":
            return [Change(name, None, _settings(kind, waits))]
        case "deleted":
            return [Change(name, _settings(kind, row), None)]
        case "changed":
            return [_changed(name, row, key, waits[key]) for key in sorted(waits)]
    return []


def _changed(name: str, row: Row, key: str, new: Any) -> Change:
    old = None if row.get(key) is None else value(key, row[key])
    return Change(f"{name} {key}", old, None if new == "deleted" else value(key, new))


def _settings(kind: str, row: Mapping[str, Any]) -> str:
    hidden = (*_NO_SETTINGS, kind)
    said = (f"{k}={value(k, v)}" for k, v in sorted(row.items()) if k not in hidden)
    return " ".join(said) or "(no settings)"


def _affected(found: Sdn, subnets: Sequence[Row]) -> set[str]:
    """Return the vnets that an apply changes: their own settings, or what they lie on."""
    changed = {str(c["controller"]) for c in found.controllers if c.get("state")}
    zones = {
        str(zone["zone"])
        for zone in found.zones
        if zone.get("state") or zone.get("controller") in changed
    }
    own = {str(vnet["vnet"]) for vnet in found.vnets if vnet.get("state")}
    return {
        *own,
        *(str(v["vnet"]) for v in found.vnets if zone_of(v) in zones),
        *(str(subnet["vnet"]) for subnet in subnets if subnet.get("state")),
    }
