"""From a shell text to the simple commands in it, wherever they stand.

The syntax tree is walked with a stack of our own, so that no depth of nesting ends in a recursion
error. Where the grammar and bash may differ, the command is marked `odd`: nobody can tell then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from pvemcp.explain import arithmetic, syntax, words
from pvemcp.explain.doubts import unreadable
from pvemcp.explain.heredoc import heredoc_text
from pvemcp.explain.values import Assignment, Command, Parsed, Redirect, Word

if TYPE_CHECKING:
    from tree_sitter import Node

LIMIT = 16_384
"""Bytes of a text that are read."""
COMMANDS = 1_000
"""Commands of a text that are listed."""
DEEP = 100
"""Nesting that is followed."""
PROBLEMS = 5
"""Places that could not be read and are named."""

_CONTEXTS = {
    "command_substitution": "$( )",
    "process_substitution": "<( )",
    "subshell": "( )",
    "for_statement": "loop",
    "c_style_for_statement": "loop",
    "while_statement": "loop",
    "if_statement": "if",
    "case_statement": "case",
    "heredoc_body": "heredoc",
}
_UNITS = frozenset(
    "command declaration_command unset_command test_command redirected_statement "
    "variable_assignment variable_assignments function_definition".split()
)
_REDIRECTS = frozenset("file_redirect heredoc_redirect herestring_redirect".split())
_NOT_WORDS = frozenset("subshell comment ERROR pipeline heredoc_start heredoc_body".split())
_ODD_BLANKS = re.compile(r"[^\S \t\n]|[\x00-\x08\x0b-\x1f\x7f\u200b\ufeff]")


@dataclass(frozen=True, slots=True)
class _Scope:
    context: str = ""
    depth: int = 0
    function: str = ""
    forks: bool = False

    def inside(self, context: str) -> _Scope:
        return replace(self, context=context, depth=self.depth + 1)


@dataclass(slots=True)
class _Reading:
    source: bytes
    loose: frozenset[str]
    commands: list[Command] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    todo: list[tuple[Node, _Scope]] = field(default_factory=list)

    def add(self, node: Node, scope: _Scope, command: Command) -> None:
        line, column = syntax.place(node)
        odd = command.odd or _odd(node, self.source)
        self.commands.append(
            replace(
                command,
                source=syntax.raw(node, self.source)[:200],
                context=scope.context or ("|" if scope.forks else ""),
                depth=scope.depth,
                line=line,
                column=column,
                function=scope.function,
                forks=scope.forks,
                odd=odd,
            )
        )

    def later(self, nodes: Sequence[Node], scope: _Scope) -> None:
        self.todo += [(node, scope) for node in reversed(nodes)]

    def problem(self, node: Node, text: str) -> None:
        line, column = syntax.place(node)
        self.problems.append(f"{line}:{column} {text}")


def parse(text: str, *, deadline: float) -> Parsed:
    """Return the commands of a bash text. It never fails: what it cannot read, it says."""
    source, problems = _bounded(text)
    tree = syntax.tree(source, deadline=deadline)
    if tree is None:
        return Parsed(problems=(*problems, "too involved to be read in time"))
    reading = _Reading(source, arithmetic.loose_names(tree.root_node, source), problems=problems)
    reading.later([tree.root_node], _Scope())
    while reading.todo and len(reading.commands) < COMMANDS:
        _visit(reading, *reading.todo.pop())
    if reading.todo and len(reading.commands) >= COMMANDS:
        reading.problems.append(f"more than {COMMANDS} commands: the rest is not listed")
    problems = list(dict.fromkeys(reading.problems))
    if len(problems) > PROBLEMS:
        problems[PROBLEMS:] = [f"and {len(problems) - PROBLEMS} more places"]
    return Parsed(tuple(reading.commands), tuple(problems), frozenset(reading.functions))


def _bounded(text: str) -> tuple[bytes, list[str]]:
    problems = []
    if len(text) > LIMIT:
        text = text[:LIMIT]
        problems.append(f"longer than {LIMIT} characters: only the beginning was read")
    if found := _ODD_BLANKS.search(text):
        line = text.count("\n", 0, found.start()) + 1
        problems.append(f"line {line}: the character {found[0]!a} may split words otherwise")
    source = text.encode("utf-8", "replace").replace(b"\0", b" ")
    return source, problems


def _visit(reading: _Reading, node: Node, scope: _Scope) -> None:
    if scope.depth > DEEP:
        reading.problem(node, f"nested deeper than {DEEP}: not read further")
        return
    if why := unreadable(node, reading.source):
        reading.problem(node, why)
    if node.type in _UNITS:
        _unit(reading, node, scope)
        return
    _implied(reading, node, scope)
    if node.type in _REDIRECTS:  # alone in `$(<file)`
        _command(reading, node, scope, [node], body=())
        return
    if context := _CONTEXTS.get(node.type):
        scope = replace(scope.inside(context), forks=False)
    children = node.children
    if node.type == "pipeline" or any(child.type == "&" for child in children):
        scope = replace(scope, forks=True)
    reading.later(children, scope)


def _implied(reading: _Reading, node: Node, scope: _Scope) -> None:
    """Add what a node does without a command: arithmetic that may run one, a loop's variable."""
    if why := arithmetic.hidden(node, reading.source, reading.loose):
        reading.add(node, scope, Command(odd=why))
    if node.type == "for_statement" and (named := node.child_by_field_name("variable")):
        given = Assignment(syntax.raw(named, reading.source), Word("", fixed=False))
        reading.add(named, scope, Command(assignments=(given,)))


