"""What a command wrote: masked as it comes, in order, with a position to go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

KEPT = 4 << 20
"""Bytes of one command's output that are kept in memory, the newest."""


class Mask(Protocol):
    """Takes secrets out of a stream (see masking.Masker)."""

    def feed(self, chunk: bytes) -> bytes:
        """Return what can be shown of the stream so far."""

    def flush(self) -> bytes:
        """Return the rest, masked: an unfinished line."""


class Unmasked:
    """A Mask that hides nothing: for what is not text, or is masked elsewhere."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the chunk."""
        return chunk

    def flush(self) -> bytes:
        """Return nothing: nothing is held back."""
        return b""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output. `start` counts from the first byte the command wrote."""

    stream: str
    """stdout or stderr."""
    start: int
    data: bytes


class Transcript:
    """The output of one command. Positions count bytes of masked output of both streams."""

    def __init__(
        self,
        mask: Callable[[], Mask],
        *,
        kept: int = KEPT,
        heard: Callable[[bytes], None] | None = None,
    ) -> None:
        """`heard` is told of all masked output, in its order."""
        self._heard = heard
        self._masks = {"stdout": mask(), "stderr": mask()}
        self._pieces: list[Piece] = []
        self._kept = kept
        self.first = 0
        """Where the oldest byte stands that is still kept."""
        self.end = 0

    def go_on(self, *, shown: bool) -> Transcript:
        """Return an empty transcript that masks what follows as the continuation of this one.

        With `shown`, unfinished lines count as seen; else they begin the new one.
        """
        if shown:
            self.settle()
        new = Transcript(lambda: self._masks["stdout"], kept=self._kept)
        new._masks = self._masks
        return new

    def add(self, stream: str, data: bytes) -> None:
        """Take what the command wrote."""
        self._append(stream, self._masks[stream].feed(data))

    def settle(self) -> None:
        """Bring out unfinished lines too: nothing more is expected for now."""
        for stream, mask in self._masks.items():
            self._append(stream, mask.flush())

    def since(self, cursor: int, limit: int) -> list[Piece]:
        """Return at most `limit` bytes from a position on, cut at a whole character."""
        found: list[Piece] = []
        for piece in self._pieces:
            skip = max(0, cursor - piece.start)
            data = piece.data[skip : skip + limit]
            if not data or skip >= len(piece.data):
                continue
            if len(data) == limit:
                data = _whole(data)
            limit -= len(data)
            found.append(Piece(piece.stream, piece.start + skip, data))
            if limit <= 4:
                break
        return found

    def last_line(self) -> str:
        """Return the newest line that is not empty."""
        lines = self._pieces[-1].data[-400:].split(b"\n") if self._pieces else []
        return next((x.decode("utf-8", "replace") for x in reversed(lines) if x.strip()), "")

    def _append(self, stream: str, data: bytes) -> None:
        if not data:
            return
        if self._heard is not None:
            self._heard(data)
        last = self._pieces[-1] if self._pieces else None
        if last and last.stream == stream and len(last.data) < 65536:
            self._pieces[-1] = Piece(stream, last.start, last.data + data)
        else:
            self._pieces.append(Piece(stream, self.end, data))
        self.end += len(data)
        while self.end - self._pieces[0].start - len(self._pieces[0].data) > self._kept:
            del self._pieces[0]
        self.first = self._pieces[0].start


def _whole(data: bytes) -> bytes:
    """Drop the beginning of a UTF-8 character at the end; what is no UTF-8 stays as it is."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return data
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if back < length and back < len(data) else data
    return data
