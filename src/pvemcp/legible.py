"""What a person must see who answers for a call: all of it, and no secret.

A text is masked by shapes, and whoever writes a command can give it the shape of a secret:
`echo "TOKEN=" ; reboot ; echo ""`. So here a shape hides only what cannot be a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pvemcp.redaction import MASK, is_secret_name, labels_secret, shapes

WHOLE = 64_000
"""Characters of one text that are shown."""
_ACTIVE = re.compile(r"[\s;|&<>$`(){}\\]")
"""With none of these no second word begins, to a shell."""
_CRYPTED = re.compile(r"\$(?:[156]|2[abxy]|g?y|7|apr1|md5)\$[./A-Za-z0-9$=,]+")
_EMPTY_BEFORE = re.compile(r"[^\s=]=[ \t]+$")
"""`TOKEN= reboot` runs reboot."""
_KEY_LINE = re.compile(
    r"[\s+|]*(?:-{4,5} ?(?:BEGIN|END) [A-Za-z0-9 ]{1,60}-{4,5})?(?:[A-Za-z0-9+/=]{32,})?[ \t]*"
)
"""A line of a private key; its last one is short, and shown: it could be a word."""
_INPUT = frozenset({"input-data"})
"""No secrets, whatever their names: what a command in a guest reads."""


def legible(value: Any, name: str = "") -> Any:
    """Return an argument whole, with secrets masked."""
    if name not in _INPUT and is_secret_name(name) and isinstance(value, str) and value:
        return MASK
    match value:
        case str():
            text = value[:WHOLE]
            rest = f"… (only {WHOLE:,} of {len(value):,} characters)" if len(value) > WHOLE else ""
            return unhidden(text, shapes(text)) + rest
        case Mapping():
            labelled = labels_secret(value)
            return {
                key: legible(item, "secret" if labelled and key == "value" else str(key))
                for key, item in value.items()
            }
        case list() | tuple():
            return list(_items(value, name))
        case _:
            return value


def _items(value: Iterable[Any], name: str) -> Iterable[Any]:
    before: Any = ""
    for item in value:
        option = isinstance(before, str) and before.startswith("-") and is_secret_name(before)
        secret = option and isinstance(item, str) and not _ACTIVE.search(item)
        yield MASK if secret else legible(item, name)
        before = item


def masked(text: str, mask: Callable[[str], str], *, known: Callable[[str], str]) -> str:
    """Mask a text, but for what could be a command; `known` masks what surely is one."""
    text = known(text)
    return unhidden(text, mask(text))


def unhidden(text: str, hidden: str) -> str:
    """Return a masked text with everything in clear again that could be a command."""
    first, *rest = hidden.split(MASK)
    if hidden == text or not rest or not text.startswith(first):
        return text
    shown, at = first, len(first)
    for number, kept in enumerate(rest, 1):
        last = number == len(rest)
        end = (len(text) - len(kept) if last else text.find(kept, at)) if kept or last else at
        if end < at or not text.startswith(kept, end):
            return text
        shown += _without(text[at:end], shown) + kept
        at = end + len(kept)
    return shown


def _without(span: str, before: str) -> str:
    """Mask what was hidden, as far as it may be."""
    if span == MASK:
        return span
    if "\n" not in span:
        return MASK if _inert(span) and not _EMPTY_BEFORE.search(before) else span
    lines = [MASK if _KEY_LINE.fullmatch(line) else line for line in span.split("\n")]
    return "\n".join(line for n, line in enumerate(lines) if not n or line != lines[n - 1])


def _inert(span: str) -> bool:
    return (
        not _ACTIVE.search(span.rstrip(" \t")) or _CRYPTED.fullmatch(span.strip("\"'")) is not None
    )
