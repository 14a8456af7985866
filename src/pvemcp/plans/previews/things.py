"""Previews of what is no guest: whatever can be read where it is written; nodes; storages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pvemcp.call import Effect, Intent, Target
from pvemcp.errors import Fault
from pvemcp.journal.subject import flat
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.diff import config_changes
from pvemcp.plans.previews.guest import Guest, destroy
from pvemcp.plans.previews.looking import GUESTS, gaps, line, look, value
from pvemcp.plans.previews.plain import plain
from pvemcp.plans.previews.stores import held, owners
from pvemcp.plans.previews.volumes import backup_line
from pvemcp.pve.client import Pve

KINDS = {"storage": "storage", "pools": "pool", "firewall": "firewall", "network": "network"}
_LOCKS_OUT = "a wrong one can cut everybody off this host, the service too"
SHOWN = 12
"""Keys or entries of a thing that is deleted that are named."""


_REPLACED = frozenset(("/nodes/{node}/hosts",))
"""What a POST writes anew as a whole."""


async def thing(pve: Pve, intent: Intent) -> Preview:
    """Show what stands there now, and what is put in its place: PVE's GET of the same path."""
    base = replace(await plain(pve, intent), target=_target(intent))
    given = flat(_given(intent))
    if not await _readable(pve, intent):
        return replace(base, changes=tuple(config_changes({}, given)[0]))
    seen = await look({"what is there now": pve.get(intent.path)})
    base = replace(base, unseen=(*base.unseen, *seen.unseen))
    now = seen["what is there now"]
    gone = intent.verb == "DELETE"
    if isinstance(now, list) and gone and "/firewall/" in intent.template:
        return _emptied(base, intent, now)
    if not isinstance(now, Mapping):
        return replace(base, changes=tuple(config_changes({}, given)[0]))
    plainly = {k: v for k, v in flat(now).items() if not isinstance(v, list)}
    base = replace(base, state={k: str(v) for k, v in plainly.items()})
    if not gone:
        return replace(base, changes=tuple(config_changes(plainly, given)[0]))
    facts = [(k, value(k, v)) for k, v in sorted(plainly.items()) if k != "digest"][:SHOWN]
    return replace(base, facts=(*base.facts, *facts), lost=_all_above(intent))


def _emptied(base: Preview, intent: Intent, rows: Sequence[Mapping[str, Any]]) -> Preview:
    """Show what a list holds that is deleted: addresses of a set, rules of a group."""
    held = [
        " ".join(f"{k}={value(k, row[k])}" for k in sorted(row) if k not in ("digest", "pos"))
        for row in rows
    ]
    more = [("and", f"{len(held) - SHOWN} more")] if len(held) > SHOWN else []
    return replace(
        base,
        facts=(*base.facts, *(("holds", one) for one in held[:SHOWN]), *more),
        lost=_all_above(intent) if held else base.lost,
        state={"holds": held},
    )


def _all_above(intent: Intent) -> tuple[str, ...]:
    return (f"{line(intent.path)} as it is above",)


async def _readable(pve: Pve, intent: Intent) -> bool:
    if intent.verb == "POST" and intent.template not in _REPLACED:
        return False
    try:
        match = (await pve.description()).match("GET", intent.path)
    except Fault:
        return False
    return match.method.path == intent.template


def _given(intent: Intent) -> Mapping[str, Any]:
    return {k: v for k, v in intent.params.items() if f"{{{k}}}" not in intent.template}


def _target(intent: Intent) -> Target:
    parts = intent.path.strip("/").split("/")
    found = next((KINDS[part] for part in reversed(parts) if part in KINDS), "other")
    return Target(found, intent.path, node=intent.node)


async def lockout(pve: Pve, intent: Intent) -> Preview:
    """Show a firewall or network write, with what it may do to everybody."""
    found = await thing(pve, intent)
    found = replace(found, facts=(*found.facts, ("beware", _LOCKS_OUT)))
    if intent.verb != "POST" or intent.template != "/cluster/firewall/ipset/{name}":
        return found
    name = str(intent.params.get("name"))
    drops, unseen = await _drops(pve, name)
    lost = tuple(f"what comes from or goes to it: {rule} drops the set" for rule in drops)
    closed = replace(found.target, protected=bool(drops or unseen))  # so that a person is asked
    return replace(found, target=closed, lost=lost, unseen=(*found.unseen, *unseen))


async def _drops(pve: Pve, name: str) -> tuple[list[str], list[str]]:
    """Return the rules for all hosts that drop what is in a set, and what could not be seen."""
    base = "/cluster/firewall"
    groups = await look({"groups": pve.get(f"{base}/groups")})
    paths = [f"{base}/rules"]
    paths += [f"{base}/groups/{row['group']}" for row in groups.rows("groups")]
    seen = await look({path: pve.get(path) for path in paths})
    words = re.compile(rf"\+(?:dc/)?{re.escape(name)}", re.IGNORECASE)
    drops = [
        f"rule {row.get('pos')} of {path.rsplit('/', 1)[1]}"
        for path in paths
        for row in seen.rows(path)
        if row.get("action") in ("DROP", "REJECT")
        and any(words.fullmatch(str(row.get(side) or "")) for side in ("source", "dest"))
    ]
    return drops, [*groups.unseen, *seen.unseen]


