"""How the audit comes into the database: rows of calls with their records in the chain, in order.

What a call may change is committed at once. What only reads waits in a tail (tail.py) and is
committed with the next of the former, or many at a time.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pvemcp.chain import AT, COLUMNS, Chain
from pvemcp.errors import Fault
from pvemcp.store import Store
from pvemcp.tail import BATCH, Line, Row, Tail, left_behind, waiting

log = logging.getLogger(__name__)

TAIL_BROKEN = "audit tail broken"
"""The event of a file in which what waited was changed."""
_MARKS = ", ".join("?" * len(AT))
_INSERT = f"INSERT INTO calls ({COLUMNS}) VALUES ({_MARKS})"  # noqa: S608 - constants
_NUMBERED = f"INSERT INTO calls (number, {COLUMNS}) VALUES (?, {_MARKS})"  # noqa: S608
_CLOSE = "UPDATE calls SET steps = ?, outcome = ?, error = ?, ms = ?, about = ? WHERE number = ?"
_KNOWN = "SELECT id FROM calls WHERE id IN (SELECT value FROM json_each(?))"
_NEXT = "SELECT coalesce(max(number), 0) + 1 FROM calls"


class Ledger:
    """Writes rows, records and events. Its methods raise Unavailable; nothing is written then."""

    def __init__(self, store: Store) -> None:
        self.trouble = ""
        """Why nothing could be written the last time; empty when it could."""
        self._store = store

    @functools.cached_property
    def chain(self) -> Chain:
        """The chain. Its key is made on first use."""
        return Chain(self._store)

    @functools.cached_property
    def _tail(self) -> Tail:
        return Tail(self.chain)

    def write(self, kind: str, number: int, row: Row, text: str) -> int:
        """Write a call's row anew, or its first with the number 0, and its record.

        `text` is its `row_text`. Returns the number of the row.
        """
        with self._in_order():
            if not number or not self._store.write(_CLOSE, (*row[AT["steps"] :], number)):
                number = self._store.add(_INSERT, row)
            self.chain.call(kind, number, text)
        return number

    def append(self, row: Row, text: str) -> None:
        """Write down a closed call that changed nothing; `text` as of `write`."""
        try:
            self._tail.append(row, text)
        except Fault as fault:
            self.trouble = fault.message
            raise
        waits = len(self._tail.lines)
        if waits % BATCH == 0:
            try:
                self.flush()
            except Fault as fault:
                log.warning("%d calls wait to be written to the database: %s", waits, fault)

    def event(self, kind: str, about: Mapping[str, Any]) -> None:
        """Write an event."""
        with self._in_order():
            self.chain.event(kind, about)

    def flush(self) -> None:
        """Move what waits into the database."""
        if self._tail.lines:
            with self._in_order():
                pass

    def waiting(self) -> list[Row]:
        """Return the rows that wait, those of other processes too, oldest first."""
        return waiting(self.chain)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Move into the database first what killed processes have left, and at the end the rest.

        Raises nothing: what cannot be moved waits for the next start.
        """
        try:
            self._adopt()
        except Fault as fault:
            log.warning("What an earlier process recorded is not in the database yet: %s", fault)
        try:
            yield
        finally:
            self._leave()

    def _adopt(self) -> None:
        for lines in left_behind(self.chain):
            with self._store.whole():
                self._move([line for line in lines if line.row])
                for problem in filter(None, (line.problem for line in lines)):
                    self.chain.event(TAIL_BROKEN, {"problem": problem})

    def _leave(self) -> None:
        try:
            self.flush()
        except Fault as fault:
            log.warning("What was recorded last is not in the database yet: %s", fault)

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        """Commit what waits, and then what is written in the block, as one."""
        try:
            with self._store.whole():
                if self._tail.lines:
                    self._move(self._tail.lines)
                yield
        except Fault as fault:
            self.trouble = fault.message
            raise
        self._tail.empty()
        self.trouble = ""

    def _move(self, lines: Sequence[Line]) -> None:
        """Write lines of a tail into the database, but for those that are there already."""
        ids = json.dumps([line.row[AT["id"]] for line in lines])
        known = {id_ for (id_,) in self._store.rows(_KNOWN, (ids,))}
        first = self._store.rows(_NEXT)[0][0]
        new = list(enumerate((line for line in lines if line.row[AT["id"]] not in known), first))
        self._store.write_all(_NUMBERED, [(number, *line.row) for number, line in new])
        self.chain.closed([(number, line.text) for number, line in new])
