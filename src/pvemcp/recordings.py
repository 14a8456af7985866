"""Recordings of shells: asciicast files beside the database, held to what the audit says of them.

A recording is written while its shell runs, each piece before a client reads it. Events of the
audit's chain seal how long it was and its digest, so that what is sealed cannot be changed, cut
or deleted unseen. A shell whose recording cannot be written ends.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pvemcp.chain import Chain
from pvemcp.errors import Fault, Missing, Unavailable
from pvemcp.store import Store
from pvemcp.unseen import clean

log = logging.getLogger(__name__)

FOLDER = "recordings"
STARTED, SEALED, DELETED = "recording started", "recording sealed", "recording deleted"
LONGEST = 32 << 20
"""Bytes of one recording; the shell ends there."""
END = ".cast"

Tell = Callable[[str, Mapping[str, Any]], None]
"""Writes an event to the audit: `(kind, about)`. Raises Unavailable."""


class Recording:
    """The recording of one shell that runs: asciicast v2, times in seconds since its start.

    Every method raises Unavailable when it cannot be written; it then ends as far as it is good.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any], tell: Tell, mask: Callable[[str], str]
    ) -> None:
        self.name = path.name.removesuffix(END)
        self.size = 0
        self._tell = tell
        self._mask = mask
        self._began = time.monotonic()
        self._digest = hashlib.sha256()
        self._sealed = -1
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file: int | None = os.open(path, flags, 0o600)
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from None
        header = {
            "version": 2, "width": about["columns"], "height": about["rows"],
            "timestamp": int(time.time()), "title": about["title"],
        }  # fmt: skip
        self._line(header)

    def wrote(self, data: bytes) -> None:
        """Take what the shell wrote, masked already."""
        if text := self._characters.decode(data):
            self._event("o", text)

    def typed(self, data: bytes) -> None:
        """Take what is typed into it. A secret that nobody knows as one stands there as typed."""
        self._event("i", self._mask(data.decode("utf-8", "replace")))

    def resized(self, columns: int, rows: int) -> None:
        """Take a new size of the terminal."""
        self._event("r", f"{columns}x{rows}")

    def seal(self, *, end: str = "") -> None:
        """Have the audit say what is recorded so far, and with `end`, why it ends there."""
        if self._file is None or (self.size == self._sealed and not end):
            return
        about = {"recording": self.name, "bytes": self.size, "sha256": self._digest.hexdigest()}
        self._tell(SEALED, {**about, "end": end})
        self._sealed = self.size

    def close(self, why: str) -> None:
        """Seal it for good. Does nothing the second time; never raises a Fault."""
        if self._file is None:
            return
        try:
            self.seal(end=why or "ended")
        except Fault as fault:
            log.error("the end of %s is not in the audit: %s", self.name, fault)  # noqa: TRY400
        self.abandon()

    def abandon(self) -> None:
        """Stop writing; nothing is sealed."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _event(self, code: str, data: str) -> None:
        self._line([round(time.monotonic() - self._began, 6), code, data])

    def _line(self, value: Any) -> None:
        if self._file is None:
            raise self._unwritable("it has ended")
        # Whoever prints the file has a terminal that obeys nothing of it.
        text = clean(json.dumps(value, ensure_ascii=False))
        line = text.encode("utf-8", "replace") + b"\n"
        if self.size + len(line) > LONGEST:
            raise self._unwritable(f"it has {LONGEST >> 20} MB, the most that one may have")
        done = 0
        try:
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise self._unwritable(error.strerror or str(error)) from None
        self.size += len(line)
        self._digest.update(line)

    def _unwritable(self, why: str) -> Unavailable:
        return Unavailable(
            f"the recording of {self.name} cannot be written: {why}; the policy wants one",
            hint="Make room where the service keeps its state, or open another shell.",
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the audit says of a recording. `started` is in seconds since the epoch."""

    name: str
    started: float
    client: str
    about: Mapping[str, Any]
    size: int = 0
    sha256: str = ""
    end: str = ""
    """Why it ended; empty while it runs, or when the service was killed."""
    deleted: str = ""
    """Why it was deleted; empty while it should be there."""