def _unit(reading: _Reading, node: Node, scope: _Scope) -> None:
    match node.type:
        case "command":
            _command(reading, node, scope, ())
        case "redirected_statement":
            _redirected(reading, node, scope)
        case "function_definition":
            _function(reading, node, scope)
        case "test_command":
            _test(reading, node, scope)
        case "variable_assignment" | "variable_assignments":
            found = [node] if node.type == "variable_assignment" else node.children
            given = [_assignment(child, reading.source) for child in found if child.is_named]
            reading.add(node, scope, Command(assignments=tuple(given)))
            reading.later([part for child in found for part in child.children], scope)
        case _:
            _command(reading, node, scope, ())


def _function(reading: _Reading, node: Node, scope: _Scope) -> None:
    named = node.child_by_field_name("name")
    name = words.word([named], reading.source).text if named else ""
    reading.functions.add(name)
    inner = replace(scope.inside(f"function {name}"), function=name)
    redirects = [child for child in node.children if child.type in _REDIRECTS]
    rest = [child for child in node.children if child not in redirects and child != named]
    reading.later(rest, inner)
    if redirects:
        _command(reading, node, inner, redirects, body=())


def _test(reading: _Reading, node: Node, scope: _Scope) -> None:
    odd = arithmetic.hidden_in_test(node, reading.source, reading.loose)
    reading.add(node, scope, Command(words=(words.literal(node.children[0].type),), odd=odd))
    reading.later(node.children, scope)


def _redirected(reading: _Reading, node: Node, scope: _Scope) -> None:
    redirects = [child for child in node.children if child.type in _REDIRECTS]
    rest = [child for child in node.children if child.type not in _REDIRECTS]
    body = rest[0] if rest else None
    if body is not None and body.type in {"command", "declaration_command", "unset_command"}:
        reading.later(rest[1:], scope)
        _command(reading, body, scope, redirects)
        return
    _command(reading, node, scope, redirects, body=())
    reading.later(rest, scope)


def _command(
    reading: _Reading,
    node: Node,
    scope: _Scope,
    redirects: Sequence[Node],
    *,
    body: Sequence[Node] | None = None,
) -> None:
    """Add one command with its redirections; everything nested in its words comes after it."""
    source = reading.source
    parts = list(node.children if body is None else body)
    within, taken = _flatten([*parts, *redirects])
    assigned = [part for part in within if part.type == "variable_assignment"]
    plain = [p for p in within if p not in assigned and p.type not in _NOT_WORDS | _REDIRECTS]
    odd = "" if _spaced(parts, source) else "its words are separated in an odd way"
    if body is not None and plain:
        odd = "words stand behind the redirection of a group"
    if any(part.type == "subshell" for part in parts):
        odd = "a keyword or a syntax that this parser does not know"
    found, more_odd = _redirects(taken, source)
    command = Command(
        words=tuple(words.word(group, source) for group in _groups(plain, source)),
        redirects=found,
        assignments=tuple(_assignment(part, source) for part in assigned),
        odd=odd or more_odd,
    )
    reading.add(node, scope, command)
    reading.later(_nested([*parts, *redirects]), scope)


