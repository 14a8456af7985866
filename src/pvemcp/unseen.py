"""Makes visible what is not meant to be seen: control, reordering and invisible characters."""

from __future__ import annotations

import json
import re

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ud800-\udfff\ufff9-\ufffb"
    # What has no look at all, so that bytes can be written in it.
    r"\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0d\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_ASCII = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""They have a use in words and emoji: two of them in turn at most."""
_JOINED = re.compile(f"[{_JOINERS}]{{3,}}")


def clean(text: str) -> str:
    """Make visible what is not meant to be seen: PVE's texts may come from anybody.

    Control characters (a terminal obeys them), characters that reorder or hide what follows, and
    lone surrogates, which JSON may carry and UTF-8 may not. They are written as JSON escapes, so
    that an answer in JSON stays valid and keeps its value.
    """
    if text.isascii():
        return _ASCII.sub(_escaped, text)
    return _JOINED.sub(_escaped, _UNSEEN.sub(_escaped, text))


def hidden(char: str) -> bool:
    """Whether a character has no look of its own; joiners, too."""
    return char in _JOINERS or _UNSEEN.fullmatch(char) is not None


def _escaped(found: re.Match[str]) -> str:
    return "".join(map(_one, found[0]))


def _one(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else json.dumps(char)[1:-1]
