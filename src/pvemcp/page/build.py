"""Puts the page together."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp

from pvemcp.access.approvals import Approvals
from pvemcp.access.attempts import Attempts
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.access.told import Told
from pvemcp.audit import Audit
from pvemcp.connect import page_url
from pvemcp.journal.book import Book
from pvemcp.page.forms import Cookies
from pvemcp.page.people import People
from pvemcp.page.routes import approval_page
from pvemcp.page.site import Beside, Page
from pvemcp.page.visits import Visits
from pvemcp.pve.client import PveClient
from pvemcp.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the service the page shows and works."""

    settings: Settings
    approvals: Approvals
    grants: Grants
    audit: Audit
    book: Book
    pve: PveClient
    sessions: Callable[[], Sequence[Mapping[str, object]]]
    clock: Callable[[], float]
    """Of the sessions: it never goes back."""
    freezes: Freezes
    told: Told
    tell_nodes: Callable[[], Awaitable[None]]
    """Tells the other nodes of the cluster what is frozen here. Raises Unavailable."""
    mask: Callable[[str], str] = str


def with_page(parts: Parts, service: ASGIApp) -> ASGIApp:
    """Put the page beside the service, if it is on."""
    base = page_url(parts.settings)
    if not base:
        return service
    page = Page(
        base=base,
        cookies=Cookies(base.startswith("https://"), secrets.token_bytes(32)),
        approvals=parts.approvals,
        grants=parts.grants,
        audit=parts.audit,
        book=parts.book,
        people=People(parts.pve.transport),
        visits=Visits(parts.clock),
        attempts=Attempts(parts.clock),
        refused=Attempts(parts.clock),
        description=parts.pve.description,
        sessions=parts.sessions,
        freezes=parts.freezes,
        told=parts.told,
        tell_nodes=parts.tell_nodes,
        mask=parts.mask,
    )
    return Beside(approval_page(page), service)
