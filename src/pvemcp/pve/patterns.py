"""Patterns of the API description: Perl regular expressions, applied only where that is safe.

A pattern that Python cannot read, or whose matching could take exponential time on a hostile
value, is not applied: PVE itself decides then.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

LONGEST_CHECKED = 2048
"""Longer values (in characters) are not matched: matching is quadratic for some patterns."""

_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|[(|)]|[^\\]", re.DOTALL)
_MANY = re.compile(r"[*+]|\{\d*,\}|\{(?:\d*,)?(?:[5-9]|\d\d+)\}")
_VARIABLE = re.compile(r"[*+?]|\{\d*,\d*\}")
_MODIFIER = re.compile(r"\?(?:[:=!>]|<[=!]|\^?[a-z-]*:)")
_WIDE = re.compile(r"\\[SWD]|\[\^|(?<!\\)\.")


def matches(pattern: str, value: str) -> bool | None:
    """Tell whether the whole value matches, as PVE does it; None when that cannot be told."""
    compiled = _compile(pattern)
    if compiled is None or len(value) > LONGEST_CHECKED:
        return None
    return compiled.fullmatch(value) is not None


@lru_cache(maxsize=512)
def _compile(pattern: str) -> re.Pattern[str] | None:
    if explodes(pattern):
        return None
    text = re.sub(r"\(\?\^(\w*):", lambda found: f"(?{found[1]}:", pattern)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re.compile(text)
        except (re.error, Warning, RecursionError, OverflowError):
            return None


def explodes(pattern: str) -> bool:
    """Tell whether backtracking could be exponential: a repeat inside a repeat.

    A repeated group is harmless when each round starts with a character that appears nowhere
    else in it, such as the separator of a list.
    """
    groups: list[int] = []
    position = 0
    while position < len(pattern):
        found = _ATOM.match(pattern, position)
        if found is None:
            return True
        position = found.end()
        if found[0] == "(":
            groups.append(position)
        elif found[0] == ")" and groups:
            body = pattern[groups.pop() : found.start()]
            if _MANY.match(pattern, position) and _ambiguous(body):
                return True
    return False


def _ambiguous(body: str) -> bool:
    """Tell whether one text can be split into rounds of this repeated body in several ways."""
    body = _MODIFIER.sub("", body, count=1) if body.startswith("?") else body
    plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", body)
    if not _VARIABLE.search(plain) and "|" not in plain:
        return False
    first = re.match(r"\\([^\w\s])|([^\w\s\\\[\](){}.*+?|^$])", body)
    if first is None:
        return True
    separator = first[1] or first[2]
    rest = body[first.end() :]
    return "|" in plain or separator in rest or _WIDE.search(rest) is not None
