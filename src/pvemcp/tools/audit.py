"""The audit, as a client may read it: its own calls; all calls for who administers PVE."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pvemcp.audit import Audit, Entry
from pvemcp.call import Effect
from pvemcp.chain import Event
from pvemcp.errors import Fault
from pvemcp.pve.client import Pve
from pvemcp.tools.render import moment, to_json
from pvemcp.tools.rows import Query, select, write
from pvemcp.tools.tasks import moment_since
from pvemcp.tools.tool import Format, Where, conditions, tool

ADMINISTERS = ("/", "Sys.Modify")
"""ACL path and privilege with which a PVE token sees the calls of all clients."""
LOOKED_THROUGH = 5000
"""Of the newest calls."""
COLUMNS = ("time", "client", "tool", "arguments", "outcome", "writes", "id")
SHOWN = 120


@tool()
async def audit_search(
    pve: Pve,
    audit: Audit,
    where: Where = None,
    since: Annotated[str, Field(description="90m, 24h, 7d or a date")] = "24h",
    fields: list[str] | None = None,
    limit: Annotated[int, Field(ge=1, le=200)] = 20,
    cursor: str = "",
    format: Format = "text",
) -> str:
    """Search the audit, newest first: your calls; for who may change PVE itself, everything."""
    everybody = await administers(pve)
    who = pve.call.principal
    own = {} if everybody else {"client": who.name, "grant": who.grant}
    start = moment_since(since)
    entries = audit.rows(start, limit=LOOKED_THROUGH, **own)
    events = audit.events(LOOKED_THROUGH, since=start) if everybody else []
    found: list[Entry | Event] = sorted(
        [*entries, *events], key=lambda each: each.time, reverse=True
    )
    rows = [_row(each) if isinstance(each, Entry) else _event(each) for each in found]
    query = Query(conditions(where), fields=fields or COLUMNS, limit=limit, cursor=cursor)
    page = select(rows, query, key="", known=tuple(_row(_EMPTY)))
    what = "record" if everybody else "call"
    count = f"{page.total} {what}{'s' * (page.total != 1)}"
    head = count if everybody else f"{count} of this client"
    notes = [f"Only the newest {LOOKED_THROUGH}."] if len(entries) == LOOKED_THROUGH else []
    return write(page, query.fields, format=format, head=head, notes=notes)


async def administers(pve: Pve) -> bool:
    """Whether the caller sees what all clients did.

    Several grants may have one PVE token, so that the ceiling counts, too.
    """
    if pve.call.principal.ceiling < Effect.DESTROY:
        return False
    path, privilege = ADMINISTERS
    try:
        found = await pve.permissions(path)
    except Fault:
        return False
    return privilege in found.get(path, {})


def _row(entry: Entry) -> dict[str, Any]:
    writes = [step for step in entry.steps if step.get("effect") != "read"]
    arguments = to_json(dict(entry.arguments))
    return {
        "id": entry.id,
        "time": moment(entry.time),
        "client": entry.client,
        "address": entry.address,
        "mcp_client": entry.mcp_client,
        "tool": entry.tool,
        "arguments": arguments if len(arguments) <= SHOWN else f"{arguments[:SHOWN]}…",
        "outcome": entry.outcome,
        "error": " ".join(entry.error.split())[:SHOWN],
        "ms": round(entry.ms),
        "writes": "; ".join(f"{step['verb']} {step['path']}" for step in writes)[:SHOWN],
        "upids": " ".join(str(step["upid"]) for step in writes if step.get("upid")),
        "pve_user": entry.about.get("pve_user", ""),
        "approval": entry.about.get("approval", ""),
        "approved_by": entry.about.get("approved_by", ""),
    }


def _event(event: Event) -> dict[str, Any]:
    """Write what is no call in the columns of a call: its kind stands for the tool."""
    about = dict(event.about)
    row = {name: about.pop(name, "") for name in ("client", "address", "approval")}
    empty = dict.fromkeys(_row(_EMPTY), "")
    arguments = to_json(about)[:SHOWN]
    return {
        **empty, **row, "id": f"event {event.number}", "time": moment(event.time),
        "tool": event.kind, "arguments": arguments, "outcome": "event",
    }  # fmt: skip


_EMPTY = Entry("", 0.0, "", "", "", "", "", {}, (), "", "", 0.0)
