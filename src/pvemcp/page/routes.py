"""Every path of the page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pvemcp.page import asking, entering, freezing, records
from pvemcp.page.forms import HOME
from pvemcp.page.html import go
from pvemcp.page.site import PREFIX, Handler, Page, site


async def _home(page: Page, request: Request) -> Response:  # noqa: ARG001
    return go(HOME)


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", PREFIX, _home),
    ("GET", HOME, asking.listed),
    ("GET", f"{PREFIX}/login", entering.show_login),
    ("POST", f"{PREFIX}/login", entering.log_in),
    ("GET", f"{PREFIX}/code", entering.show_code),
    ("POST", f"{PREFIX}/code", entering.give_code),
    ("POST", f"{PREFIX}/logout", entering.log_out),
    ("POST", f"{PREFIX}/openid", entering.ask_provider),
    ("GET", f"{PREFIX}/openid", entering.come_back),
    ("GET", f"{PREFIX}/clients", records.clients),
    ("GET", f"{PREFIX}/audit", records.audit),
    ("GET", f"{PREFIX}/changes", records.changes),
    ("GET", freezing.PATH, freezing.shown),
    ("POST", freezing.PATH, freezing.answered),
    ("GET", f"{PREFIX}/{{id:str}}", asking.shown),
    ("POST", f"{PREFIX}/{{id:str}}", asking.answered),
)


def approval_page(page: Page) -> ASGIApp:
    """Return the page as an ASGI application."""
    return site(page, ROUTES)
