"""Conditions on the fields of a row, as callers write them: `status=running`, `mem>80%`.

What does not parse is refused rather than taken for a word that nothing matches.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pvemcp.errors import Invalid

Row = Mapping[str, Any]
Test = Callable[[Any], bool]

_CONDITION = re.compile(r"([\w.-]+)\s*(>=|<=|==|!=|!~|=|~|>|<)\s*(.*)", re.DOTALL)
_WORD = re.compile(r"[^\s=<>!~:|()'\"]+")
_QUANTITY = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:([kmgtp])(?:i?b)?|(%)|b)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LIST = re.compile(r"[;,]")
_SEPARATOR = re.compile(r"[;, ]")
_TRUTHS = {"true": True, "yes": True, "false": False, "no": False}
LONGEST = 500
"""Characters of a condition: it is compared with every row."""
_HINT = (
    "One condition an item: 'status=running', 'status!=running|paused', 'name~web*', 'tags=prod', "
    "'mem>4GiB', 'mem>80%', or a bare word."
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition. `name` is empty for a bare word, which may stand in any field."""

    text: str
    name: str
    operator: str
    wanted: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition. Raises Invalid for what is none."""
        if len(text) > LONGEST:
            raise Invalid(f"a condition in where is longer than {LONGEST} characters")
        matched = _CONDITION.fullmatch(text.strip())
        if matched is None:
            word = text.strip()
            if not _WORD.fullmatch(word):
                raise Invalid(f"{text[:100]!r} in where is not a condition", hint=_HINT)
            return cls(text, "", "", word.lower())
        name, operator, wanted = matched.groups()
        wanted = _unquoted(wanted)
        if re.search(r"[=<>!~]|\b(?:and|or)\b(?=\s)", wanted, re.IGNORECASE):
            raise Invalid(f"{text[:100]!r} in where holds several conditions", hint=_HINT)
        return cls(text, name, "=" if operator == "==" else operator, wanted.lower())

    def compile(self) -> Callable[[Row], bool]:
        """Return a test of one row. Raises Invalid for a bound that is no number."""
        name = self.name
        match self.operator:
            case "":
                return lambda row: self.wanted in "\0".join(map(str, row.values())).lower()
            case "=" | "!=":
                test = _any([_equality(part) for part in self.wanted.split("|")])
                return lambda row: test(row.get(name)) == (self.operator == "=")
            case "~" | "!~":
                test = _any([_likeness(part, loose=True) for part in self.wanted.split("|")])
                return lambda row: test(row.get(name)) == (self.operator == "~")
            case _:
                return self._comparison()

    def _comparison(self) -> Callable[[Row], bool]:
        figure, bound = self._figure()
        match self.operator:
            case ">":
                return lambda row: (value := figure(row)) is not None and value > bound
            case "<":
                return lambda row: (value := figure(row)) is not None and value < bound
            case ">=":
                return lambda row: (value := figure(row)) is not None and value >= bound
            case _:
                return lambda row: (value := figure(row)) is not None and value <= bound

    def _figure(self) -> tuple[Callable[[Row], float | None], float]:
        """Return what is compared of a row, and the bound."""
        name = self.name
        if name == "uptime" and (time := _DURATION.fullmatch(self.wanted)):
            return lambda row: number(row.get(name)), float(time[1]) * SECONDS[time[2]]
        matched = _QUANTITY.fullmatch(self.wanted)
        if matched is None:
            raise Invalid(f"{self.wanted[:60]!r} in where is not a number", hint=_HINT)
        if matched[3] is None or name in ("cpu", "full", "wait") or name.endswith("fraction"):
            return lambda row: number(row.get(name)), _scaled(matched)
        whole = {"mem": "maxmem", "disk": "maxdisk", "swap": "maxswap", "used": "total"}.get(name)
        if whole is None:
            raise Invalid(
                f"{name} has no percentage", hint="Only cpu, mem, disk, full and used do."
            )
        return lambda row: _share(row, name, whole), _scaled(matched)


def number(value: Any) -> float | None:
    """Return the number that a value is or spells, or None."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _share(row: Row, name: str, whole: str) -> float | None:
    part, total = number(row.get(name)), number(row.get(whole))
    return part / total if part is not None and total else None


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _any(tests: list[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda value: any(test(value) for test in tests)


def _likeness(pattern: str, *, loose: bool) -> Test:
    if loose and "*" not in pattern and "?" not in pattern:
        pattern = f"*{pattern}*"
    fits = re.compile(fnmatch.translate(pattern.strip())).match
    return lambda value: value is not None and fits(str(value).lower()) is not None


def _equality(wanted: str) -> Test:
    """Compare as number where both are, as truth where both can be, else as text or one word."""
    wanted = _unquoted(wanted.strip())
    if "*" in wanted or "?" in wanted:
        return _likeness(wanted, loose=False)
    matched = _QUANTITY.fullmatch(wanted)
    figure = _scaled(matched) if matched else None
    truth = _TRUTHS.get(wanted)
    words = {word.strip() for word in _LIST.split(wanted)} if _LIST.search(wanted) else None

    def equal(value: Any) -> bool:
        if value is None:
            return wanted in ("", "0", "false", "no")
        if figure is not None and (given := number(value)) is not None:
            return given == figure
        if truth is not None and value in (0, 1):
            return bool(value) == truth
        text = str(value).lower()
        if words is not None:
            return words <= set(_LIST.split(text))
        return text == wanted or (wanted in text and wanted in _SEPARATOR.split(text))

    return equal


def _scaled(matched: re.Match[str]) -> float:
    figure, unit, percent = matched.groups()
    power = " kmgtp".index(unit.lower()) if unit else 0
    scale: float = 1024**power
    return float(figure) * scale / (100 if percent else 1)
