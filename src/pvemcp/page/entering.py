"""Logging in with a Proxmox account, and out."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from pvemcp.errors import Denied, Invalid, Limited, Rejected, Unauthenticated
from pvemcp.page.forms import HOME, fields, fresh, holds, path_after
from pvemcp.page.html import go, render
from pvemcp.page.people import Challenge, Realm, Ticket
from pvemcp.page.rights import SERVICE
from pvemcp.page.site import PREFIX, Page, address, form, note

OPENID_LIFE = 600
"""Seconds in which one must come back from an OpenID provider."""
_LONGEST = 256
T = TypeVar("T")


async def show_login(page: Page, request: Request) -> Response:
    """GET /page/login."""
    after = path_after(request.query_params.get("next", ""))
    if page.visits.find(page.cookies.get(request, "session"), touch=False):
        return go(after)
    return await _login_form(page, request, after)


async def _login_form(
    page: Page,
    request: Request,
    after: str,
    *,
    trouble: str = "",
    status: int = 200,
    name: str = "",
) -> Response:
    cookie = page.cookies.get(request, "login") or fresh()
    realms = await page.people.realms()
    response = render(
        "login.html", status, title="Log in", visit=None, next=after, trouble=trouble, name=name,
        token=page.cookies.login_token(cookie),
        realms=[realm for realm in realms if not realm.openid],
        providers=[realm for realm in realms if realm.openid],
    )  # fmt: skip
    page.cookies.set(response, "login", cookie)
    return response


async def log_in(page: Page, request: Request) -> Response:
    """POST /page/login."""
    given = await _before_login(page, request)
    after = path_after(given.get("next", ""))
    name, password = given.get("name", "").strip(), given.get("password", "")
    userid = _userid(name, given.get("realm", ""), await page.people.realms())
    if not userid or not password or len(password) > _LONGEST:
        text = "Give the name of a person's account (not an API token) and its password."
        return await _login_form(page, request, after, trouble=text, status=400, name=name[:64])
    try:
        found = await _tried(page, request, partial(_by_password, page, userid, password))
    except (Unauthenticated, Rejected) as fault:
        return await _refused(page, request, userid, after, fault.message)
    if isinstance(found, Challenge):
        page.visits.challenge(page.cookies.get(request, "login"), found, after)
        return go(f"{PREFIX}/code")
    return _enter(page, request, found, after)


async def _by_password(page: Page, userid: str, password: str) -> Ticket | Challenge:
    if userid == SERVICE:
        raise Unauthenticated("it is the service's own account")
    return await page.people.log_in(userid, password)


async def show_code(page: Page, request: Request) -> Response:
    """GET /page/code."""
    cookie = page.cookies.get(request, "login")
    pending = page.visits.pending(cookie)
    if pending is None:
        return go(f"{PREFIX}/login")
    return _code_form(page, cookie, pending.challenge)


def _code_form(
    page: Page, cookie: str, challenge: Challenge, *, trouble: str = "", status: int = 200
) -> Response:
    return render(
        "code.html", status, title="Second factor", visit=None, trouble=trouble,
        factors=challenge.factors, token=page.cookies.login_token(cookie),
    )  # fmt: skip


async def give_code(page: Page, request: Request) -> Response:
    """POST /page/code."""
    given = await _before_login(page, request)
    cookie = page.cookies.get(request, "login")
    pending = page.visits.pending(cookie)
    if pending is None:
        text = "That took too long, or there were too many codes. Log in again."
        return await _login_form(page, request, HOME, trouble=text, status=401)
    code = "".join(given.get("code", "").split())
    pending.tries += 1
    try:
        if not code or len(code) > 64:
            raise Unauthenticated("no code was given")
        ticket = await _tried(page, request, partial(page.people.answer, pending.challenge, code))
    except (Unauthenticated, Rejected) as fault:
        who = pending.challenge.userid
        note(page, request, "page login", who, failed=f"the second factor: {fault.message}")
        if page.visits.pending(cookie) is None:
            text = "That was not the right code. Log in again."
            return await _login_form(page, request, pending.next, trouble=text, status=401)
        text = "That is not the right code. A code of an app holds for 30 seconds."
        return _code_form(page, cookie, pending.challenge, trouble=text, status=401)
    page.visits.answered(cookie)
    return _enter(page, request, ticket, pending.next)


async def log_out(page: Page, request: Request) -> Response:
    """POST /page/logout."""
    visit, _ = await form(page, request)
    page.visits.close(page.cookies.get(request, "session"))
    note(page, request, "page logout", visit.userid)
    response = go(f"{PREFIX}/login")
    page.cookies.drop(response, "session")
    return response


# OpenID ---------------------------------------------------------------------------------------


async def ask_provider(page: Page, request: Request) -> Response:
    """POST /page/openid: show the way to the provider, with a cookie that waits for the return."""
    given = await _before_login(page, request)
    realms = [realm.name for realm in await page.people.realms() if realm.openid]
    name = given.get("realm", "")
    if name not in realms:
        raise Invalid("there is no such realm")
    url = await _tried(page, request, partial(page.people.openid_url, name, _return(page)))
    state = parse_qs(urlsplit(url).query).get("state", [""])[0]
    if not state:
        raise Rejected("the provider's address holds no state, so that nobody knows who comes back")
    host = urlsplit(url).netloc
    response = render("leave.html", title="Log in elsewhere", visit=None, url=url, host=host)
    sealed = _sealed(page, state, path_after(given.get("next", "")))
    page.cookies.set(response, "openid", sealed, OPENID_LIFE)
    response.headers["Refresh"] = f"0; url={url}"  # form-action would stop a redirect
    return response


async def come_back(page: Page, request: Request) -> Response:
    """GET /page/openid: the provider has sent the person back."""
    query = request.query_params
    after = _unsealed(page, page.cookies.get(request, "openid"), query.get("state", ""))
    if after is None:  # any page can send a browser here: nothing was tried, nothing is noted
        text = "This login was not begun in this browser, or too long ago. Begin it again."
        return await _login_form(page, request, HOME, trouble=text, status=401)
    login = partial(_by_provider, page, query.get("code", ""), query["state"])
    try:
        response = _enter(page, request, await _tried(page, request, login), after)
    except (Denied, Unauthenticated, Rejected) as fault:
        response = await _refused(page, request, "an OpenID account", HOME, fault.message)
    page.cookies.drop(response, "openid")
    return response


async def _by_provider(page: Page, code: str, state: str) -> Ticket:
    if not code:
        raise Unauthenticated("the provider did not log in anybody")
    return await page.people.openid(code, state, _return(page))


def _return(page: Page) -> str:
    return f"{page.base}/openid"


def _sealed(page: Page, state: str, after: str) -> str:
    said = json.dumps([state, after, int(time.time()) + OPENID_LIFE]).encode()
    text = base64.urlsafe_b64encode(said).decode().rstrip("=")
    return f"{text}.{page.cookies.seal(f'openid {text}')}"


def _unsealed(page: Page, cookie: str, state: str) -> str | None:
    """Return where to go after the login; None when it was not begun by this browser."""
    text, _, seal = cookie.partition(".")
    if not text or not holds(seal, page.cookies.seal(f"openid {text}")):
        return None
    try:
        wanted, after, until = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        return None
    return path_after(after) if holds(state, wanted) and time.time() < until else None


# What they share ------------------------------------------------------------------------------


async def _before_login(page: Page, request: Request) -> dict[str, str]:
    """Return the fields of a form of the login, which must be from this browser."""
    given = await fields(request, page.base)
    cookie = page.cookies.get(request, "login")
    if not cookie or not holds(given.get("token", ""), page.cookies.login_token(cookie)):
        raise Denied(
            "this login form is not from this browser, or the browser takes no cookies",
            hint=f"Open {PREFIX}/login again.",
        )
    return given


async def _tried(page: Page, request: Request, attempt: Callable[[], Awaitable[T]]) -> T:
    """Make an attempt to log in, which counts before its outcome is known: nobody tries faster."""
    at = address(request)
    wait = page.attempts.wait(at)
    if wait > 0:
        text = "Too many logins came from your address."
        raise Limited("logins", text, hint=f"Try again in {int(wait) + 1} s.", wait=wait)
    if page.logins.locked():
        raise Limited("logins", "Too many logins are under way.", hint="Try again.", wait=3.0)
    page.attempts.failed(at)
    async with page.logins:
        return await attempt()


async def _refused(page: Page, request: Request, who: str, after: str, why: str) -> Response:
    note(page, request, "page login", who, failed=why)
    text = "The login was refused. Name, realm and password must be right."
    return await _login_form(page, request, after, trouble=text, status=401)


def _enter(page: Page, request: Request, ticket: Ticket, after: str) -> Response:
    """Begin a session under a new cookie, whatever cookie came."""
    if ticket.userid == SERVICE or "!" in ticket.userid:
        raise Denied("it is not a person's account")
    page.visits.close(page.cookies.get(request, "session"))
    response = go(after)
    page.cookies.set(response, "session", page.visits.open(ticket, address(request)))
    page.cookies.drop(response, "login")
    note(page, request, "page login", ticket.userid)
    return response


def _userid(name: str, realm: str, realms: list[Realm]) -> str:
    """Return `USER@REALM`; a name may bring its realm. Empty for an API token or nonsense."""
    known = {one.name for one in realms if not one.openid}
    user, at, own = name.rpartition("@")
    found = name if at and own in known else f"{name}@{realm}" if realm in known else ""
    bad = not name or len(found) > 64 or any(c in name for c in "!:/ ") or not name.isprintable()
    return "" if bad or not (user or name) else found
