"""Makes visible what is not meant to be seen: control, reordering and invisible characters."""

from __future__ import annotations

import json
import re

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Make visible what is not meant to be seen: PVE's texts may come from anybody.

    Control characters (a terminal obeys them), characters that reorder or hide what follows, and
    lone surrogates, which JSON may carry and UTF-8 may not. They are written as JSON escapes, so
    that an answer in JSON stays valid and keeps its value.
    """
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else json.dumps(found[0])[1:-1]
