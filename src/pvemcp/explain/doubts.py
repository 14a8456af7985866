"""Where bash may read a text otherwise than the grammar does.

Each of these was seen: the grammar took for a word, a comment or nothing at all what bash runs.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from pvemcp.explain import syntax
from pvemcp.explain.heredoc import quoted_mark

if TYPE_CHECKING:
    from tree_sitter import Node

_OPAQUE = frozenset("raw_string ansi_c_string comment ` $( ${ $(( heredoc_start".split())
_HIDDEN = re.compile(r"`|\$\(|\$\{|[<>]\(")
_COMMENTED = frozenset(
    "program list pipeline compound_statement subshell do_group if_statement elif_clause "
    "else_clause case_statement case_item while_statement for_statement command_substitution "
    "process_substitution".split()
)
"""Where a comment may stand."""


def unreadable(node: Node, source: bytes) -> str:
    """Return why bash may read a node otherwise than the grammar does, or ""."""
    if node.is_error or node.is_missing:
        shown = " ".join(syntax.raw(node, source)[:40].split())
        return f"cannot be read as bash: {shown}" if shown else "something is missing"
    if node.type == "comment" and not _begins_comment(node, source):
        return "may be a comment or not"
    if node.type == "command_substitution" and _escapes(node, source):
        return "backslashes or backticks within backticks"
    if node.type in {"subshell", "command_substitution"} and _doubled(node, source):
        return "`((` may begin arithmetic"
    if node.type == "simple_expansion" and any(
        left.end_byte != right.start_byte for left, right in pairwise(node.children)
    ):
        return "a sign of an expansion stands apart from its name"
    if (
        node.type == "raw_string"
        and _in_expansion(node)
        and _HIDDEN.search(syntax.raw(node, source))
    ):
        return "single quotes that may not quote"
    if node.type not in _OPAQUE and _HIDDEN.search(_bare(node, source)):
        return "a substitution stands where this parser does not look"
    return ""


def _bare(node: Node, source: bytes) -> str:
    """Return what of a node's text no child of it covers, without what a backslash escapes."""
    if node.type == "heredoc_body" and quoted_mark(node, source):
        return ""
    parts, at = [], node.start_byte
    for child in node.children:
        parts.append(source[at : child.start_byte])
        at = child.end_byte
    parts.append(source[at : node.end_byte])
    return re.sub(r"\\.", "", b" ".join(parts).decode("utf-8", "replace"), flags=re.DOTALL)


def _doubled(node: Node, source: bytes) -> bool:
    return source[node.start_byte : node.start_byte + 3].lstrip(b"$").startswith(b"((")


def _in_expansion(node: Node) -> bool:
    around = node.parent
    if around is not None and around.type == "concatenation":
        around = around.parent
    return around is None or around.type in {"expansion", "array", "regex", "subscript"}


def _escapes(node: Node, source: bytes) -> bool:
    text = source[node.start_byte : node.end_byte]
    return text.startswith(b"`") and (b"\\" in text or b"`" in text[1:-1])


def _begins_comment(node: Node, source: bytes) -> bool:
    around = node.parent
    if around is None or around.type not in _COMMENTED or around.children[0].type == "((":
        return False
    before = source[max(0, node.start_byte - 2) : node.start_byte]
    return not before or (before[-1:] in b" \t\n;&|()" and before[:1] != b"\\")
