"""The API description of one PVE host: every method it has, found by path or by words.

PVE publishes it as JavaScript at `/pve-docs/api-viewer/apidoc.js` (seen on PVE 9.1: 3.9 MB, 649
methods). The decoded tree would cost some 15 MB, so each method stays compact JSON text and is
decoded when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from pvemcp.errors import Invalid, Misconfigured
from pvemcp.pve.nearest import nearest
from pvemcp.pve.schema import Method, method_of
from pvemcp.pve.search import Index

K = TypeVar("K")
V = TypeVar("V")

VERBS = ("GET", "POST", "PUT", "DELETE")
LONGEST_PATH = 2000
"""Characters. PVE takes 8 KiB of headers in all; no real path comes near this."""

_REST = frozenset({"volume", "cidr"})
"""Last template parameters whose value may hold slashes: PVE matches the rest of the path with
them (seen on PVE 9.1 in storage content and IP sets)."""

_KEPT_METHODS = 64
_KEPT_MATCHES = 256
_API_ROOT = re.compile(r"^/?api2/json(?=/|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Match:
    """A concrete path resolved: its method, and the values of the template's parameters."""

    method: Method
    values: dict[str, str]


@dataclass(slots=True)
class _Node:
    template: str = ""
    children: dict[str, _Node] = field(default_factory=dict)
    wild: _Node | None = None
    name: str = ""
    """Name of the parameter that leads here, if one does."""
    verbs: list[str] = field(default_factory=list)

    def step(self, segment: str) -> _Node | None:
        return self.children.get(segment) or self.wild


class Description:
    """What one PVE host can be asked. Immutable once parsed."""

    def __init__(self, texts: dict[tuple[str, str], str], *, digest: str, source: str) -> None:
        self.digest = digest
        """Short hash of the description's text."""
        self.source = source
        """Where it came from, for people."""
        self._texts = texts
        self._root = _grow(texts)
        self._decoded: OrderedDict[tuple[str, str], Method] = OrderedDict()
        self._matches: OrderedDict[tuple[str, str], Match] = OrderedDict()
        self._index: Index | None = None

    @classmethod
    def parse(cls, text: str, *, source: str = "") -> Description:
        """Read apidoc.js as a host serves it, or the bare JSON array in it.

        Raises Misconfigured when the text holds no API description.
        """
        try:
            start = text.index("[")
            tree, end = _DECODER.raw_decode(text, start)
            texts = dict(_walk(tree))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _no_description(source) from error
        if not texts:
            raise _no_description(source)
        return cls(texts, digest=digest_of(text[start:end]), source=source)

    def __len__(self) -> int:
        return len(self._texts)

    def method(self, verb: str, template: str) -> Method | None:
        """Return the method of a path template such as `/nodes/{node}/qemu`, or None."""
        key = (template, verb)
        method = self._decoded.get(key)
        if method is not None:
            self._decoded.move_to_end(key)
            return method
        text = self._texts.get(key)
        if text is None:
            return None
        method = method_of(template, verb, json.loads(text))
        _keep(self._decoded, key, method, limit=_KEPT_METHODS)
        return method

    def methods(self) -> Iterator[Method]:
        """Decode every method, in the order of the description."""
        for (template, verb), text in self._texts.items():
            yield method_of(template, verb, json.loads(text))

    def verbs(self, template: str) -> list[str]:
        """Return the verbs that a path template has."""
        return [verb for verb in VERBS if (template, verb) in self._texts]

    def match(self, verb: str, path: str) -> Match:
        """Resolve a concrete path such as `/nodes/pve1/qemu/100/config`.

        Segments may be percent-encoded once. A leading `/api2/json` is tolerated, and a trailing
        slash of a read. A segment never matches more than its own template parameter: `..`, empty
        segments and encoded slashes are refused (slashes are fine in a volume id at the end).
        Raises Invalid with the nearest existing paths, or the verbs that the path does have.
        """
        key = (verb, path)
        found = self._matches.get(key)
        if found is None:
            found = self._resolve(verb.upper(), path)
            _keep(self._matches, key, found, limit=_KEPT_MATCHES)
        return found

    def search(self, words: str | Iterable[str], limit: int = 20) -> list[Method]:
        """Find methods by words over path, name, parameters and purpose, best first."""
        if self._index is None:
            self._index = Index(self.methods())
        query = words if isinstance(words, str) else " ".join(words)
        found = self._index.find(query, limit)
        return [m for verb, path in found if (m := self.method(verb, path)) is not None]

    def _resolve(self, verb: str, path: str) -> Match:
        if verb != "GET" and path.endswith("/"):
            raise Invalid(
                "the path of a write ends in a slash: a name seems to be missing",
                hint="Name what is meant, or leave the slash out.",
            )
        node, values = self._descend(segments_of(path))
        method = self.method(verb, node.template) if node.template else None
        if method is None:
            raise _no_verb(verb, node)
        return Match(method, values)

    def _descend(self, segments: list[str]) -> tuple[_Node, dict[str, str]]:
        node, values = self._root, {}
        for position, segment in enumerate(segments):
            following = node.step(segment)
            if following is None:
                raise self._no_path(segments, node)
            by_value = segment not in node.children
            node = following
            if node.name and by_value:
                rest = node.name in _REST and not node.children and node.wild is None
                values[node.name] = "/".join(segments[position:]) if rest else segment
                if rest:
                    return node, values
            if "/" in segment:
                raise Invalid(
                    f"{segment[:60]!r} holds a slash, and this part of the path takes none",
                    hint="Only a volume id or a network at the end of a path may hold slashes.",
                )
        return node, values

    def _no_path(self, segments: list[str], node: _Node) -> Invalid:
        path = "/" + "/".join(segments)
        below = [child.template for child in node.children.values() if child.template]
        near = nearest(f"{node.template}/{segments[-1]}", below)
        near += _alike(segments, dict.fromkeys(template for template, _ in self._texts))
        near += below
        hint = f"Nearest: {', '.join(list(dict.fromkeys(near))[:5])}. " if near else ""
        return Invalid(
            f"this PVE has no path {path[:120]}",
            hint=f"{hint}Search by words to find a path.",
        )


