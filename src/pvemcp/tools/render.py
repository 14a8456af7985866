"""How results are written: compact tables with a way to get the rest.

What the model reads is paid for in tokens (about four bytes each), so lists are tab-separated
tables with a header, and every answer stays within BUDGET.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

BUDGET = 32_000
"""Characters of an answer: about 8,000 tokens."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_BYTES = frozenset(
    "mem maxmem disk maxdisk netin netout diskread diskwrite size used avail total swap maxswap "
    "memhost free available".split()
)
_TIMES = frozenset("starttime endtime snaptime ctime time expire notbefore notafter".split())


def size(number: float) -> str:
    """Write a number of bytes with a binary unit: `4 GiB`, `1.5 KiB`."""
    value = float(number)
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
        value /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """Write seconds as the two largest units: `3d 4h`, `12s`."""
    left = int(seconds)
    parts: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (name == "s" and not parts):
            parts.append(f"{count}{name}")
    return " ".join(parts[:2])


def moment(epoch: float) -> str:
    """Write seconds since the epoch as UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(epoch))


def one_line(text: object, limit: int) -> str:
    """Write text on one line, cut after `limit` characters."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else f"{flat[:limit]}…"


Cell = Callable[[str, Any], str]
"""Writes one value of a field on one line."""


def plain(name: str, value: Any) -> str:  # noqa: ARG001 - a Cell
    """Write a value as PVE gave it: the unit of a field depends on the method it came from."""
    match value:
        case None:
            return ""
        case dict() | list():
            return to_json(value)
        case _:
            return " ".join(str(value).split())


def cell(name: str, value: Any) -> str:
    """Write a value with the unit that the field `name` has in PVE's lists and states."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match value:
        case 0 if name == "template":
            return ""
        case _ if number and name in _BYTES:
            return size(value)
        case _ if number and name in _TIMES and value > 0:
            return moment(value)
        case int() if name == "uptime":
            return duration(value) if value else ""
        case float() if name in ("cpu", "full"):
            return f"{value * 100:.1f}%"
        case float():
            return f"{value:.4g}"
        case _:
            return plain(name, value)


def table(rows: Iterable[Mapping[str, Any]], fields: Sequence[str], *, write: Cell = cell) -> str:
    """Write rows as a tab-separated table with a header."""
    lines = ["\t".join(fields)]
    lines += ["\t".join(write(name, row.get(name)) for name in fields).rstrip() for row in rows]
    return "\n".join(lines)


def record(values: Mapping[str, Any], *, indent: str = "") -> str:
    """Write a mapping as `name: value` lines, values as PVE gave them.

    A value of several lines is indented below its name; a mapping is written as `name.key`.
    """
    lines = []
    for name, value in values.items():
        text = value.rstrip("\n") if isinstance(value, str) else ""
        if isinstance(value, Mapping) and value:
            lines.append(record({f"{name}.{key}": v for key, v in value.items()}, indent=indent))
        elif "\n" in text:
            below = "\n".join(f"{indent}  {line}" for line in text.split("\n"))
            lines.append(f"{indent}{name}:\n{below}")
        else:
            lines.append(f"{indent}{name}: {plain(name, value)}")
    return "\n".join(lines)


def to_json(value: Any) -> str:
    """Write compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def json_within_budget(value: Any, *, rest: str) -> str:
    """Write JSON; when it is over the budget, its beginning as a text inside JSON that parses."""
    text = to_json(value)
    if len(text) <= BUDGET:
        return text
    kept = text[: BUDGET // 2]  # its quotes are written twice as long
    note = f"{len(kept)} of {len(text)} characters of the answer; {rest}"
    return to_json({"note": note, "cut": kept})


def within_budget(text: str, *, rest: str) -> str:
    """Cut a text at a line when it is over the budget, and say how to get the rest."""
    if len(text) <= BUDGET:
        return text
    kept = text[:BUDGET]
    end = kept.rfind("\n")
    kept = kept[:end] if end > BUDGET // 2 else kept
    return f"{kept}\n[cut: {len(kept)} of {len(text)} characters shown; {rest}]"
