"""What there is: the overview of a cluster, and lists of guests, nodes, storages and pools."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from pvemcp.errors import Fault
from pvemcp.pve.client import Pve
from pvemcp.tools.conditions import Row
from pvemcp.tools.guests import guest_rows
from pvemcp.tools.render import duration, size, table, to_json
from pvemcp.tools.rows import Page, Query, select, write
from pvemcp.tools.tool import Format, Where, conditions, tool

Kind = Literal["guests", "nodes", "storages", "pools"]


@dataclass(frozen=True, slots=True)
class Listing:
    """How one kind is listed: its fields, those shown only where set, and who may see all."""

    key: str
    lead: tuple[str, ...]
    """What names a row: shown before the fields that a caller chose."""
    fields: tuple[str, ...]
    decisive: tuple[str, ...]
    acl: str
    privilege: str


LISTINGS: Mapping[Kind, Listing] = {
    "guests": Listing(
        key="vmid",
        lead=("vmid",),
        fields=("vmid", "type", "name", "node", "status", "cpu", "mem", "maxmem", "tags"),
        decisive=("lock", "hastate", "pool"),
        acl="/vms",
        privilege="VM.Audit",
    ),
    "nodes": Listing(
        key="node",
        lead=("node",),
        fields=("node", "status", "cpu", "maxcpu", "mem", "maxmem", "uptime"),
        decisive=("hastate",),
        acl="/nodes",
        privilege="Sys.Audit",
    ),
    "storages": Listing(
        key="id",
        lead=("storage", "node"),
        fields=("storage", "node", "status", "plugintype", "full", "disk", "maxdisk", "content"),
        decisive=("shared",),
        acl="/storage",
        privilege="Datastore.Audit",
    ),
    "pools": Listing(
        key="poolid",
        lead=("poolid",),
        fields=("poolid", "comment"),
        decisive=(),
        acl="/pool",
        privilege="Pool.Audit",
    ),
}


async def rows_of(pve: Pve, kind: Kind) -> Sequence[Row]:
    """Fetch all rows of one kind with one request."""
    match kind:
        case "guests":
            return [_state(row) for row in await guest_rows(pve)]
        case "nodes":
            return await pve.resources("node")
        case "storages":
            return [{**row, "full": _fill(row)} for row in await pve.resources("storage")]
        case "pools":
            return list(await pve.get("/pools"))


def _state(row: Row) -> Row:
    """Give a template a state of its own: PVE calls it stopped."""
    return {**row, "status": "template"} if row.get("template") else row


def shown_fields(rows: Iterable[Row], listing: Listing) -> list[str]:
    """Return the usual fields, and of the decisive ones those that some row has set."""
    rows = list(rows)
    return [*listing.fields, *(n for n in listing.decisive if any(row.get(n) for row in rows))]


@tool(always=True)
async def inventory_find(
    pve: Pve,
    kind: Kind = "guests",
    where: Where = None,
    sort: Annotated[str, Field(description="-field descends")] = "",
    fields: list[str] | None = None,
    limit: Annotated[int, Field(ge=1, le=1000)] = 40,
    cursor: str = "",
    format: Format = "text",
) -> str:
    """List guests, nodes, storages or pools of the cluster."""
    listing = LISTINGS[kind]
    rows = await rows_of(pve, kind)
    query = Query(conditions(where), sort, fields or (), limit, cursor)
    page = select(rows, query, key=listing.key, known=(*listing.fields, *listing.decisive))
    blind = await pve.blind(listing.acl, listing.privilege)
    chosen = [*listing.lead, *fields] if fields else shown_fields(page.rows, listing)
    shown = list(dict.fromkeys(chosen))
    notes = [blind] if blind else []
    return write(page, shown, format=format, head=_count(kind, page), notes=notes)


def _count(kind: Kind, page: Page) -> str:
    word = kind if page.total != 1 else kind.removesuffix("s")
    return f"{page.total} {word}"


@tool(always=True)
async def cluster_overview(pve: Pve, format: Format = "text") -> str:
    """Show the cluster at a glance: quorum, nodes, guests, storages, running and failed tasks."""
    status, resources, tasks, notes = await asyncio.gather(
        _or_fault(pve.get("/cluster/status")),
        pve.resources(),
        _or_fault(pve.get("/cluster/tasks")),
        _unseen(pve),
    )
    view = _Overview.of(status, resources, tasks)
    notes += [
        f"{name}: {part}"
        for name, part in (("status", status), ("tasks", tasks))
        if isinstance(part, Fault)
    ]
    return view.as_json(notes) if format == "json" else view.as_text(notes)


async def _unseen(pve: Pve) -> list[str]:
    """Say of which parts the token may not see all."""
    notes = []
    for kind in ("guests", "storages", "nodes"):
        listing = LISTINGS[kind]
        if blind := await pve.blind(listing.acl, listing.privilege):
            what = "nodes and tasks" if kind == "nodes" else kind
            notes.append(f"{what}: {blind}")
    return notes


async def _or_fault(request: Any) -> Any:
    """Return a part of an overview, or the Fault that hides it: the rest is still of use."""
    try:
        return await request
    except Fault as fault:
        return fault


@dataclass(frozen=True, slots=True)
class _Overview:
    cluster: Mapping[str, Any] | None
    """What PVE says of the cluster: empty for a single node, None when it does not say."""
    nodes: Sequence[Row]
    guests: Sequence[Row]
    storages: Sequence[Row]
    running: Sequence[Row]
    failed: Sequence[Row]

    @classmethod
    def of(cls, status: Any, resources: Sequence[Row], tasks: Any) -> _Overview:
        kinds: dict[str, list[Row]] = {"node": [], "vm": [], "storage": []}
        for row in resources:
            kind = "vm" if row.get("type") in ("qemu", "lxc") else str(row.get("type"))
            kinds.setdefault(kind, []).append(row)
        listed = [] if isinstance(tasks, Fault) else tasks
        bad = [t for t in listed if t.get("endtime") and not _ended_well(str(t.get("status")))]
        return cls(
            cluster=None if isinstance(status, Fault) else _cluster(status),
            nodes=sorted(kinds["node"], key=lambda row: str(row.get("node"))),
            guests=kinds["vm"],
            storages=kinds["storage"],
            running=[task for task in listed if not task.get("endtime")],
            failed=bad[:10],
        )

    def states(self) -> dict[str, dict[str, int]]:
        """Count guests by type and state; templates are a state of their own."""
        counts: dict[str, Counter[str]] = {}
        for guest in self.guests:
            state = "template" if guest.get("template") else str(guest.get("status"))
            counts.setdefault(str(guest.get("type")), Counter())[state] += 1
        return {kind: dict(counter) for kind, counter in sorted(counts.items())}

    def full(self) -> list[Row]:
        """Return the storages that are 80 % full or more, a shared one once."""
        seen, result = set(), []
        for row in sorted(self.storages, key=_fill, reverse=True):
            name = row.get("storage") if row.get("shared") else row.get("id")
            if _fill(row) >= 0.8 and name not in seen:
                seen.add(name)
                result.append(row)
        return result

    def as_json(self, notes: Sequence[str]) -> str:
        return to_json(
            {
                "cluster": self.cluster,
                "nodes": self.nodes,
                "guests": self.states(),
                "locked": [row["vmid"] for row in self.guests if row.get("lock")],
                "storages_80_percent_full": self.full(),
                "running_tasks": self.running,
                "failed_tasks": self.failed,
                "notes": list(notes),
            }
        )

    def as_text(self, notes: Sequence[str]) -> str:
        lines = [_headline(self.cluster, self.nodes), *self._nodes()]
        for kind, states in self.states().items():
            total = sum(states.values())
            lines.append(f"{kind}: {total} ({', '.join(f'{n} {s}' for s, n in states.items())})")
        if locked := [f"{row['vmid']} ({row['lock']})" for row in self.guests if row.get("lock")]:
            lines.append(f"locked: {', '.join(locked[:20])}")
        lines.append(f"storages: {len(self.storages)}")
        lines += [
            f"  {row.get('storage')} on {row.get('node')}: {_fill(row):.0%} of "
            f"{size(row.get('maxdisk', 0))}"
            for row in self.full()[:10]
        ]
        lines += _tasks("running tasks", self.running[:10])
        lines += _tasks("failed tasks among the latest", self.failed)
        return "\n".join([*lines, *notes])

    def _nodes(self) -> list[str]:
        if len(self.nodes) <= 12:
            fields = shown_fields(self.nodes, LISTINGS["nodes"])
            return [table(self.nodes, fields)] if self.nodes else []
        busy = sorted(self.nodes, key=lambda row: -(row.get("mem") or 0) / (row.get("maxmem") or 1))
        down = [row for row in self.nodes if row.get("status") != "online"]
        fields = shown_fields(busy, LISTINGS["nodes"])
        chosen = [*down, *(row for row in busy if row not in down)][:8]
        return [f"{table(chosen, fields)}\n(offline and fullest first; all: inventory_find nodes)"]


def _cluster(status: Sequence[Row]) -> Row:
    return next((part for part in status if part.get("type") == "cluster"), {})


def _headline(cluster: Mapping[str, Any] | None, nodes: Sequence[Row]) -> str:
    online = sum(row.get("status") == "online" for row in nodes)
    if cluster is None:
        return f"quorum unknown: {online} of {len(nodes)} nodes online"
    name = f"cluster {cluster.get('name')}" if cluster else "single node"
    quorum = ""
    if cluster:
        quorum = ", quorate" if cluster.get("quorate") else ", NOT QUORATE: changes will fail"
    return f"{name}: {online} of {len(nodes)} nodes online{quorum}"


def _fill(row: Row) -> float:
    return float(row.get("disk") or 0) / float(row.get("maxdisk") or 1)


def _ended_well(status: str) -> bool:
    return status == "OK" or status.startswith("WARNINGS")


def _tasks(title: str, tasks: Sequence[Row]) -> list[str]:
    if not tasks:
        return [f"{title}: none"]
    return [f"{title}:", *(f"  {_task(task)}" for task in tasks)]


def _task(task: Row) -> str:
    took = (task.get("endtime") or 0) - (task.get("starttime") or 0)
    status = str(task.get("status"))
    status = status if len(status) <= 120 else f"{status[:117]}..."
    state = f"{status} after {duration(took)}" if task.get("endtime") else "running"
    return (
        f"{task.get('type')} {task.get('id') or '-'} on {task.get('node')}: {state}  {task['upid']}"
    )
