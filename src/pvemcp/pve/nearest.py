"""The nearest known name to one that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 80


def nearest(name: str, known: Iterable[str], *, limit: int = 1) -> list[str]:
    """Return up to `limit` known names that look like `name`, best first."""
    by_lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name[:_LONGEST].lower(), by_lower, n=limit, cutoff=0.6)
    return [by_lower[word] for word in found]


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)`, or "" when nothing is near."""
    found = nearest(name, known)
    return f" (did you mean {found[0]}?)" if found else ""
