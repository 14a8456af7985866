"""Clients, sessions, the audit and the journal of changes, for who may see them in PVE."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pvemcp.audit import Entry
from pvemcp.chain import Event
from pvemcp.page.html import render
from pvemcp.page.site import Page, require, visitor
from pvemcp.recordings import SEALED

SEE_ALL = "Sys.Audit"
"""On /: whoever may see all of PVE's own logs may see what clients do."""
ROWS = 100


async def clients(page: Page, request: Request) -> Response:
    """GET /page/clients: grants, and who is connected."""
    visit = visitor(page, request)
    await require(page, visit, SEE_ALL)
    return render(
        "clients.html", title="Clients", visit=visit, grants=page.grants.list(),
        sessions=page.sessions(),
    )  # fmt: skip


async def audit(page: Page, request: Request) -> Response:
    """GET /page/audit: the newest calls."""
    visit = visitor(page, request)
    await require(page, visit, SEE_ALL)
    events = [one for one in page.audit.events(limit=ROWS) if one.kind != SEALED]
    rows: list[Entry | Event] = [*page.audit.rows(limit=ROWS), *events]
    newest = sorted(rows, key=lambda row: row.time, reverse=True)[:ROWS]
    return render("audit.html", title="Audit", visit=visit, entries=newest)


async def changes(page: Page, request: Request) -> Response:
    """GET /page/changes: the journal of changes."""
    visit = visitor(page, request)
    await require(page, visit, SEE_ALL)
    listed = page.book.list(limit=ROWS)
    return render("changes.html", title="Changes", visit=visit, changes=listed)
