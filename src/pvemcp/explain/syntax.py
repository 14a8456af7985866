"""The parser: tree-sitter's bash grammar, loaded at first use, with bounds on size and time."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Node, Point, Tree

PIPES = 400
"""Above so many `|` the grammar takes cubic time."""

_ASCII = bytes(code if code < 128 else ord("/") for code in range(256))
"""Every other byte stands as a plain sign of a word, at its place. The grammar's scanner calls
isdigit() on whatever comes after `{`, which reads outside of its table for a sign beyond 255:
a segmentation fault, seen with tree-sitter-bash 0.25.1."""


@cache
def _language() -> Language:
    # Imported here: the service must start without paying for the grammar.
    import tree_sitter_bash  # noqa: PLC0415
    from tree_sitter import Language  # noqa: PLC0415

    return Language(tree_sitter_bash.language())


def tree(source: bytes, *, deadline: float) -> Tree | None:
    """Return the syntax tree, or None when it is not there at `deadline` (time.monotonic)."""
    from tree_sitter import Parser  # noqa: PLC0415

    plain = source.translate(_ASCII)
    if source.count(b"|") > PIPES:
        return None

    def read(offset: int, _point: Point) -> bytes:
        return plain[offset:]

    def late(_offset: int, _error: bool) -> bool:  # noqa: FBT001 - tree-sitter's signature
        return time.monotonic() > deadline

    try:
        return Parser(_language()).parse(read, progress_callback=late)
    except ValueError:  # parsing was halted
        return None


def raw(node: Node, source: bytes) -> str:
    """Return the text of a node."""
    return source[node.start_byte : node.end_byte].decode("utf-8", "replace")


def place(node: Node) -> tuple[int, int]:
    """Return line and column of a node, from 1."""
    return node.start_point[0] + 1, node.start_point[1] + 1
