"""Lists as a caller wants them: filtered by any field, sorted, chosen fields, page by page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pvemcp.errors import Invalid
from pvemcp.pve.nearest import nearest_hint
from pvemcp.tools.conditions import Condition, Row, number
from pvemcp.tools.render import BUDGET, Cell, cell, plain, table, to_json, within_budget
from pvemcp.tools.tool import Format

MOST_CONDITIONS = 20
MOST_FIELDS = 200
"""Each costs time for every row, which all other callers wait for."""


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
    note: str = ""
    """Which values there are, when a condition matched nothing."""


def select(rows: Iterable[Row], query: Query, *, key: str, known: Collection[str] = ()) -> Page:
    """Filter, sort and cut `rows`; `key` names the field that identifies a row.

    `known` are fields that a row may lack (PVE leaves out `lock` where there is none).
    Raises Invalid for an unknown field, a bad condition, or a cursor of another query.
    """
    if len(query.where) > MOST_CONDITIONS or len(query.fields) > MOST_FIELDS:
        raise Invalid(f"at most {MOST_CONDITIONS} conditions and {MOST_FIELDS} fields")
    every = list(rows)
    names = _Names(every, known)
    every, note = _matching(every, query.where, names)
    if key:
        every = _sort(every, key)
    if query.sort:
        name = names.known(query.sort.lstrip("-"))
        every = _sort(every, name, descending=query.sort.startswith("-"))
    for name in query.fields:
        names.known(name)
    start = _start(query, every, key)
    page = every[start : start + query.limit]
    more = start + len(page) < len(every)
    cursor = _cursor(query, start + len(page), page[-1], key) if more else ""
    return Page(page, len(every), cursor, note)


def _matching(rows: list[Row], where: Sequence[str], names: _Names) -> tuple[list[Row], str]:
    """Return the rows that fit, and what to say when a condition left none."""
    conditions = [Condition.parse(text) for text in where]
    for condition in conditions:
        if condition.name:
            names.known(condition.name)
        test = condition.compile()
        left = [row for row in rows if test(row)]
        if rows and not left:
            return left, _instead(rows, condition)
        rows = left
    return rows, ""


def _instead(rows: Sequence[Row], condition: Condition) -> str:
    """Say which values there are where a condition matched nothing."""
    if not condition.name or condition.operator not in ("=", "~"):
        return f"Nothing matches {condition.text.strip()}."
    counts = Counter(plain("", row.get(condition.name)) or "(none)" for row in rows)
    values = ", ".join(f"{value[:40]} ({count})" for value, count in counts.most_common(6))
    return f"Nothing matches {condition.text.strip()}; {condition.name} is {values}."


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
        said = [*([page.note] if page.note else []), *notes, *_rest(page, len(shown))]
        if format == "json":
            text = _json(page, shown, fields, notes=said)
        else:
            rows = [table(shown, fields, write=cells)] if shown else []
            text = "\n".join([*([head] if head else []), *rows, *said])
        if len(text) <= BUDGET:
            return text
        if len(shown) <= 1:
            return within_budget(text, rest="choose fields")
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
        guess = nearest_hint(name, every)
        raise Invalid(f"no field {name[:80]}{guess}", hint=f"Fields: {', '.join(sorted(every))}.")


def _sort(rows: list[Row], name: str, *, descending: bool = False) -> list[Row]:
    """Return the rows in order; those without the field come last, whatever the direction."""
    lacking = [row for row in rows if row.get(name) is None]
    having = rows if not lacking else [row for row in rows if row.get(name) is not None]
    field = itemgetter(name)
    numbers = {type(row[name]) for row in having} <= {int, float}
    key = field if numbers else (lambda row: _order(row[name]))
    return sorted(having, key=key, reverse=descending) + lacking


def _order(value: Any) -> tuple[int, float, str]:
    figure = number(value)
    return (1, 0.0, str(value).lower()) if figure is None else (0, figure, "")


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
    except (ValueError, TypeError, RecursionError, binascii.Error):
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
