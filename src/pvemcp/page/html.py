"""Answers of the page: templates filled in, and the headers that every one of them has."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, RedirectResponse, Response

from pvemcp.unseen import hidden

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # no-referrer would make the Origin of our own forms "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
STYLE = "/page/static/page.css"
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
_SUSPECT = re.compile(r"[^\n\x20-\x7e]")


def plain(text: object) -> str:
    """Return text so that nothing in it hides: control and direction characters are spelt out."""
    return _SUSPECT.sub(_spelt, str(text).replace("\r\n", "\n").replace("\t", "    "))


def _spelt(match: re.Match[str]) -> str:
    char = match[0]
    odd = unicodedata.category(char) in _HIDDEN or hidden(char)
    return f"\u27e8U+{ord(char):04X}\u27e9" if odd else char


def moment(seconds: float | None) -> str:
    """Write a time of day for a person, in UTC."""
    if seconds is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _left(seconds: float) -> str:
    left = int(max(0.0, seconds - time.time()))
    return f"{left // 60} min {left % 60} s" if left >= 60 else f"{left} s"


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


@cache
def _environment() -> Environment:
    """Return the templates. Only who opens the page waits for jinja2 (60 ms)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever stands between {{ and }} is shown so, and then escaped.
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    made.filters |= {"moment": moment, "left": _left, "tojson_plain": _as_json}
    return made


def render(name: str, status: int = 200, /, **values: Any) -> Response:
    """Fill in a template."""
    text = _environment().get_template(name).render(style=STYLE, **values)
    return HTMLResponse(text, status)


def go(path: str) -> Response:
    """Send the browser to another page of ours with a GET."""
    return RedirectResponse(path, 303)
