"""The page's parts, its routes, and how every request to it begins and ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pvemcp.access.approvals import Approvals
from pvemcp.access.attempts import Attempts
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.access.told import Told
from pvemcp.audit import Audit
from pvemcp.errors import Conflict, Denied, Fault, Invalid, Limited, Missing, Unauthenticated
from pvemcp.journal.book import Book
from pvemcp.page.forms import Cookies, fields, holds, path_after
from pvemcp.page.html import HEADERS, HERE, go, render
from pvemcp.page.people import People
from pvemcp.page.visits import Visit, Visits
from pvemcp.pve.description import Description
from pvemcp.redaction import redact

logger = logging.getLogger(__name__)

PREFIX = "/page"
LOGINS = 8
RIGHTS_KEPT = 60.0
"""Seconds for which a person's rights are believed while only looking; a yes asks PVE anew."""
_STATUS: Mapping[type[Fault], int] = {
    Denied: 403, Missing: 404, Conflict: 409, Invalid: 400, Limited: 429, Unauthenticated: 401,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """What the page works with. `base` is its public URL without a slash at the end."""

    base: str
    cookies: Cookies
    approvals: Approvals
    grants: Grants
    audit: Audit
    book: Book
    people: People
    visits: Visits
    attempts: Attempts
    """Logins, by address."""
    refused: Attempts
    """Forms that were refused to somebody who has logged in, by person."""
    description: Callable[[], Awaitable[Description]]
    sessions: Callable[[], Sequence[Mapping[str, object]]]
    freezes: Freezes
    told: Told
    tell_nodes: Callable[[], Awaitable[None]]
    mask: Callable[[str], str] = str
    logins: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOGINS))
    """Slots for logins under way: PVE takes 3 s to refuse one."""


class NotIn(Exception):  # noqa: N818 - not a failure
    """Nobody has logged in, or the session has ended."""


Handler = Callable[[Page, Request], Awaitable[Response]]


class Beside:
    """ASGI middleware: the page's paths go to the page, all others to the service."""

    def __init__(self, page: ASGIApp, service: ASGIApp) -> None:
        self._page = page
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        ours = scope["type"] == "http" and (path == PREFIX or path.startswith(f"{PREFIX}/"))
        await (self._page if ours else self._service)(scope, receive, send)


