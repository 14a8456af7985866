"""Finding methods by words: rare words and words of the path decide, the rest only ranks.

A method's score is the sum, over the words asked for, of how rare the word is times the weight of
the best field that has it. Verbs in the question (add, delete, list) prefer methods of that kind.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from pvemcp.pve.schema import Method

_SYNONYMS = """
vm: qemu
kvm: qemu
machine: qemu
virtual: qemu
guest: qemu lxc
ct: lxc
container: lxc
backup: vzdump backup
backups: vzdump backup
dump: vzdump
restore: archive
open: rule
allow: rule acl
host: node
hypervisor: node
server: node
drive: disk
volume: content disk
image: content
iso: content storage
template: template
move: migrate move
migration: migrate
copy: clone
duplicate: clone
add: create
new: create
make: create
remove: delete
destroy: delete
purge: delete
who: log task
changed: log task
history: log task
audit: log
log: journal syslog
syslog: journal
event: log
permission: acl
right: acl
access: acl
privilege: role permission
power: status
poweroff: stop
halt: shutdown
shutdown: stopall
reboot: status
restart: reboot
off: stop shutdown
on: start
update: apt
upgrade: apt
package: apt
expiry: certificate
expire: certificate
expires: certificate
ssl: certificate
tls: certificate
ip: interface network
address: interface network
exec: agent
execute: exec agent
run: exec
command: exec
graph: rrddata
statistic: rrddata
metric: rrddata metrics
usage: rrddata status
load: rrddata status
space: status
full: status
free: nextid status
grant: acl
prune: prunebackup
job: backup
health: smart status
account: user
login: ticket user
password: password user
grow: resize
enlarge: resize
bigger: resize
extend: resize
bridge: network
nic: network config
port: rule
settings: config options
setting: config options
configuration: config
hardware: config hardware
cpu: config rrddata
memory: config rrddata
ram: config memory
rename: config
gpu: pci
passthrough: pci usb
2fa: tfa
mfa: tfa
factor: tfa
totp: tfa
console: vncproxy termproxy spiceproxy
vnc: vncproxy
email: notification
mail: notification
alert: notification
failed: task
wear: smart
influx: metric
vlan: network
"""
"""What people say, and what PVE calls it."""

_HINTS = """
create add new make: POST PUT
delete remove destroy purge: DELETE
list show get read see view which what who: GET
set change modify edit rename enable disable: PUT POST
start stop shutdown reboot migrate move clone copy restore open allow: POST
"""
"""Words that tell which verbs are meant."""

_KNOWN_FOR = {
    "POST /nodes/{node}/qemu": "restore",
    "POST /nodes/{node}/lxc": "restore",
    "POST /nodes/{node}/status": "reboot shutdown",
}
_MEMBERS = {"POST /cluster/ha/resources": "qemu lxc", "PUT /pools": "qemu lxc"}
"""Words of methods whose path tells too little: what they do, and what they take."""

_STOP = frozenset(
    """
    a an the of to in into on from for and or with by at as it its is are be do does can i me my all
    any another other how now please please which what that this there one some every has have
    """.split()
)
_WEAK = "start stop who list show get run make new add create delete remove destroy set change"
"""Words that only rank: they are part of most questions, or said by the verb."""

_KNOWN, _LAST, _PART, _PATH, _NAME, _PARAMETER, _TEXT = 15, 12, 10, 9, 5, 2, 2
"""Weight of a field, up to 15: what the method is known for, last path segment, one part of it,
other segments, method name, parameter name, description."""
_SYNONYM, _PREFIX, _WEAKLY = 0.9, 0.6, 0.35
_MEANT, _NOT_MEANT, _READ = 1.35, 0.8, 1.15
"""For a verb that the question names, for another, and for GET when it names none."""
_DEPTH = 0.06
"""How much each further word of a path costs: methods of the thing itself come first."""
_MENU = 0.6
"""What the list of the paths below a path is worth."""
_KEEP = 0.5
"""Results below this share of the best score are left out."""
_MOST_WORDS = 12
_MOST_TEXT = 300
"""Characters of a description that are read: its first sentences."""
_BITS = 4

_INDEX = re.compile(r"index|idx", re.IGNORECASE)
_BETWEEN = re.compile(r"[/_-]")
_WORD = re.compile(r"[a-z0-9]+")


def _stem(word: str) -> str:
    """Reduce a word: `snapshots`, `moving`, `changed` are one with `snapshot`, `move`, `change`."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is", "fs")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            word = word.removesuffix(ending)
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _table(text: str) -> Iterator[tuple[list[str], list[str]]]:
    for line in text.strip().splitlines():
        words, _, meant = line.partition(":")
        yield [_stem(word) for word in words.split()], meant.split()


