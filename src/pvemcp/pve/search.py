"""Finding methods by words. Hits in the path weigh most, then names, parameters, descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pvemcp.pve.schema import Method

SYNONYMS: dict[str, tuple[str, ...]] = {
    "vm": ("qemu",),
    "kvm": ("qemu",),
    "machine": ("qemu",),
    "guest": ("qemu", "lxc", "guest"),
    "ct": ("lxc",),
    "container": ("lxc",),
    "backup": ("vzdump", "backup", "archive"),
    "restore": ("restore", "archive"),
    "host": ("node", "host"),
    "hypervisor": ("node",),
    "server": ("node", "server"),
    "drive": ("disk",),
    "volume": ("volume", "content", "disk"),
    "image": ("content", "image"),
    "iso": ("content", "iso"),
    "permission": ("permission", "acl"),
    "right": ("permission", "acl"),
    "privilege": ("permission", "role"),
    "power": ("status",),
    "poweroff": ("stop",),
    "halt": ("shutdown",),
    "restart": ("restart", "reboot"),
    "log": ("log", "journal", "syslog"),
    "update": ("update", "apt"),
    "upgrade": ("apt", "update"),
    "package": ("apt", "package"),
    "cert": ("certificate",),
    "ip": ("ip", "interface", "network"),
    "exec": ("exec",),
    "execute": ("exec", "execute"),
    "run": ("exec", "run"),
    "graph": ("rrddata",),
    "statistic": ("rrddata",),
    "usage": ("rrddata", "status"),
    "copy": ("clone", "copy"),
    "id": ("nextid", "id"),
    "free": ("nextid", "free"),
    "job": ("task", "job", "backup"),
}
"""What people say and what PVE calls it."""

VERB_WORDS = {
    "create": "POST", "add": "POST", "new": "POST", "make": "POST",
    "delete": "DELETE", "remove": "DELETE", "destroy": "DELETE",
    "list": "GET", "get": "GET", "show": "GET", "read": "GET",
    "set": "PUT", "change": "PUT", "modify": "PUT", "edit": "PUT",
}  # fmt: skip

_WORD = re.compile(r"[a-z0-9]+")
_STOP = frozenset({"a", "an", "the", "of", "to", "in", "on", "for", "and", "all", "my", "with"})
_MOST_WORDS = 12


@dataclass(frozen=True, slots=True)
class _Entry:
    verb: str
    path: str
    segments: frozenset[str]
    names: str
    text: str


class Index:
    """The words of every method, small enough to stay in memory (about 1 KB a method)."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._entries = [_entry(method) for method in methods]

    def find(self, query: str, limit: int) -> list[tuple[str, str]]:
        """Return (verb, path template) pairs, best first.

        Methods that have every word come alone; only when there is none, those with most words.
        """
        words = [w for w in _WORD.findall(query.lower()) if w not in _STOP][:_MOST_WORDS]
        scored = [(hits, score, e) for e in self._entries if (found := _score(e, words))
                  for hits, score in (found,) if hits]  # fmt: skip
        most = max((hits for hits, _, _ in scored), default=0)
        best = [item for item in scored if item[0] == most]
        best.sort(key=lambda item: (-item[1], len(item[2].path), item[2].path, item[2].verb))
        return [(entry.verb, entry.path) for _, _, entry in best[: max(limit, 0)]]


def _entry(method: Method) -> _Entry:
    names = " ".join([method.name, *(p.name for p in method.parameters)])
    return _Entry(
        verb=method.verb,
        path=method.path,
        segments=frozenset(_stem(word) for word in _WORD.findall(method.path.lower())),
        names=" ".join(map(_stem, _WORD.findall(names.lower().replace("_", " ")))),
        text=" ".join(map(_stem, _WORD.findall(method.description.lower()[:600]))),
    )


def _score(entry: _Entry, words: list[str]) -> tuple[int, int]:
    hits = score = 0
    for word in words:
        points = _points(entry, word)
        hits += points > 0
        score += points
    return hits, score


def _points(entry: _Entry, word: str) -> int:
    verb = VERB_WORDS.get(word)
    points = 5 if verb == entry.verb else 0
    stem = _stem(word)
    terms = SYNONYMS.get(stem, (stem,))
    return max(points, *(_term_points(entry, term, exact=term == stem) for term in terms))


def _term_points(entry: _Entry, term: str, *, exact: bool) -> int:
    if term in entry.segments:
        return 10 + exact
    if any(segment.startswith(term) for segment in entry.segments):
        return 7
    if re.search(rf"\b{term}", entry.names):
        return 4
    if re.search(rf"\b{term}", entry.text):
        return 2
    return 0


def _stem(word: str) -> str:
    """Drop the plural: `snapshots` and `snapshot` are one word, `status` stays."""
    if len(word) > 3 and word.endswith("ies"):
        return f"{word[:-3]}y"
    plural = len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is", "fs"))
    return word[:-1] if plural else word