def site(page: Page, routes: Sequence[tuple[str, str, Handler]]) -> ASGIApp:
    """Return the page as an application. Each route is verb, path, handler."""

    def bound(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await _answer(page, handler, request)

        return endpoint

    listed = [Route(path, bound(handler), methods=[verb]) for verb, path, handler in routes]
    static = [
        Route(f"{PREFIX}/static/{name}", _file(name, kind), methods=["GET"])
        for name, kind in _FILES.items()
    ]
    app = Starlette(routes=[*static, *listed])
    app.router.redirect_slashes = False
    app.add_exception_handler(HTTPException, _http_error)
    return _Headers(app)


class _Headers:
    """ASGI middleware that puts the same headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = [(n.lower().encode(), v.encode()) for n, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *(h for h in more if h[0] not in given)]
            await send(message)

        await self._app(scope, receive, with_headers)


async def _answer(page: Page, handler: Handler, request: Request) -> Response:
    try:
        return await handler(page, request)
    except NotIn:
        asked = path_after(request.url.path)
        response = go(f"{PREFIX}/login?next={quote(asked)}")
        page.cookies.drop(response, "session")
        return response
    except Fault as fault:
        return failure(page, request, fault)
    except Exception:
        logger.exception("the approval page failed at %s", request.url.path)
        text = "This did not work; the service's journal has the reason."
        return render("message.html", 500, title="Failed", text=text, hint="", visit=None)


def failure(page: Page, request: Request, fault: Fault) -> Response:
    """Show a Fault."""
    status = next((code for kind, code in _STATUS.items() if isinstance(fault, kind)), 503)
    visit = page.visits.find(page.cookies.get(request, "session"), touch=False)
    text, hint = page.mask(fault.message), page.mask(fault.hint)
    response = render(
        "message.html", status, title=_TITLES.get(status, "Failed"), text=text, hint=hint,
        visit=visit,
    )  # fmt: skip
    if isinstance(fault, Limited) and fault.wait:
        response.headers["Retry-After"] = str(int(fault.wait) + 1)
    return response


_TITLES = {403: "Not allowed", 404: "Not there", 409: "Too late", 429: "Wait"}


async def _http_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = "There is no such page." if status == 404 else "This cannot be done here."
    return render("message.html", status, title="Not there", text=text, hint="", visit=None)


_FILES = {"page.css": "text/css", "icon.svg": "image/svg+xml"}


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (HERE / "static" / name).read_bytes()

    async def endpoint(request: Request) -> Response:  # noqa: ARG001
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return endpoint


# For every handler ----------------------------------------------------------------------------


def address(request: Request) -> str:
    """Return the address of the connection: X-Forwarded-For is not believed."""
    return request.client.host if request.client else ""


def visitor(page: Page, request: Request) -> Visit:
    """Return the session of a request. Raises NotIn."""
    touch = "auto" not in request.query_params
    found = page.visits.find(page.cookies.get(request, "session"), touch=touch)
    if found is None:
        raise NotIn
    return found


async def form(page: Page, request: Request) -> tuple[Visit, dict[str, str]]:
    """Return session and fields of a form that one who has logged in sends from our page."""
    visit = visitor(page, request)
    if (wait := page.refused.wait(visit.userid)) > 0:  # each one is in the audit
        text = "Too many forms of yours were refused."
        raise Limited("forms", text, hint=f"Try again in {int(wait) + 1} s.", wait=wait)
    given = await fields(request, page.base)
    if not holds(given.get("token", ""), visit.token):
        raise Denied(
            "this form belongs to another session; nothing was done",
            hint="Open the page again and repeat it there.",
        )
    return visit, given


def refused(
    page: Page, request: Request, kind: str, visit: Visit, about: Mapping[str, Any], fault: Fault
) -> None:
    """Note, and count, that somebody was refused what a form asks for."""
    page.refused.failed(visit.userid)
    note(page, request, kind, visit.userid, about=about, failed=fault.message)


async def held(page: Page, visit: Visit, path: str, *, anew: bool = False) -> frozenset[str]:
    """Return what a person holds on an ACL path. Raises NotIn when PVE knows the ticket no more."""
    now = page.visits.now()
    asked, found = visit.held.get(path, (float("-inf"), frozenset()))
    if anew or now - asked > RIGHTS_KEPT:
        try:
            found = await page.people.privileges(visit.ticket, path)
        except Unauthenticated:
            raise NotIn from None
        visit.held[path] = (now, found)
    return found


async def require(
    page: Page, visit: Visit, privilege: str, path: str = "/", *, anew: bool = False
) -> None:
    """Raise Denied, naming it, when the person lacks a privilege."""
    if privilege not in await held(page, visit, path, anew=anew):
        raise Denied(
            f"{visit.userid} lacks {privilege} on {path}",
            hint="An administrator can give a role that holds it in PVE.",
        )


def note(
    page: Page,
    request: Request,
    kind: str,
    who: str,
    *,
    about: Mapping[str, Any] | None = None,
    failed: str = "",
) -> None:
    """Leave in audit and log what a person did on the page, with the person's address."""
    at = address(request)
    said = {"person": who[:100], "address": at, "refused": failed, **redact(about or {})}
    try:
        page.audit.event(kind, said)
    except Fault as fault:
        logger.error("AUDIT LOST: %s by %r: %s", kind, who[:100], fault)  # noqa: TRY400
    level = logging.WARNING if failed else logging.INFO
    logger.log(level, "%s by %r from %s%s", kind, who[:100], at, failed and f", refused: {failed}")