_MEANS = {
    word: tuple(_stem(term) for term in terms)
    for words, terms in _table(_SYNONYMS)
    for word in words
}
_VERBS = {word: frozenset(verbs) for words, verbs in _table(_HINTS) for word in words}
_WEAK_STEMS = frozenset(map(_stem, _WEAK.split()))


class Index:
    """Which methods have which word, with the weight of the field; about 1 MB for a real PVE."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._methods: list[tuple[str, str]] = []
        self._menus: set[int] = set()
        self._postings: dict[str, array[int]] = {}
        """Word to (number of a method << 4 | weight)."""
        for number, method in enumerate(methods):
            self._methods.append((method.verb, method.path))
            if method.verb == "GET" and _INDEX.search(f"{method.name} {method.description[:80]}"):
                self._menus.add(number)
            for word, weight in _words(method).items():
                self._postings.setdefault(word, array("I")).append(number << _BITS | weight)
        self._sorted = sorted(self._postings)
        listed = {path.rpartition("/{")[0] for _, path in self._methods if path.endswith("}")}
        self._menus = {number for number in self._menus if self._methods[number][1] not in listed}

    def find(self, query: str, limit: int) -> list[tuple[str, str]]:
        """Return (verb, path template) pairs, best first: those half as good as the best."""
        words, joined = _asked(query)
        meant = [_VERBS[word] for word in words if word in _VERBS]
        scores = {
            number: self._adjusted(number, score, meant)
            for number, score in self._scores(words, joined).items()
        }
        enough = _KEEP * max(scores.values(), default=0.0)
        kept = [number for number, score in scores.items() if score >= enough]
        kept.sort(key=lambda number: (-scores[number], *reversed(self._methods[number])))
        return [self._methods[number] for number in kept[: max(limit, 0)]]

    def _scores(self, words: list[str], joined: list[str]) -> dict[int, float]:
        """Return the points of each method; those with more of the words get a larger share."""
        scores: dict[int, float] = {}
        hits: Counter[int] = Counter()
        for word in [*words, *joined]:
            found = self._points(word)
            hits.update(found.keys())
            for number, points in found.items():
                scores[number] = scores.get(number, 0.0) + points
        return {
            number: score * (1 + min(hits[number] / len(words), 1))
            for number, score in scores.items()
        }

    def _points(self, word: str) -> dict[int, float]:
        """Return the points of each method for one word, by its number."""
        found: dict[int, float] = {}
        for term, factor in self._terms(word):
            posting = self._postings[term]
            rarity = math.log(1 + len(self._methods) / len(posting)) * factor
            for packed in posting:
                number, points = packed >> _BITS, (packed & 15) * rarity
                if points > found.get(number, 0.0):
                    found[number] = points
        return found

    def _terms(self, word: str) -> Iterator[tuple[str, float]]:
        """Return the words of the index that a word stands for, and how surely."""
        factor = _WEAKLY if word in _WEAK_STEMS else 1.0
        if word in self._postings:
            yield word, factor
        for term in _MEANS.get(word, ()):
            if term in self._postings:
                yield term, factor * _SYNONYM
        if len(word) > 3:
            start = bisect_left(self._sorted, word)
            for term in self._sorted[start : start + 20]:
                if term != word and term.startswith(word):
                    yield term, factor * _PREFIX

    def _adjusted(self, number: int, score: float, meant: list[frozenset[str]]) -> float:
        verb, path = self._methods[number]
        if meant:
            score *= _MEANT if any(verb in verbs for verbs in meant) else _NOT_MEANT
        elif verb == "GET":
            score *= _READ
        if number in self._menus:
            score *= _MENU
        return score / (1 + _DEPTH * len(_BETWEEN.findall(path)))


def _asked(query: str) -> tuple[list[str], list[str]]:
    """Return the words of a question, and neighbours as one: `cloud-init` is `cloudinit` too."""
    words = _WORD.findall(query.lower())
    kept = [word for word in words if word not in _STOP][:_MOST_WORDS]
    joined = [one + other for one, other in pairwise(kept)]
    return list(dict.fromkeys(map(_stem, kept))), list(dict.fromkeys(map(_stem, joined)))


def _words(method: Method) -> Mapping[str, int]:
    found: dict[str, int] = {}
    segments = method.path.strip("/").split("/")
    fixed = [segment for segment in segments if not segment.startswith("{")]
    call = f"{method.verb} {method.path}"
    last = fixed[-1] if fixed else ""
    fields = (
        (_TEXT, method.description[:_MOST_TEXT]),
        (_PARAMETER, " ".join(parameter.name for parameter in method.parameters)),
        (_NAME, f"{method.verb} {method.name} {_MEMBERS.get(call, '')}"),
        (_PATH, " ".join(fixed)),
        (_LAST if last.isalnum() else _PART, last),
        (_KNOWN, _KNOWN_FOR.get(call, "")),
    )
    for weight, text in fields:
        for word in _WORD.findall(text.lower().replace("_", " ")):
            found[_stem(word)] = weight
    return found
