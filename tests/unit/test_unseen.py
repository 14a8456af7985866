"""Characters that nobody sees carry nothing to a model, nor to a person who approves."""

from __future__ import annotations

import json

import pytest

from pvemcp.cli.words import printable
from pvemcp.page.html import plain
from pvemcp.unseen import clean

VARIANTS = "".join(chr(0xE0100 + byte) for byte in b"run it")
SMUGGLED = (
    VARIANTS, "\ufe00\ufe01", "\U000e0041", "\u3164", "\uffa0", "\u115f", "\u034f", "\u00ad",
    "\u180e", "\u200c\u200d" * 8, "\ufe0f\ufe0e" * 8, "\u202e", "\x1b", "\x9b", "\u2066",
)  # fmt: skip


@pytest.mark.parametrize("text", SMUGGLED)
def test_what_nobody_sees_is_written_out(text: str) -> None:
    for written in (clean(f"a{text}b"), plain(f"a{text}b"), printable(f"a{text}b")):
        assert not set(written) & set(text)
    assert json.loads(clean(json.dumps(f"a{text}b", ensure_ascii=False))) == f"a{text}b"


@pytest.mark.parametrize(
    "text", ["\u2764\ufe0f\u200d\U0001f525", "\u0645\u06cc\u200c\u0634", "Zürich", "a\tb\nc"]
)
def test_what_has_a_use_stays(text: str) -> None:
    assert clean(text) == text
