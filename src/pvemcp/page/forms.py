"""What browsers send: cookies, forms, and whether a form is one of ours."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from pvemcp.errors import Denied, Invalid

LONGEST = 16 * 1024
"""Bytes of a form."""
_KIND = "application/x-www-form-urlencoded"
_NEXT = re.compile(r"/page/(?:ap-[0-9a-f]{1,32}|clients|audit|changes|freeze)?")
HOME = "/page/"


@dataclass(frozen=True, slots=True)
class Cookies:
    """The page's cookies. Secure ones carry the prefix that ties them to this host and to TLS."""

    secure: bool
    key: bytes = field(repr=False)
    """Signs what a form carries before anybody has logged in."""

    def name(self, kind: str) -> str:
        """Return a cookie's whole name: of the `session`, the `login` or the `openid`."""
        return f"{'__Host-' if self.secure else ''}pvemcp-{kind}"

    def get(self, request: Request, kind: str) -> str:
        """Return a cookie's value, empty without one."""
        return request.cookies.get(self.name(kind), "")

    def set(self, response: Response, kind: str, value: str, seconds: int | None = None) -> None:
        """Set a cookie; without `seconds` it ends with the browser."""
        response.set_cookie(
            self.name(kind), value, max_age=seconds, path="/",
            secure=self.secure, httponly=True,
            samesite="lax",  # strict ones do not come along from an OpenID provider or a link
        )  # fmt: skip

    def drop(self, response: Response, kind: str) -> None:
        """Take a cookie back."""
        self.set(response, kind, "", 0)

    def seal(self, text: str) -> str:
        """Return a signature of a text, as URL-safe text."""
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def login_token(self, cookie: str) -> str:
        """Return what forms carry before the login, tied to the browser's cookie."""
        return self.seal(f"login {cookie}")


def fresh() -> str:
    """Return a new random value."""
    return secrets.token_urlsafe(24)


def holds(given: str, wanted: str) -> bool:
    """Compare two secrets in constant time; an empty one is never right."""
    return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())


def path_after(text: str) -> str:
    """Return where to go after the login: a page of ours, whatever was asked for."""
    return text if _NEXT.fullmatch(text) else HOME


async def fields(request: Request, base: str) -> dict[str, str]:
    """Read a form that one of our own pages has sent.

    `base` is the page's public URL. Raises Denied for another origin, Invalid for anything that is
    not a small form.
    """
    _own(request, base)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _KIND:
        raise Invalid("this is not a form")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST:
            raise Invalid("the form is too large")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=20,
            errors="strict",
        )  # fmt: skip
    except (ValueError, UnicodeError):
        raise Invalid("the form cannot be read") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Invalid("the form says something twice")
    return found


def _own(request: Request, base: str) -> None:
    """Raise Denied unless the browser says that the form is from this very page."""
    origin, fetched = request.headers.get("origin", ""), request.headers.get("sec-fetch-site", "")
    parts = urlsplit(base)
    allowed = {
        f"{parts.scheme}://{parts.netloc}".lower(),
        f"{request.url.scheme}://{request.headers.get('host', '')}".lower(),
    }
    if origin.lower() not in allowed or fetched not in {"", "same-origin"}:
        raise Denied(
            "this form was not sent by the approval page; nothing was done",
            hint="Open the page itself and try again there.",
        )
