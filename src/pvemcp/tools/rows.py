"""Lists as a caller wants them: filtered by any field, sorted, chosen fields, page by page."""

from __future__ import annotations

import base64
import binascii
import difflib
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pvemcp.errors import Invalid
from pvemcp.tools.render import BUDGET, Cell, cell, table, to_json
from pvemcp.tools.tool import Format

Row = Mapping[str, Any]

_CONDITION = re.compile(r"\s*([\w.-]+)\s*(>=|<=|!=|=|~|>|<)\s*(.*?)\s*", re.DOTALL)
_QUANTITY = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:([kmgtp])(?:i?b)?|(%)|b)?", re.IGNORECASE)
_SEPARATOR = re.compile(r"[;, ]")
_TRUTHS = {"true": True, "yes": True, "false": False, "no": False}
_HINT = 'Write conditions as "status=running", "name~web*", "mem>4GiB" or a bare word.'


@dataclass(frozen=True, slots=True)
class Query:
    """What a caller asked of a list; empty values mean "as it comes"."""

    where: Sequence[str] = ()
    sort: str = ""
    """A field; `-field` for descending order."""
    fields: Sequence[str] = ()
    limit: int = 40
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of one page, how many matched in all, and the cursor of the next page."""

    rows: Sequence[Row]
    total: int
    cursor: str


def select(rows: Iterable[Row], query: Query, *, key: str, known: Collection[str] = ()) -> Page:
    """Filter, sort and cut `rows`; `key` names the field that identifies a row.

    `known` are fields that a row may lack (PVE leaves out `lock` where there is none).
    Raises Invalid for an unknown field, a bad condition, or a cursor of another query.
    """
    every = list(rows)
    names = _Names(every, known)
    for test in [_condition(text, names) for text in query.where]:
        every = [row for row in every if test(row)]
    if key or query.sort:
        _sort(every, key)
    if query.sort:
        name = names.known(query.sort.lstrip("-"))
        _sort(every, name, descending=query.sort.startswith("-"))
    for name in query.fields:
        names.known(name)
    start = _start(query, every, key)
    page = every[start : start + query.limit]
    more = start + len(page) < len(every)
    return Page(page, len(every), _cursor(query, start + len(page), page[-1], key) if more else "")


def write(
    page: Page,
    fields: Sequence[str],
    *,
    format: Format,
    head: str = "",
    notes: Sequence[str] = (),
    cells: Cell = cell,
) -> str:
    """Write a page as a table or as JSON, within the budget and with a way to get more."""
    shown = list(page.rows)
    while True:
        said = [*notes, *_rest(page, len(shown))]
        if format == "json":
            text = _json(page, shown, fields, notes=said)
        else:
            rows = [table(shown, fields, write=cells)] if shown else []
            text = "\n".join([*([head] if head else []), *rows, *said])
        if len(text) <= BUDGET or len(shown) <= 1:
            return text
        shown = shown[: max(1, len(shown) * BUDGET // (len(text) + 1))]


def _rest(page: Page, shown: int) -> list[str]:
    """Say how to get the rows that are not shown."""
    if shown < len(page.rows):
        return [f"{shown} of {page.total} shown; ask again with limit={shown}."]
    return [f"{shown} of {page.total} shown; more: cursor={page.cursor}"] if page.cursor else []


def _json(page: Page, shown: Sequence[Row], fields: Sequence[str], *, notes: list[str]) -> str:
    items = [{name: row[name] for name in fields if name in row} for row in shown]
    answer: dict[str, Any] = {"total": page.total, "items": items}
    if page.cursor and len(shown) == len(page.rows):
        answer["cursor"] = page.cursor
    if notes:
        answer["notes"] = notes
    return to_json(answer)


@dataclass(frozen=True, slots=True)
class _Names:
    """The fields of all rows. A list has 10,000 rows: they are gone through only for a typo."""

    rows: Sequence[Row]
    extra: Collection[str]

    def known(self, name: str) -> str:
        """Return the name of a field. Raises Invalid when no row has it; no rows, no complaint."""
        if not self.rows or name in self.extra or any(name in row for row in self.rows):
            return name
        every = set(self.extra).union(*self.rows)
        near = difflib.get_close_matches(name, every, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise Invalid(f"no field {name}{guess}", hint=f"Fields: {', '.join(sorted(every))}.")


def _sort(rows: list[Row], name: str, *, descending: bool = False) -> None:
    numbers = {type(row.get(name)) for row in rows} <= {int, float}
    field = itemgetter(name)
    rows.sort(key=field if numbers else (lambda row: _order(row.get(name))), reverse=descending)


def _condition(text: str, names: _Names) -> Callable[[Row], bool]:
    matched = _CONDITION.fullmatch(text)
    if matched is None:
        return _anywhere(text.strip().lower())
    name, operator, wanted = matched.groups()
    names.known(name)
    if operator in ("=", "!="):
        equal = _equality(wanted)
        return lambda row: equal(row.get(name)) == (operator == "=")
    if operator == "~":
        pattern = wanted.lower() if "*" in wanted or "?" in wanted else f"*{wanted.lower()}*"
        fits = re.compile(fnmatch.translate(pattern)).match
        return lambda row: fits(str(row.get(name, "")).lower()) is not None
    return _comparison(name, operator, _quantity(text, wanted))


def _anywhere(word: str) -> Callable[[Row], bool]:
    if not word:
        raise Invalid("empty condition in where", hint=_HINT)
    return lambda row: word in "\0".join(map(str, row.values())).lower()


def _comparison(name: str, operator: str, bound: float) -> Callable[[Row], bool]:
    def holds(row: Row) -> bool:
        value = _number(row.get(name))
        if value is None:
            return False
        match operator:
            case ">":
                return value > bound
            case "<":
                return value < bound
            case ">=":
                return value >= bound
            case _:
                return value <= bound

    return holds


def _equality(wanted: str) -> Callable[[Any], bool]:
    """Compare as number where both are, as truth where both can be, else as text or one word."""
    low = wanted.lower()
    matched = _QUANTITY.fullmatch(wanted)
    number = _scaled(matched) if matched else None
    truth = _TRUTHS.get(low)

    def equal(value: Any) -> bool:
        if value is None:
            return low in ("", "0", "false", "no")
        if number is not None and (figure := _number(value)) is not None:
            return figure == number
        if truth is not None and value in (0, 1):
            return bool(value) == truth
        text = str(value).lower()
        return text == low or (low in text and low in _SEPARATOR.split(text))

    return equal


def _quantity(text: str, wanted: str) -> float:
    matched = _QUANTITY.fullmatch(wanted)
    if matched is None:
        raise Invalid(f"{wanted!r} in where {text!r} is not a number", hint=_HINT)
    return _scaled(matched)


def _scaled(matched: re.Match[str]) -> float:
    number, unit, percent = matched.groups()
    power = " kmgtp".index(unit.lower()) if unit else 0
    scale: float = 1024**power
    return float(number) * scale / (100 if percent else 1)


def _number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _order(value: Any) -> tuple[int, float, str]:
    number = _number(value)
    if value is None:
        return (2, 0.0, "")
    return (1, 0.0, str(value).lower()) if number is None else (0, number, "")


def _digest(query: Query) -> str:
    asked = json.dumps([list(query.where), query.sort])
    return hashlib.sha256(asked.encode()).hexdigest()[:8]


def _cursor(query: Query, index: int, last: Row, key: str) -> str:
    parts = [_digest(query), index, str(last.get(key, ""))]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _start(query: Query, rows: Sequence[Row], key: str) -> int:
    """Return where the page begins: after the last row shown, wherever that stands by now."""
    if not query.cursor:
        return 0
    try:
        padded = query.cursor + "=" * (-len(query.cursor) % 4)
        digest, index, last = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, TypeError, binascii.Error):
        digest, index, last = "", 0, ""
    if digest != _digest(query) or not isinstance(index, int) or index < 0:
        raise Invalid(
            "the cursor belongs to another list",
            hint="Repeat the call that gave it with the same where and sort, or leave it out.",
        )
    for position, row in enumerate(rows if key else ()):
        if str(row.get(key, "")) == last:
            return position + 1
    return index
