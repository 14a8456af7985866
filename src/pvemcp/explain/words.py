"""Words: from syntax nodes to text without quotes, and what stays unknown until it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvemcp.explain.syntax import raw
from pvemcp.explain.values import Word

if TYPE_CHECKING:
    from tree_sitter import Node

SHOWN = 60
"""Characters of an expansion that are shown."""

_BLANK = re.compile(r"(?:[ \t\n]|\\\n)*")
_DYNAMIC = frozenset(
    "simple_expansion expansion command_substitution arithmetic_expansion brace_expression".split()
)
_PLAIN = frozenset(
    "word number variable_name special_variable_name extglob_pattern regex test_operator "
    "file_descriptor".split()
)
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "?": "?",
}
_ANSI = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,3})|(.))", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    quoted: bool = False
    known: bool = True
    head: str = ""


def word(nodes: Sequence[Node], source: bytes) -> Word:
    """Return the word that adjacent nodes make up."""
    pieces: list[_Piece] = []
    for before, node in zip((None, *nodes), nodes, strict=False):
        if before is not None and before.end_byte < node.start_byte:
            pieces += _between(source[before.end_byte : node.start_byte].decode("utf-8", "replace"))
        pieces += _pieces(node, source, quoted=False)
    return _word(pieces)


def literal(text: str) -> Word:
    """Return a word whose text is known."""
    return Word(text)


def unknown(text: str, *, head: str = "", many: bool = False) -> Word:
    """Return a word that is known only at run time."""
    return Word(text, fixed=False, head=head, many=many)


def blank(source: bytes, start: int, end: int) -> bool:
    """Tell whether only what separates words stands between two offsets, or nothing at all."""
    return bool(_BLANK.fullmatch(source[start:end].decode("utf-8", "replace")))


def joined(source: bytes, start: int, end: int) -> bool:
    """Tell whether two nodes are one word for bash: nothing or `\\newline` stands between."""
    return not source[start:end].replace(b"\\\n", b"")


def _word(pieces: Sequence[_Piece]) -> Word:
    text = "".join(piece.text for piece in pieces)
    mask = "".join("\0" * len(p.text) if p.quoted or not p.known else p.text for p in pieces)
    cut, at = _pattern(mask), 0
    head = None if cut < 0 else text[:cut]
    for piece in pieces:
        if not piece.known and (cut < 0 or at < cut):
            head = text[:at] + piece.head
            break
        at += len(piece.text)
    if head is None:
        return Word(text)
    many = any(not piece.known and not piece.quoted for piece in pieces)
    return Word(text, fixed=False, head=head, many=many)


def _pattern(mask: str) -> int:
    """Return where a glob or brace expansion begins in unquoted text, or -1."""
    starts = [mask.find(sign) for sign in "*?"]
    starts += [_pair(mask, "[", "]"), _pair(mask, "{", "}")]
    return min((start for start in starts if start >= 0), default=-1)


def _pair(mask: str, opens: str, closes: str) -> int:
    first, last = mask.find(opens), mask.rfind(closes)
    if first < 0 or last < first or mask[first : last + 1] == "{}":
        return -1
    return first


def _pieces(node: Node, source: bytes, *, quoted: bool) -> Iterator[_Piece]:
    match node.type:
        case "raw_string":
            yield _Piece(raw(node, source)[1:-1], quoted=True)
        case "ansi_c_string":
            yield _ansi(raw(node, source))
        case "string":
            yield from _string(node, source)
        case "process_substitution":
            yield _Piece(_short(node, source), quoted=True, known=False, head="/dev/fd/")
        case kind if kind in _DYNAMIC:
            yield _Piece(_short(node, source), quoted=quoted, known=False)
        case "concatenation" | "command_name" | "translated_string":
            yield from _parts(node, source)
        case kind if not node.child_count and (kind in _PLAIN or not node.is_named):
            yield from _bare(raw(node, source))
        case _:
            yield _Piece(_short(node, source), known=False)


def _parts(node: Node, source: bytes) -> Iterator[_Piece]:
    at = node.start_byte
    for child in node.children:
        yield from _between(source[at : child.start_byte].decode("utf-8", "replace"))
        if not (node.type == "translated_string" and child.type == "$"):
            yield from _pieces(child, source, quoted=False)
        at = child.end_byte


def _between(text: str) -> Iterator[_Piece]:
    if rest := text.replace("\\\n", ""):
        yield _Piece(rest, known=False)  # the grammar skipped something that bash may not skip


def _string(node: Node, source: bytes) -> Iterator[_Piece]:
    at = node.start_byte
    for child in node.children:
        yield _Piece(_double(source[at : child.start_byte].decode("utf-8", "replace")), quoted=True)
        text = raw(child, source)
        if child.type == "string_content":
            yield _Piece(_double(text), quoted=True)
        elif child.type == '"':
            yield _Piece(text.replace('"', ""), quoted=True)
        elif child.type == "$":
            yield _Piece(text, quoted=True)
        else:
            yield from _pieces(child, source, quoted=True)
        at = child.end_byte


def _bare(text: str) -> Iterator[_Piece]:
    for part in re.split(r"(\\.)", text.replace("\\\n", ""), flags=re.DOTALL):
        if part.startswith("\\") and len(part) == 2:
            yield _Piece(part[1], quoted=True)
        elif part:
            yield _Piece(part)


def _double(text: str) -> str:
    return re.sub(r'\\([$`"\\\n])', lambda m: "" if m[1] == "\n" else m[1], text)


def _ansi(text: str) -> _Piece:
    body = text[2:-1]
    known = "\\c" not in body
    try:
        return _Piece(_ANSI.sub(_escape, body).split("\0")[0], quoted=True, known=known)
    except ValueError:  # a code beyond Unicode
        return _Piece(body, quoted=True, known=False)


def _escape(found: re.Match[str]) -> str:
    for group, base in ((1, 16), (2, 16), (3, 16), (4, 8)):
        if found[group]:
            return chr(int(found[group], base) & (0xFF if base == 8 else 0x7FFFFFFF))
    return _ESCAPES.get(found[5], found[0])


def _short(node: Node, source: bytes) -> str:
    end = min(node.end_byte, node.start_byte + SHOWN)
    text = source[node.start_byte : end].decode("utf-8", "replace").strip()
    return " ".join(text.split()) + ("…" if end < node.end_byte else "")