class Recordings:
    """All recordings beside one database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.path.parent / FOLDER

    def start(
        self, name: str, about: Mapping[str, Any], tell: Tell, mask: Callable[[str], str]
    ) -> Recording:
        """Begin a recording. `about`: columns, rows, title, and what the audit keeps of it.

        Raises Unavailable when it cannot be written.
        """
        with suppress(OSError):  # what is in the way shows when the file is made
            self.folder.mkdir(mode=0o700, exist_ok=True)
        made = Recording(self.path(name), about, tell, mask)
        try:
            tell(STARTED, {"recording": name, **about})
        except BaseException:
            made.abandon()
            self._delete(name)
            raise
        return made

    def path(self, name: str) -> Path:
        """Return where a recording lies."""
        return self.folder / f"{name}{END}"

    def all(self) -> list[Recorded]:
        """Return what the audit says of each, oldest first."""
        found: dict[str, Recorded] = {}
        for event in Chain(self._store).told(STARTED, SEALED, DELETED):
            name, about = str(event.about["recording"]), event.about
            if event.kind == STARTED:
                found[name] = Recorded(name, event.time, str(about.get("client", "")), about)
            elif (known := found.get(name)) is not None:
                found[name] = _told(known, event.kind, about)
        return list(found.values())

    def read(self, name: str) -> list[str]:
        """Return the lines of a recording; one that a power cut left unfinished is left out.

        Raises Missing.
        """
        if not (known := next((one for one in self.all() if one.name == name), None)):
            raise Missing(f"no recording {name}", hint="List them: pvemcp audit recordings.")
        if known.deleted:
            raise Missing(f"the recording {name} was deleted: {known.deleted}")
        try:
            text = self.path(name).read_text("utf-8", "replace")
        except OSError as error:
            raise Missing(
                f"the recording {name} cannot be read: {error.strerror}",
                hint="pvemcp audit verify says what should be there.",
            ) from None
        return text.split("\n")[:-1]

    def problems(self) -> Iterator[str]:
        """Say which recordings are not what the audit knows of them, oldest first."""
        known = self.all()
        for one in known:
            if not one.deleted and (problem := self._problem(one)):
                yield problem
        names = {one.name for one in known if not one.deleted}
        for name in sorted(self._files().keys() - names - self._outlived(names)):
            yield f"the recording {name} was put there: the audit does not know it"

    def _problem(self, one: Recorded) -> str:
        try:
            with self.path(one.name).open("rb") as file:
                content = file.read(one.size)
                more = bool(file.read(1))
        except OSError as error:
            return f"the recording {one.name} is missing: {error.strerror}"
        if one.sha256 and hashlib.sha256(content).hexdigest() != one.sha256:
            return f"the recording {one.name} was changed"
        return f"the recording {one.name} has more than it ended with" if one.end and more else ""

    def end_cut_off(self, tell: Tell) -> None:
        """Seal what a killed process has left without an end. Raises Unavailable."""
        for one in self.all():
            if one.end or one.deleted or self._problem(one):
                continue
            content = self.path(one.name).read_bytes()
            about = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            tell(SEALED, {"recording": one.name, **about, "end": "the service was killed"})

    def forget(self, *, before: float, most: int, tell: Tell) -> None:
        """Delete those that started before a time, the oldest ended ones while all have more than
        `most` bytes, and those that the audit no longer goes back to. Raises Unavailable.
        """
        known = [one for one in self.all() if not one.deleted]
        sizes = {name: found.st_size for name, found in self._files().items()}
        left = sum(sizes.values())
        for one in known:
            if one.started < before or (left > most and one.end):
                why = "age" if one.started < before else "recordings_max_mb"
                tell(DELETED, {"recording": one.name, "why": why})
                self._delete(one.name)
                left -= sizes.get(one.name, 0)
        for name in self._outlived({one.name for one in known}):
            self._delete(name)

    def _delete(self, name: str) -> None:
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"{self.path(name)} cannot be deleted: {error.strerror}") from None

    def _outlived(self, known: set[str]) -> set[str]:
        """Return those whose records went with the oldest of the audit."""
        oldest = self._store.rows("SELECT min(time) FROM chain")[0][0] or time.time()
        files = self._files()
        return {name for name in files.keys() - known if files[name].st_mtime < oldest}

    def _files(self) -> dict[str, os.stat_result]:
        """Return what lies in the folder, by the names of the recordings."""
        try:
            return {path.name.removesuffix(END): path.lstat() for path in self.folder.iterdir()}
        except OSError:
            return {}


def _told(known: Recorded, kind: str, about: Mapping[str, Any]) -> Recorded:
    if kind == DELETED:
        return replace(known, deleted=str(about.get("why") or "deleted"))
    return replace(
        known, size=int(about["bytes"]), sha256=str(about["sha256"]), end=str(about.get("end", ""))
    )
