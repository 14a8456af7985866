"""What waits for a person, and what the person says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from pvemcp.access.approvals import Approval, Person
from pvemcp.errors import Conflict, Denied, Fault, Invalid
from pvemcp.page.html import go, render
from pvemcp.page.rights import missing
from pvemcp.page.site import PREFIX, Page, form, held, note, refused, visitor
from pvemcp.page.visits import Visit

REFRESH = 10
"""Seconds after which a list looks again by itself."""
SHOWN = 50
"""Approvals in the list of those that are over."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An approval as one person may see it."""

    approval: Approval
    lacks: Sequence[str]
    """What the person lacks to answer; nothing: may answer."""
    whole: bool
    """The person may see the plan."""

    @property
    def said(self) -> Sequence[str]:
        """Who has said yes so far."""
        return [d.person for d in self.approval.decisions if d.verdict == "approve"]

    @property
    def host_only(self) -> bool:
        """Only root on the host itself can approve it."""
        return self.approval.channel == "host"

    @property
    def targets(self) -> str:
        """What it is about, without the plan: PVE's own ids."""
        named = (f"{w.get('kind', '')} {w.get('id', '')}".strip() for w in self.approval.writes)
        return ", ".join(dict.fromkeys(named)) or self.approval.tool


async def judged(page: Page, visit: Visit, approval: Approval, *, anew: bool = False) -> Shown:
    """Ask PVE whether a person may answer, and may see the plan."""
    description = await page.description()

    async def holds(path: str) -> frozenset[str]:
        return await held(page, visit, path, anew=anew)

    # Also of who lacks nothing anywhere: PVE must still know the ticket.
    everywhere = await held(page, visit, "/", anew=anew)
    lacks = await missing(visit.userid, approval.writes, description, holds)
    whole = not lacks or "Sys.Audit" in everywhere
    return Shown(approval, lacks, whole)


async def listed(page: Page, request: Request) -> Response:
    """GET /page/: what waits, and what became of the rest."""
    visit = visitor(page, request)
    rows = [await judged(page, visit, each) for each in page.approvals.all(live=False, limit=SHOWN)]
    seen = [row for row in rows if row.whole]
    waiting = [row for row in seen if row.approval.state == "waiting"]
    hidden = sum(row.approval.state == "waiting" for row in rows) - len(waiting)
    still = "still" in request.query_params
    response = render(
        "approvals.html", title="Approvals", visit=visit, waiting=waiting, hidden=hidden,
        over=[row for row in seen if row.approval.state != "waiting"], still=still,
        seconds=REFRESH,
    )  # fmt: skip
    return response if still else _again(response, f"{PREFIX}/?auto=1")


def _again(response: Response, path: str) -> Response:
    response.headers["Refresh"] = f"{REFRESH}; url={path}"
    return response


async def shown(page: Page, request: Request) -> Response:
    """GET /page/{id}: one approval with its whole plan."""
    visit = visitor(page, request)
    id_ = request.path_params["id"]
    anew = "auto" not in request.query_params
    return _one(visit, await judged(page, visit, page.approvals.get(id_), anew=anew))


def _one(
    visit: Visit, found: Shown, *, status: int = 200, trouble: str = "", reason: str = ""
) -> Response:
    approval = found.approval
    may = approval.state == "waiting" and not found.lacks
    answerable = may and not found.host_only and visit.userid not in found.said
    response = render(
        "approval.html", status, title=f"{approval.tool}: {found.targets}", visit=visit, one=found,
        a=approval, may=answerable, may_deny=not found.lacks and approval.state in _DENIABLE,
        trouble=trouble, reason=reason, seconds=REFRESH,
    )  # fmt: skip
    moves = approval.state in {"waiting", "approved"} and not answerable
    return _again(response, f"{PREFIX}/{approval.id}?auto=1") if moves else response


_DENIABLE = {"waiting", "approved"}


async def answered(page: Page, request: Request) -> Response:
    """POST /page/{id}: a person's yes or no."""
    visit, given = await form(page, request)
    id_, verdict, reason = request.path_params["id"], given.get("verdict"), given.get("reason", "")
    found = await judged(page, visit, page.approvals.get(id_), anew=True)
    tool = f"page {verdict}" if verdict in {"approve", "deny"} else "page"
    about = {"approval": id_, "reason": reason[:500]}
    try:
        if found.lacks:
            raise Denied(f"{visit.userid} lacks {'; '.join(found.lacks)}")
        person = Person(visit.userid, "page")
        match verdict:
            case "approve":
                typed = given.get("confirm", "")
                page.approvals.approve(id_, person, typed=typed, reason=reason)
            case "deny":
                page.approvals.deny(id_, person, reason=reason)
            case _:
                raise Invalid("the form says neither yes nor no")
    except Fault as fault:
        refused(page, request, tool, visit, about, fault)
        if isinstance(fault, (Invalid, Conflict)):
            fresh = await judged(page, visit, page.approvals.get(id_))
            status = 400 if isinstance(fault, Invalid) else 409
            return _one(visit, fresh, status=status, trouble=fault.message, reason=reason)
        raise
    note(page, request, tool, visit.userid, about=about)
    return go(f"{PREFIX}/{id_}")
