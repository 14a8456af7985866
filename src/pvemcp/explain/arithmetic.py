"""Where bash runs commands that no syntax shows: arithmetic on text.

`x='a[$(reboot)]'; echo $((x))` runs reboot, for bash evaluates what a variable holds. So numbers
may come only from variables that this text sets to nothing else, or does not set at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pvemcp.explain.syntax import raw

if TYPE_CHECKING:
    from tree_sitter import Node

_EVALUATED = frozenset("arithmetic_expansion c_style_for_statement subscript".split())
_COMPARES = frozenset("-eq -ne -lt -le -gt -ge".split())
_SETTERS = re.compile(
    r"\b(?:read|mapfile|readarray|getopts|printf|declare|local|typeset)\b([^;|&\n]*)"
)
_WHY = "arithmetic on text: bash would run a command that hides in a value"


def loose_names(root: Node, source: bytes) -> frozenset[str]:
    """Return the variables that the text may set to something else than a number."""
    names: set[str] = set()
    for node in descendants(root):
        if node.type == "variable_assignment":
            value, name = node.child_by_field_name("value"), node.child_by_field_name("name")
            if name and not (value and _numeric(value)):
                names.add(raw(name, source).partition("[")[0])
        elif node.type == "for_statement":
            values = node.children_by_field_name("value")
            variable = node.child_by_field_name("variable")
            if variable and not (values and all(value.type == "number" for value in values)):
                names.add(raw(variable, source))
    text = source.decode("utf-8", "replace")
    for found in _SETTERS.finditer(text):
        names.update(re.findall(r"\w+", found[1]))
    return frozenset(names)


def _numeric(value: Node) -> bool:
    plain = value.type == "number" and not value.child_count
    return plain or value.type == "arithmetic_expansion"


def hidden(node: Node, source: bytes, loose: frozenset[str]) -> str:
    """Return why a node may run what it does not show, or ""."""
    if node.type == "expansion":
        return _hidden_expansion(node, source, loose)
    kinds = {child.type for child in node.children} if node.type == "compound_statement" else ()
    if node.type not in _EVALUATED and "((" not in kinds:
        return ""
    parts = node.children
    if node.type == "c_style_for_statement":
        parts = [part for part in parts if part.type != "do_group"]
    return _WHY if any(_evaluates(part, source, loose) for part in parts) else ""


def hidden_in_test(node: Node, source: bytes, loose: frozenset[str]) -> str:
    """Return why a `[ ]` or `[[ ]]` may do more than compare, or ""."""
    double = node.children[0].type == "[["
    signs = {child.type for child in descendants(node) if not child.is_named}
    if not double and signs & {">", "<", ">>", "<<", "&&", "||", "|", "&", ";", "(("}:
        return "within [ ] this is a redirection or a second command"
    text = raw(node, source)
    if re.search(r"(?<!\S)-[vR]\s+(?!\w+(?:\s|$))", text):
        return _WHY
    if double and any(f" {sign} " in text or f"{sign}\t" in text for sign in _COMPARES):
        return _WHY if any(_evaluates(part, source, loose) for part in node.children) else ""
    return ""


def _hidden_expansion(node: Node, source: bytes, loose: frozenset[str]) -> str:
    kinds = [child.type for child in node.children]
    if "P" in kinds:
        return "the expansion @P runs the commands in a value"
    evaluated = {":", "!", "subscript"} & set(kinds)
    names = {raw(part, source) for part in descendants(node) if part.type == "variable_name"}
    return _WHY if evaluated and names & loose else ""


def _evaluates(node: Node, source: bytes, loose: frozenset[str]) -> bool:
    for part in descendants(node):
        if part.type in {"command_substitution", "raw_string", "ansi_c_string"}:
            return True
        if part.type == "string" and "$" not in raw(part, source):
            return True
        if part.type in {"variable_name", "word"} and raw(part, source) in loose:
            return True
        if part.type in {"word", "string_content"} and "[" in raw(part, source):
            return True
    return False


def descendants(node: Node) -> Iterator[Node]:
    """Walk a tree in order, without recursion."""
    todo = [node]
    while todo:
        part = todo.pop()
        yield part
        todo += reversed(part.children)