async def node_power(pve: Pve, intent: Intent) -> Preview:
    """Show which guests go down, or move, with their node."""
    node, command = intent.node, str(intent.params.get("command"))
    rows = await pve.resources()
    guests = [r for r in rows if r.get("type") in ("qemu", "lxc") and r.get("node") == node]
    up = [r for r in guests if r.get("status") == "running"]
    moves = [r for r in up if r.get("hastate")]
    stay = [r for r in up if not r.get("hastate")]
    facts = [("running guests", str(len(up)))]
    if moves:
        facts.append(("HA-managed, which HA may move", _named(moves)))
    return Preview(
        intent,
        Target("node", node, name=node, node=node),
        does=f"takes the node {node} down ({line(command, 20)})",
        facts=tuple(facts),
        lost=(f"these guests go down: {_named(stay)}",) if stay else (),
        unseen=tuple(await gaps(pve, ("/vms", "VM.Audit"))),
        state={"running": sorted(int(r["vmid"]) for r in up)},
        confirm=node,
    )


def _named(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [f"{r['vmid']} {line(r.get('name', ''), 40)}".strip() for r in rows[:GUESTS]]
    more = len(rows) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


async def storage(pve: Pve, intent: Intent) -> Preview:
    """Show a storage's own settings, which guests have volumes on it, and which jobs use it."""
    found = await thing(pve, intent)
    name = str(intent.params.get("storage"))
    lies, seen = await asyncio.gather(
        held(pve, {name}), look({"backup jobs": pve.get("/cluster/backup")})
    )
    backups, volumes = lies.backups, lies.volumes
    users, saved = owners(volumes), owners(backups)
    jobs = [str(j.get("id")) for j in seen.rows("backup jobs") if j.get("storage") == name]
    facts = [
        ("volumes", f"{len(volumes) + len(backups)}, of them {len(backups)} backups"),
        ("guests with volumes there", lies.listed(users)),
    ]
    if saved:
        facts.append(("guests with backups there", lies.listed(saved)))
    if jobs:
        facts.append(("backup jobs to it", line(", ".join(jobs))))
    gone = intent.verb == "DELETE"
    away = gone or str(intent.params.get("disable")) == "1"
    lost = [
        f"{len(whose)} guest{'s lose' if len(whose) > 1 else ' loses'} sight of their {what}"
        for what, whose in (("volumes", users), ("backups", saved))
        if away and whose
    ]
    return replace(
        found,
        target=Target("storage", name, name=name),
        facts=(*found.facts, *facts),
        lost=tuple(lost),
        unseen=(*found.unseen, *seen.unseen, *lies.unseen),
        state={**found.state, "guests": lies.guests},
        confirm=name if gone else "",
        users=lies.users if away else (),
    )


_IN_PLACE = {"purge": 1}
"""A restore leaves HA and replication as they are."""


async def make(pve: Pve, intent: Intent) -> Preview:
    """Show a guest that is made; with `force`, the one that it replaces."""
    vmid, kind = str(intent.params.get("vmid")), intent.template.rsplit("/", 1)[1]
    rows = await pve.resources()
    row = next((r for r in rows if str(r.get("vmid")) == vmid), {})
    changes, _ = config_changes({}, _given(intent))
    facts = []
    given = intent.params.get("archive") or (  # of a container it stands where a template does
        intent.params.get("ostemplate") if str(intent.params.get("restore")) == "1" else ""
    )
    if archive := str(given or ""):
        facts.append(("from", await _archive(pve, intent.node, archive)))
    if not row:
        target = Target("guest", f"{kind}/{vmid}", vmid=int(vmid or 0), node=intent.node)
        return Preview(
            intent, target, does=f"makes {kind}/{vmid}", changes=tuple(changes), facts=tuple(facts),
        )  # fmt: skip
    guest = Guest(
        f"/nodes/{row['node']}/{row['type']}/{vmid}", row["type"], int(vmid), row["node"], row
    )
    template = f"/nodes/{{node}}/{guest.kind}/{{vmid}}"
    gone = await destroy(
        pve, Intent("DELETE", guest.path, Effect.DESTROY, template, _IN_PLACE, node=guest.node)
    )
    return replace(
        gone,
        intent=intent,
        does=f"replaces {guest.label} and its disks",
        changes=tuple(changes),
        facts=(*facts, *gone.facts),
        undo="",
    )


async def _archive(pve: Pve, node: str, archive: str) -> str:
    name = archive.partition(":")[0]
    seen = await look(
        {"archive": pve.get(f"/nodes/{node}/storage/{name}/content", content="backup")}
    )
    row = next((r for r in seen.rows("archive") if r.get("volid") == archive), None)
    return backup_line([row]) if row else f"{line(archive)}, not seen"
