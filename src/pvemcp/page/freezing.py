"""What is frozen, and the buttons that freeze and thaw."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from pvemcp.access.freeze import EVERYONE, MODES
from pvemcp.errors import Conflict, Fault, Invalid
from pvemcp.page.html import go, render
from pvemcp.page.records import SEE_ALL
from pvemcp.page.site import PREFIX, Page, form, held, note, refused, require, visitor

MAY_FREEZE = "Sys.Modify"
"""On /: whoever may change every node of PVE may stop and start its clients."""
PATH = f"{PREFIX}/freeze"


async def shown(page: Page, request: Request) -> Response:
    """GET /page/freeze: what is frozen, on which nodes, and the forms for who may use them."""
    visit = visitor(page, request)
    await require(page, visit, SEE_ALL)
    own = page.freezes.own()
    return render(
        "freeze.html", title="Freeze", visit=visit, freezes=page.freezes.all(),
        known_on=page.told.known_on(own), behind=page.told.behind(own),
        clients=[grant.name for grant in page.grants.list()],
        may=MAY_FREEZE in await held(page, visit, "/"), lacks=f"{MAY_FREEZE} on /",
    )  # fmt: skip


async def answered(page: Page, request: Request) -> Response:
    """POST /page/freeze: freeze, or thaw what was frozen on this node."""
    visit, given = await form(page, request)
    does = _DOES.get(given.get("do", ""))
    kind = f"page {given['do']}" if does else "page"
    about = {key: given.get(key, "")[:500] for key in ("client", "mode", "reason")}
    try:
        await require(page, visit, MAY_FREEZE, anew=True)
        if does is None:
            raise Invalid("the form says neither to freeze nor to thaw")
        does(page, visit.userid, given)
    except Fault as fault:
        refused(page, request, kind, visit, about, fault)
        raise
    note(page, request, kind, visit.userid, about=about)
    with contextlib.suppress(Fault):  # no cluster
        await page.tell_nodes()
    return go(PATH)


def _freeze(page: Page, person: str, given: Mapping[str, str]) -> None:
    client, mode = given.get("client", EVERYONE), given.get("mode")
    if mode not in MODES:
        raise Invalid("the form does not say what to freeze")
    if client != EVERYONE:
        page.grants.named(client)
    page.freezes.freeze(mode, client=client, by=person, reason=given.get("reason", ""))


def _thaw(page: Page, person: str, given: Mapping[str, str]) -> None:
    """End the freeze that the person has seen; not one that has come into its place."""
    client = given.get("client", EVERYONE)
    now = [each for each in page.freezes.all() if not each.origin and each.client == client]
    if now and str(now[0].since) != given.get("since"):
        raise Conflict(
            "this was frozen anew after you had opened the page; nothing was done",
            hint="Open the page again, and see by whom and why.",
        )
    page.freezes.thaw(client=client, by=person)


_DOES = {"freeze": _freeze, "thaw": _thaw}
