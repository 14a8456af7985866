"""Text that others wrote: notes of a guest, its files, what its commands print.

It is data. In an answer it stands between marks that it cannot forge, because they hold the id of
the call, which is made when the call begins; a terminal's sequences are taken out of it. The call
remembers whose text it has shown.
"""

from __future__ import annotations

import re

from pvemcp.call import Call
from pvemcp.tools.render import one_line

MARK = 8
"""Characters of the call's id that the marks hold."""
_STRINGS = r"(?:\x1b[PX^_\]]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)?"
_SEQUENCES = re.compile(
    rf"{_STRINGS}|(?:\x1b\[|\x9b)[0-?]{{0,64}}[ -/]{{0,8}}[@-~]?|\x1b[ -/]{{0,8}}[0-~]?"
)


def quoted(call: Call, source: str, text: str) -> str:
    """Put foreign text between marks, and note its source (`qemu/105 notes`) in the call."""
    note(call, source)
    mark = call.id[:MARK]
    return f"<<<{mark} {source}\n{without_sequences(text)}\n>>>{mark}"


def note(call: Call, *sources: str) -> None:
    """Note whose text a call has shown."""
    call.tainted.extend(source for source in sources if source not in call.tainted)


def without_sequences(text: str) -> str:
    """Take out what a terminal would obey: colours, titles, links, moves of the cursor."""
    return _SEQUENCES.sub("", text)


def flat(text: object, limit: int = 200) -> str:
    """Write foreign text on one line, cut."""
    return one_line(without_sequences(str(text)), limit)