def array_in(text: str) -> str:
    """Return the JSON array in apidoc.js, without the JavaScript around it."""
    start = text.index("[")
    return text[start : _DECODER.raw_decode(text, start)[1]]


def digest_of(text: str) -> str:
    """Return a short hash of a description's JSON."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def segments_of(path: str) -> list[str]:
    """Split a path into its decoded segments. Raises Invalid for one that could mislead PVE."""
    if len(path) > LONGEST_PATH:
        raise Invalid(f"the path is longer than {LONGEST_PATH} characters")
    if "?" in path or "#" in path:
        raise Invalid("the path holds ? or #", hint="Give parameters apart from the path.")
    trimmed = _API_ROOT.sub("", path).strip("/")
    if not trimmed:
        return []
    try:
        segments = [unquote(part, errors="strict") for part in trimmed.split("/")]
        "".join(segments).encode()
    except UnicodeError:
        raise Invalid("the path is not valid UTF-8") from None
    for part in "/".join(segments).split("/"):
        if part in {"", ".", ".."} or _CONTROL.search(part):
            raise Invalid(
                f"the path {path[:120]!r} has an empty part, . or .., or a control character",
                hint="Write it like /nodes/pve1/qemu/100/config.",
            )
    return segments


def _pack(found: dict[str, Any]) -> dict[str, Any]:
    """Write the methods of a node as text as soon as they are read: the whole tree (15 MB) never
    stands in memory. A `path` that is a text tells a node from a schema with such a property."""
    info = found.get("info")
    if isinstance(info, dict) and isinstance(found.get("path"), str):
        found["info"] = {
            verb: _ENCODE(method) for verb, method in info.items() if isinstance(method, dict)
        }
    return found


_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_DECODER = json.JSONDecoder(object_hook=_pack)


def _walk(tree: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, str], str]]:
    stack = list(reversed(tree))
    while stack:
        node = stack.pop()
        for verb, text in (node.get("info") or {}).items():
            if verb in VERBS:
                yield (node["path"], verb), text
        stack.extend(reversed(node.get("children") or ()))


def _grow(texts: Iterable[tuple[str, str]]) -> _Node:
    root = _Node()
    for template, verb in texts:
        node = root
        for segment in template.strip("/").split("/"):
            if segment.startswith("{"):
                node.wild = node.wild or _Node(name=segment[1:-1])
                node = node.wild
            else:
                node = node.children.setdefault(segment, _Node())
        node.template = template
        node.verbs.append(verb)
    return root


def _alike(segments: list[str], templates: Iterable[str]) -> list[str]:
    """Return up to three templates that share most segments with a path, shortest first."""
    given = set(segments)
    shared = [(len(given.intersection(t.split("/"))), t) for t in templates]
    most = max((count for count, _ in shared), default=0)
    best = [template for count, template in shared if count == most > 0]
    return sorted(best, key=lambda template: (abs(template.count("/") - len(given)), template))[:3]


def _no_verb(verb: str, node: _Node) -> Invalid:
    if verb not in VERBS:
        return Invalid(f"{verb[:20]!r} is not a verb", hint=f"Verbs: {', '.join(VERBS)}.")
    if not node.template:
        below = ", ".join(sorted(node.children)[:20])
        return Invalid("this path has no methods of its own", hint=f"Below it: {below}.")
    return Invalid(
        f"{node.template} has no {verb}", hint=f"It has {', '.join(sorted(node.verbs))}."
    )


def _no_description(source: str) -> Misconfigured:
    return Misconfigured(
        f"{source or 'the text'} holds no PVE API description",
        hint="It must be apidoc.js as a PVE host serves it at /pve-docs/api-viewer/apidoc.js.",
    )


def _keep(kept: OrderedDict[K, V], key: K, value: V, *, limit: int) -> None:
    kept[key] = value
    while len(kept) > limit:
        kept.popitem(last=False)
