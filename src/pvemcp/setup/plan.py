"""Runs steps, and remembers what each changed, so that all of it can be taken back.

What a step is about to change is written down before it does so: a step that was killed half-way is
first taken back and then done again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pvemcp.errors import Fault, Misconfigured
from pvemcp.setup.backup.written import write_part
from pvemcp.setup.step import Record, Step

RECORDS = Path("/var/lib/pvemcp-setup")
FILE = "setup.json"
FORMAT = 1


@runtime_checkable
class Foreseeing(Protocol):
    """A step that can tell beforehand what `apply` will record. `undo` then takes a half of it."""

    def foresee(self) -> Record:
        """Return what `apply` would return now."""


@dataclass(slots=True)
class Entry:
    """What one step did, or (`begun`) was about to do."""

    step: str
    did: list[str]
    record: Record
    state: Literal["begun", "done"] = "begun"


class Records:
    """The entries, oldest first, in a file that only root reads: it holds former settings."""

    def __init__(self, folder: Path = RECORDS) -> None:
        self.path = folder / FILE
        self.entries = [Entry(**one) for one in _read(self.path)]

    def pending(self, step: str) -> Entry | None:
        """Return what a step began and did not end."""
        begun = (one for one in self.entries if one.step == step and one.state == "begun")
        return next(begun, None)

    def of(self, step: str) -> Iterator[Record]:
        """Return what a step did, oldest first."""
        return (one.record for one in self.entries if one.step == step)

    def add(self, entry: Entry) -> Entry:
        """Append an entry and write it down."""
        self.entries.append(entry)
        self.save()
        return entry

    def drop(self, entry: Entry) -> None:
        """Forget an entry: it was taken back."""
        self.entries.remove(entry)
        self.save()

    def forget(self, step: str) -> None:
        """Forget a step: what it did was taken back by another way."""
        kept = [one for one in self.entries if one.step != step]
        if len(kept) != len(self.entries):
            self.entries = kept
            self.save()

    def save(self) -> None:
        """Replace the file in one go; without entries there is none."""
        if not self.entries:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"format": FORMAT, "entries": [asdict(one) for one in self.entries]}
        replace_file(self.path, json.dumps(content, indent=1) + "\n", mode=0o600)


def replace_file(path: Path, text: str, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file so that a reader, or a power cut, meets the old or the new one."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_part(new, text.encode(), mode=mode, owner=owner)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise Misconfigured(
            f"{path} cannot be written: {error.strerror}.",
            hint="Run as root; look at the mode and the free space of its folder.",
        ) from None


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"The record of what set-up did cannot be read: {path}: {error}",
            hint="Run as root. If the file is damaged, restore it from a backup; without it set-up "
            "cannot be taken back by itself.",
        ) from None
    if content.get("format") != FORMAT:
        raise Misconfigured(
            f"{path} was written by another version of pvemcp.",
            hint="Run set-up with the version that wrote it.",
        )
    entries: list[dict[str, Any]] = content["entries"]
    return entries


Say = Callable[[str], None]


def planned(steps: Sequence[Step], records: Records) -> list[tuple[Step, list[str]]]:
    """Return the steps that have something to do, with what that is. Changes nothing."""
    found = []
    for step in steps:
        lines = step.plan()
        if records.pending(step.name):
            lines = ["finish what was interrupted", *lines]
        if lines:
            found.append((step, lines))
    return found


def apply(steps: Iterable[Step], records: Records, say: Say) -> None:
    """Bring every step about. Raises the Fault of the step that fails, with what is done by then.

    Running it again goes on from there.
    """
    done: list[str] = []
    for step in steps:
        try:
            _apply(step, records, say)
        except Fault as fault:
            before = f"Done before it: {', '.join(done)}. " if done else "Nothing was done before. "
            again = "Run the same command again to go on, or pvemcp setup --undo to take it back."
            fault.message = f"{step.name}: {fault.message}"
            hint = f"{fault.hint.rstrip('.')}. " if fault.hint else ""
            fault.hint = f"{hint}{before}{again}"
            raise
        done.append(step.name)


def _apply(step: Step, records: Records, say: Say) -> None:
    if half := records.pending(step.name):
        step.undo(half.record)
        records.drop(half)
    lines = step.plan()
    if not lines:
        return
    foreseen = step.foresee() if isinstance(step, Foreseeing) else None
    entry = Entry(step.name, lines, foreseen or {})
    if foreseen is not None:
        records.add(entry)
    record = step.apply()
    entry.record, entry.state = record, "done"
    records.save() if foreseen is not None else records.add(entry)
    say(step.name)


def undo(find: Callable[[str], Step], records: Records, say: Say) -> None:
    """Take everything back, newest first. What fails stays recorded; running it again goes on."""
    while records.entries:
        entry = records.entries[-1]
        step = find(entry.step)
        try:
            for line in step.undo(entry.record):
                say(f"{entry.step}: {line}")
        except Fault as fault:
            fault.message = f"{entry.step}: {fault.message}"
            fault.hint = f"{fault.hint} Then run pvemcp setup --undo again; it goes on.".strip()
            raise
        records.drop(entry)
