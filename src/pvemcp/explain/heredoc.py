"""Here-documents: where bash ends them, checked against where the grammar does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pvemcp.explain.syntax import raw
from pvemcp.explain.values import Word

if TYPE_CHECKING:
    from tree_sitter import Node

_PLAIN_MARK = re.compile(r"(\\?)([\w.+-]+)|'([\w.+-]+)'|\"([\w.+-]+)\"", re.ASCII)
_ODD = "this parser may end the here-document elsewhere than bash"


def quoted_mark(body: Node, source: bytes) -> bool:
    """Tell whether the mark of a here-document has quotes, so that nothing in it is expanded."""
    around = body.parent.children if body.parent else []
    return any(
        part.type == "heredoc_start" and raw(part, source)[:1] in {"'", '"', "\\"}
        for part in around
    )


def heredoc_text(node: Node, source: bytes) -> tuple[Word, str]:
    """Return the text of a `heredoc_redirect` as a word, and why its end is in doubt."""
    parts = {child.type: child for child in node.children}
    start, body, end = (parts.get(f"heredoc_{name}") for name in ("start", "body", "end"))
    mark = _PLAIN_MARK.fullmatch(raw(start, source)) if start else None
    if start is None or body is None or end is None or mark is None:
        return Word("<<", fixed=False), _ODD
    name = mark[2] or mark[3] or mark[4]
    line_end = source.find(b"\n", start.end_byte)
    lines = source[line_end + 1 : end.end_byte].decode("utf-8", "replace").split("\n")
    if "<<-" in parts:
        lines = [line.lstrip("\t") for line in lines]
    # The mark must be a whole line, the first such, and the last of what the grammar took.
    if lines.index(name) != len(lines) - 1 if name in lines else True:
        return Word("<<", fixed=False), _ODD
    if source[end.end_byte : end.end_byte + 1] not in {b"", b"\n"}:
        return Word("<<", fixed=False), _ODD
    text = "\n".join([*lines[:-1], ""])
    quoted = mark[2] is None or bool(mark[1])
    fixed = quoted or not re.search(r"[$`\\]", text)
    return Word(text, fixed=fixed), ""
