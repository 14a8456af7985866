"""Whether the audit is what was written: the first broken record, and why."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pvemcp import tail
from pvemcp.chain import ANCHOR, COLUMNS, START, Chain, Head, digest_of, row_text

PAGE = 2000
"""Rows that are read at once."""
_RECORDS = (
    "SELECT number, kind, time, call, body, mac FROM chain WHERE number > ? ORDER BY number LIMIT ?"
)
_ROWS = f"""
    SELECT number,
        (SELECT body FROM chain WHERE call = calls.number ORDER BY number DESC LIMIT 1),
        {COLUMNS}
    FROM calls WHERE number > ? ORDER BY number LIMIT ?
"""  # noqa: S608 - constants
_DELETED = "SELECT min(call) FROM chain WHERE call > ? AND call NOT IN (SELECT number FROM calls)"


def anchors_in(lines: Iterable[str]) -> list[Head]:
    """Return the anchors among lines of a journal or an anchor file; other lines are ignored."""
    found = []
    for line in lines:
        begin = line.find("{")
        if ANCHOR not in line or begin < 0:
            continue
        try:
            said = json.loads(line[begin:])
            if said["event"] == ANCHOR:
                found.append(Head(int(said["number"]), str(said["mac"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def verify(chain: Chain, anchors: Sequence[Head] = ()) -> str:
    """Return what is wrong with the audit at the first broken place; "" when it is whole.

    `anchors` are heads that were seen earlier, from the journal or a file.
    """
    with chain.store.whole():  # one moment of it, while others write
        checks = (_links(chain), _rows(chain), _against(chain, anchors), tail.problems(chain))
        return next((problem for check in checks for problem in check), "")


def _paged(chain: Chain, sql: str) -> Iterator[tuple[Any, ...]]:
    last = 0
    while rows := chain.store.rows(sql, (last, PAGE)):
        yield from rows
        last = rows[-1][0]


def _links(chain: Chain) -> Iterator[str]:
    if not chain.sealed():
        yield "the beginning of the chain was changed: its seal is another"
    number, before, _ = chain.base()
    for found, kind, moment, call, body, mac in _paged(chain, _RECORDS):
        what = f"record {found} ({kind}{f', call {call}' if call else ''})"
        if found != number + 1:
            yield f"record {number + 1} is missing: the next one is {what}"
        if not hmac.compare_digest(mac, chain.mac(before, found, kind, moment, call, body)):
            yield f"{what} was changed, inserted or moved"
        number, before = found, mac


def _rows(chain: Chain) -> Iterator[str]:
    """Compare each call's row with the newest record about it."""
    starts = chain.store.rows("SELECT body FROM chain WHERE kind = ?", (START,))
    start = json.loads(starts[0][0]) if starts else {"through": 0}
    gone = chain.base()[2]
    covered = max(gone, int(start["through"]))
    for number, recorded, id_, *row in _paged(chain, _ROWS):
        if recorded is None and number > covered:
            yield f"call {number} ({id_}) has no record: its row was inserted"
        elif recorded is not None and recorded != digest_of(row_text([id_, *row])):
            yield f"the row of call {number} ({id_}) was changed"
    deleted = chain.store.rows(_DELETED, (gone,))[0][0]
    if deleted is not None:
        yield f"the row of call {deleted} was deleted"
    if not gone and start["through"] and chain.before(start["through"]) != start["digest"]:
        yield f"one of the calls up to {start['through']}, from before the chain, was changed"


def _against(chain: Chain, anchors: Sequence[Head]) -> Iterator[str]:
    head, base = chain.head(), chain.base()[0]
    for anchor in sorted(anchors, key=lambda each: each.number):
        if head is None or anchor.number > head.number:
            last = head.number if head else 0
            yield f"the records after {last} are missing: an anchor knows {anchor.number}"
        rows = chain.store.rows("SELECT mac FROM chain WHERE number = ?", (anchor.number,))
        if anchor.number > base and (not rows or rows[0][0].hex() != anchor.mac):
            yield f"record {anchor.number} is not the one that its anchor knows"
