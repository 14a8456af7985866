"""The rules of the policy, as an administrator writes them: `[[policy]]` tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pvemcp.errors import Misconfigured

VERDICTS = ("allow", "ask", "deny", "record")
EFFECTS = ("read", "change", "destroy")
PROFILES = ("read", "change", "root")
CHANNELS = ("any", "person")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(
    r"(?:([a-z]{3})(?:-([a-z]{3}))? )?([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)"
)
_LISTS = ("effect", "tool", "path", "tag", "pool", "node", "client", "profile", "hours")
KEYS = (
    "name", "verdict", *_LISTS, "vmid", "protected", "after_untrusted_text", "channel", "persons",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hours:
    """A stretch of each of some days, in the host's own time; it may pass midnight."""

    days: frozenset[int]
    """0 is Monday."""
    start: int
    """Minutes after midnight."""
    end: int

    def hold(self, weekday: int, minute: int) -> bool:
        """Tell whether a moment lies in it. After midnight the day before counts."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        return (weekday in self.days and minute >= self.start) or (
            (weekday - 1) % 7 in self.days and minute < self.end
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Every condition that is given must hold; an empty one holds always.

    One with the verdict `record` decides nothing: the shells that it fits are recorded.
    """

    name: str
    verdict: str
    effect: tuple[str, ...] = ()
    tool: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    vmid: tuple[int, ...] = ()
    node: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    hours: tuple[Hours, ...] = ()
    protected: bool | None = None
    after_untrusted_text: bool | None = None
    channel: str = "any"
    persons: int = 1


def rules(name: str, given: Any) -> tuple[Rule, ...]:
    """Read the rules: a list of tables, or (from the environment) the same as JSON."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise _wrong(name, "is not JSON", 'Write [{"name": "…", "verdict": "ask"}].') from None
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise _wrong(name, "is not a list of tables", "Write [[policy]] above each rule.")
    found = tuple(_rule(f"{name} rule {number}", each) for number, each in enumerate(given, 1))
    names = [rule.name for rule in found]
    for twice in {each for each in names if names.count(each) > 1}:
        raise _wrong(name, f"two rules are named {twice!r}", "Give each its own name.")
    return found


def _rule(where: str, given: Mapping[str, Any]) -> Rule:
    if isinstance(given.get("name"), str):
        where = f"policy rule {given['name']!r:.60}"
    for key in given:
        if key not in KEYS:
            raise _wrong(where, f"has an unknown key {key!r:.60}", f"Keys: {', '.join(KEYS)}.")
    name, verdict = given.get("name"), given.get("verdict")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise _wrong(where, "has no name", 'Add name = "…": answers and the audit quote it.')
    if verdict not in VERDICTS:
        raise _wrong(where, "has no verdict", f"Add verdict = one of {', '.join(VERDICTS)}.")
    lists = {key: _texts(where, key, given[key]) for key in _LISTS if key in given}
    hours = tuple(_hours(where, text) for text in lists.pop("hours", ()))
    for effect in lists.get("effect", ()):
        _one_of(where, "effect", effect, EFFECTS)
    for profile in lists.get("profile", ()):
        _one_of(where, "profile", profile, PROFILES)
    rule = Rule(
        name=name,
        verdict=verdict,
        hours=hours,
        vmid=_vmids(where, given.get("vmid", [])),
        protected=_flag(where, "protected", given),
        after_untrusted_text=_flag(where, "after_untrusted_text", given),
        channel=_one_of(where, "channel", given.get("channel", "any"), CHANNELS),
        persons=_one_of(where, "persons", given.get("persons", 1), (1, 2)),
        **{key: tuple(each.lower() for each in value) if key in ("tag", "node") else value
           for key, value in lists.items()},
    )  # fmt: skip
    _refuse_reads(where, rule)
    _refuse_record(where, rule, given)
    return rule


def _refuse_reads(where: str, rule: Rule) -> None:
    if "read" not in rule.effect:
        return
    if rule.verdict == "ask":
        raise _wrong(where, "asks before reads", "Reads are allowed or denied: verdict = 'deny'.")
    if rule.protected is not None or rule.after_untrusted_text is not None:
        raise _wrong(
            where,
            "is about reads, and about protection or what was read before",
            "For reads use path, vmid, tag, pool, node, tool or client; or PVE's own permissions.",
        )


_OF_SHELLS = ("name", "verdict", "client", "node", "profile", "hours")


def _refuse_record(where: str, rule: Rule, given: Mapping[str, Any]) -> None:
    strange = [key for key in given if key not in _OF_SHELLS]
    if rule.verdict == "record" and strange:
        raise _wrong(
            where,
            f"records shells, and has the key {strange[0]!r}",
            f"Such a rule takes {', '.join(_OF_SHELLS[2:])}; or no condition: all shells.",
        )


def _texts(where: str, key: str, value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    good = isinstance(listed, list) and listed
    if not good or not all(isinstance(each, str) and each.strip() for each in listed):
        raise _wrong(where, f"{key} is neither text nor a list of texts", f'{key} = ["…", "…"]')
    return tuple(each.strip() for each in listed)


def _vmids(where: str, value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    if not all(type(each) is int and each > 0 for each in listed):
        raise _wrong(where, "vmid is neither a number nor a list of numbers", "vmid = [100, 101]")
    return tuple(listed)


def _flag(where: str, key: str, given: Mapping[str, Any]) -> bool | None:
    value = given.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(where, f"{key} is neither true nor false", f"{key} = true")
    return value


def _one_of(where: str, key: str, value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known or isinstance(value, bool):
        raise _wrong(where, f"{key}: {value!r:.40}", f"Known: {', '.join(map(str, known))}.")
    return value


def _hours(where: str, text: str) -> Hours:
    found = _HOURS.fullmatch(text.lower())
    days = [found[1], found[2]] if found else []
    minutes = [int(each) for each in found.groups()[2:]] if found else []
    known = all(day is None or day in _DAYS for day in days)
    if not found or not known or minutes[2] * 60 + minutes[3] > 1440:
        raise _wrong(where, f"hours: {text!r:.40}", 'Write "mon-fri 08:00-18:00" or "22:00-06:00".')
    first = _DAYS.index(days[0]) if days[0] else 0
    last = _DAYS.index(days[1]) if days[1] else first if days[0] else 6
    span = range(first, first + (last - first) % 7 + 1)
    start, end = minutes[0] * 60 + minutes[1], minutes[2] * 60 + minutes[3]
    if start == end:
        raise _wrong(where, f"hours: {text!r:.40} is no time at all", "Leave hours out for always.")
    return Hours(frozenset(day % 7 for day in span), start, end)


def _wrong(where: str, problem: str, repair: str) -> Misconfigured:
    return Misconfigured(f"{where}: {problem}.", hint=repair)
