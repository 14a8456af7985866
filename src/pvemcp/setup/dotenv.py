"""Reads a .env file: NAME=VALUE lines with quotes, export and comments."""

from __future__ import annotations

import re
from pathlib import Path

from pvemcp.errors import Invalid

LARGEST = 64 * 1024
"""Bytes; a larger file is some other file."""
_ENTRY = re.compile(
    r"""
    ^[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*
    (?: '(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | (?P<bare>[^\r\n]*) )
    """,
    re.MULTILINE | re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read(path: Path) -> dict[str, str]:
    """Return the variables of a file; the last one of a name counts. Raises Invalid."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise Invalid(f"{path} cannot be read: {reason}.", hint="Name the old .env file.") from None
    if len(content) > LARGEST:
        raise Invalid(f"{path} is too large for a .env file.", hint="Name the old .env file.")
    return parse(text)


def parse(text: str) -> dict[str, str]:
    """Return the variables of a text; what is no variable is passed over."""
    found: dict[str, str] = {}
    for match in _ENTRY.finditer(text):
        if match["single"] is not None:
            value = match["single"]
        elif match["double"] is not None:
            value = re.sub(r"\\(.)", _escaped, match["double"], flags=re.DOTALL)
        else:
            value = _COMMENT.sub("", match["bare"]).strip()
        found[match["name"]] = value
    return found


def _escaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[1])
