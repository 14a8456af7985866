"""The tail of the audit: rows of calls that only read, on their way into the database.

A transaction for every read would be most of what the audit costs it. Its row is appended to a
file instead, with one write and before the answer goes out, so that killing the process loses
nothing. The rows go into the database many at a time, and always before anything newer: the chain
keeps the order. Every process has a file of its own, locked while it lives and only ever appended
to; a new one begins when its rows are in the database. What a killed process leaves is moved there
by the next start of the service.

A line is its number in the file, a MAC over the file's name, the number and the row, and the row
as JSON: a line that was changed, put in or taken out shows. Lines cut off at the end do not, as in
the chain itself before its next anchor.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvemcp.chain import AT, Chain
from pvemcp.errors import Unavailable

FILES = "audit.*.tail"
BROKEN = ".broken"
"""Ends the name of a file in which something was wrong when it was moved."""
BATCH = 64
"""Rows that go into the database at once: one to two milliseconds, in which the service waits."""
MOST = 10_000
"""Rows that wait at most, while the database cannot be written."""

Row = tuple[Any, ...]
"""The COLUMNS of a call."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a tail; when something is wrong with it, `problem` says what, and it has no row."""

    row: Row
    text: str
    """The row as `row_text`."""
    problem: str = ""


class Tail:
    """The file of this process. `lines` wait in it."""

    def __init__(self, chain: Chain) -> None:
        self.lines: list[Line] = []
        self._chain = chain
        self._folder = chain.store.path.parent
        self._name = ""
        self._file = -1
        self._size = 0

    def append(self, row: Row, text: str) -> None:
        """Write a row down, `text` being its `row_text`.

        Raises Unavailable; the file is then as before.
        """
        if len(self.lines) >= MOST:
            raise Unavailable(
                f"{MOST:,} calls wait to be written to the database.",
                hint="Make room on its file system; the journal of the service says what failed.",
            )
        try:
            if self._file < 0:
                self._begin()
            self._append(_line(self._chain, self._name, len(self.lines), text))
        except OSError as error:
            raise Unavailable(
                f"{self._folder / self._name} cannot be written: {error.strerror}.",
                hint="Make room on that file system, or look for disk errors in the kernel's log.",
            ) from None
        self.lines.append(Line(row, text))

    def _append(self, line: bytes) -> None:
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(0, "no room for a whole line")
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _begin(self) -> None:
        """Make a file: under another name until it is locked, or another process would take it."""
        self._name = f"audit.{secrets.token_hex(8)}.tail"
        draft = self._folder / f".{self._name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        file = os.open(draft, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.geteuid() == 0:  # as the database: the service's user moves what root leaves
                place = self._folder.stat()
                os.fchown(file, place.st_uid, place.st_gid)
            draft.rename(self._folder / self._name)
        except OSError:
            os.close(file)
            draft.unlink(missing_ok=True)
            raise
        self._file, self._size = file, 0

    def empty(self) -> None:
        """Forget the rows, once they are in the database."""
        if self._file < 0:
            return
        with suppress(OSError):  # what stays is known by its ids
            (self._folder / self._name).unlink()
        os.close(self._file)
        self._file = -1
        self.lines = []


def waiting(chain: Chain) -> list[Row]:
    """Return what waits in the tails of all processes, oldest first."""
    paths = chain.store.path.parent.glob(FILES)
    found = [line.row for path in paths for line in _lines(path, chain) if line.row]
    return sorted(found, key=lambda row: row[AT["time"]])


def problems(chain: Chain) -> Iterator[str]:
    """Say which lines of tails are not what was written."""
    for path in sorted(chain.store.path.parent.glob(f"{FILES}*")):
        yield from (line.problem for line in _lines(path, chain) if line.problem)


def left_behind(chain: Chain) -> Iterator[list[Line]]:
    """Yield the lines of each tail whose process has ended.

    When they are in the database the next step of the iteration removes the file; one with
    problems is kept under another name.
    """
    for path in sorted(chain.store.path.parent.glob(FILES)):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process lives
            lines = list(_lines(path, chain))
            yield lines
            if any(line.problem for line in lines):
                path.rename(path.with_name(path.name + BROKEN))
            else:
                path.unlink()


def _line(chain: Chain, name: str, number: int, text: str) -> bytes:
    return f"{number} {chain.line(f'{name} {number} {text}').hex()} {text}\n".encode()


def _lines(path: Path, chain: Chain) -> Iterator[Line]:
    """Read and check a file. What a kill has cut off in the last line is no line."""
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        return  # its rows have just gone into the database
    name = path.name.removesuffix(BROKEN)
    for number, line in enumerate(written.split(b"\n")[:-1]):
        text = line.split(b" ", 2)[-1].decode("utf-8", "replace")
        if line + b"\n" != _line(chain, name, number, text):
            problem = f"line {number + 1} of {path.name} was changed, inserted or moved"
            yield Line((), text, problem)
            return  # all after it would be told, too
        row = _row(text)
        problem = "" if row else f"line {number + 1} of {path.name} is of another version"
        yield Line(row, text, problem)


def _row(text: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError:
        return ()
    return tuple(row) if isinstance(row, list) and len(row) == len(AT) else ()
