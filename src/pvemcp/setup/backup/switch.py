"""Switches several files at once: all of them or none, whatever ends the process.

The new files are written beside the old ones, which are then renamed away and the new ones into
their places. A journal says what was meant before anything is done; while it is there, everything
can be taken back, as often as needed, by whoever comes next.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvemcp.errors import Unavailable
from pvemcp.setup.backup.written import sync_folder, unwritable, write_new, write_part

JOURNAL = "restore.json"
PREPARING, SWITCHING, DONE = "preparing", "switching", "done"
Said = Callable[[str], None]
"""Is told of every step before it is done."""


@dataclass(frozen=True, slots=True)
class Target:
    """A file as it shall be; without content it shall not be there."""

    path: Path
    content: bytes | None = field(repr=False)
    mode: int = 0o600
    owner: tuple[int, int] | None = None
    """None: who runs this."""


class Switch:
    """One switch. `note` is kept in the journal for whoever takes it back."""

    def __init__(self, journal: Path, targets: Sequence[Target], note: dict[str, Any]) -> None:
        ident = secrets.token_hex(4)
        self._journal = journal
        self._targets = targets
        self._note = note
        self._entries: list[dict[str, Any]] = [
            {
                "path": str(target.path),
                "new": str(_beside(target.path, ident, "new"))
                if target.content is not None
                else "",
                "old": str(_beside(target.path, ident, "old")),
                "existed": os.path.lexists(target.path),
            }
            for target in targets
        ]
        self._folders = [
            str(folder) for target in targets for folder in _missing(target.path.parent)
        ]

    def prepare(self, said: Said) -> None:
        """Write the new files beside the old ones. Raises Unavailable; `take_back` cleans up."""
        self._write(PREPARING)
        for target, entry in zip(self._targets, self._entries, strict=True):
            if target.content is None:
                continue
            said(f"writing the new {target.path}")
            try:
                _make_folder(target)
                new = Path(entry["new"])
                write_part(new, target.content, mode=target.mode, owner=target.owner)
            except OSError as exc:
                raise unwritable(target.path, exc) from None

    def run(self, said: Said) -> None:
        """Rename. Raises Unavailable; everything can still be taken back."""
        self._write(SWITCHING)
        try:
            for entry in self._entries:
                said(f"switching {entry['path']}")
                if entry["existed"]:
                    Path(entry["path"]).rename(entry["old"])
                said(f"switched away {entry['path']}")
                if entry["new"]:
                    Path(entry["new"]).rename(entry["path"])
            for folder in {target.path.parent for target in self._targets}:
                sync_folder(folder)
        except OSError as exc:
            raise unwritable(Path(str(exc.filename)), exc) from None

    def finish(self, said: Said) -> None:
        """Let the old files go: from here on nothing can be taken back."""
        said("the new state holds")
        self._write(DONE)
        said("deleting the old files")
        take_back(self._journal)

    def _write(self, stage: str) -> None:
        content = {
            "stage": stage, "entries": self._entries, "folders": self._folders, "note": self._note,
        }  # fmt: skip
        write_new(self._journal, json.dumps(content).encode(), make_folder=True, replace=True)


@dataclass(frozen=True, slots=True)
class Noted:
    """What a journal says."""

    stage: str
    note: Mapping[str, Any]


def noted(journal: Path) -> Noted | None:
    """Read a journal; None without one. Raises Unavailable."""
    found = _read(journal)
    return None if found is None else Noted(str(found["stage"]), dict(found["note"]))


def take_back(journal: Path) -> None:
    """Bring back what was, or complete a switch that was done.

    Raises Unavailable when that is impossible; it can be tried again.
    """
    found = _read(journal)
    if found is None:
        return
    try:
        for entry in reversed(found["entries"]):
            if found["stage"] == SWITCHING:
                _bring_back(entry, Path(entry["path"]), Path(entry["old"]))
            for left in filter(None, (entry["new"], entry["old"])):
                Path(left).unlink(missing_ok=True)
        for folder in found["folders"] if found["stage"] != DONE else ():
            with contextlib.suppress(OSError):  # somebody else put something there
                Path(folder).rmdir()
        journal.unlink()
    except OSError as exc:
        raise Unavailable(
            f"{exc.filename} could not be brought back: {exc.strerror}.",
            hint="Repair that, then run: pvemcp restore --recover",
        ) from None


def _bring_back(entry: dict[str, Any], path: Path, old: Path) -> None:
    if entry["existed"]:
        if os.path.lexists(old):
            old.replace(path)
    elif entry["new"] and not os.path.lexists(entry["new"]):
        path.unlink(missing_ok=True)


def _read(journal: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(journal.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise Unavailable(
            f"The journal {journal} cannot be read.",
            hint="Files ending in .old beside the settings and the database are the former ones.",
        ) from None
    return found


def _beside(path: Path, ident: str, kind: str) -> Path:
    return path.with_name(f".{path.name}.restore-{ident}.{kind}")


def _missing(folder: Path) -> Iterator[Path]:
    """Yield the folders that are to be made, the innermost first."""
    while not folder.exists():
        yield folder
        folder = folder.parent


def _make_folder(target: Target) -> None:
    """Make the folder of a file, if there is none: as closed as the file."""
    folder = target.path.parent
    if folder.is_dir():
        return
    secret = target.mode == 0o600
    folder.mkdir(mode=0o700 if secret else 0o755, parents=True)
    if secret and target.owner is not None:
        os.chown(folder, *target.owner)