def _flatten(parts: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Return word nodes in order, those that the grammar put into redirections too, and these."""
    plain: list[Node] = []
    redirects: list[Node] = []
    queue = list(reversed(parts))
    while queue:
        part = queue.pop()
        if part.type not in _REDIRECTS:
            plain.append(part)
            continue
        redirects.append(part)
        named = [child for child in part.children if child.is_named]
        if part.type == "file_redirect":
            targets = part.children_by_field_name("destination")
            queue += reversed(targets[1:])
        elif part.type == "heredoc_redirect":
            arguments = part.children_by_field_name("argument")
            keep = [child for child in named if child in arguments or child.type in _REDIRECTS]
            queue += reversed(keep)
    return plain, redirects


def _nested(parts: Sequence[Node]) -> list[Node]:
    """Return what may hold commands of its own: the children of words and redirections."""
    found: list[Node] = []
    queue = list(reversed(parts))
    while queue:
        part = queue.pop()
        if part.type == "file_redirect" and _read_write(part):
            queue += [child for child in reversed(part.children) if child.type != "ERROR"]
        elif part.type in _REDIRECTS or part.type == "variable_assignment":
            queue += reversed(part.children)
        else:
            found.append(part)
    return found


def _groups(plain: Sequence[Node], source: bytes) -> list[list[Node]]:
    groups: list[list[Node]] = []
    for node in plain:
        if groups and joined(source, groups[-1][-1], node):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def joined(source: bytes, left: Node, right: Node) -> bool:
    """Tell whether two nodes are one word."""
    return left.end_byte <= right.start_byte and words.joined(
        source, left.end_byte, right.start_byte
    )


def _redirects(nodes: Sequence[Node], source: bytes) -> tuple[tuple[Redirect, ...], str]:
    found, odd = [], ""
    for node in nodes:
        if node.type == "heredoc_redirect":
            body, why = heredoc_text(node, source)
            found.append(Redirect("<<", body))
            odd = odd or why
            continue
        signs = [child.type for child in node.children if not child.is_named]
        operator = "<>" if _read_write(node) else (signs or ["?"])[0]
        operator = operator.rstrip("-") if operator.endswith("&-") else operator
        targets = node.children_by_field_name("destination")[:1]
        if node.type == "herestring_redirect":
            targets = [child for child in node.children if child.is_named][-1:]
            operator = "<<"
        target = words.word(targets, source) if targets else Word("-")
        found.append(Redirect(operator, target))
    return tuple(found), odd


def _read_write(node: Node) -> bool:
    """Tell whether the redirection is `<>`, of which the grammar reads only the first sign."""
    kinds = [child for child in node.children if child.type in {"<", "ERROR"}]
    return len(kinds) == 2 and kinds[1].end_byte - kinds[1].start_byte == 1


def _assignment(node: Node, source: bytes) -> Assignment:
    named = node.child_by_field_name("name")
    value = node.child_by_field_name("value")
    name = syntax.raw(named, source) if named else "?"
    return Assignment(name, words.word([value], source) if value else Word(""))


def _spaced(parts: Sequence[Node], source: bytes) -> bool:
    """Tell whether the parts of a command stand apart as bash would have them."""
    return all(
        words.blank(source, left.end_byte, right.start_byte) for left, right in pairwise(parts)
    )


def _odd(node: Node, source: bytes) -> str:
    start = node.start_byte
    before = source[max(0, start - 2) : start]
    escaped = len(before) == 2 and before[:1] == b"\\" and before[1:] != b"\n"
    return "an escaped blank stands before it" if escaped else ""
