"""The log of a job: its frames, masked as a stream although it is read in pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pvemcp.errors import Invalid, Unavailable
from pvemcp.host.ended import Ended, ended_of
from pvemcp.host.frames import HEADER, MOST
from pvemcp.host.transcript import Mask, Transcript

_CURSOR = re.compile(r"([0-9]{1,13})(f?)")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a job's output. `cursor` reads on from its end."""

    about: Mapping[str, Any]
    transcript: Transcript
    cursor: str
    more: bool
    """There is more output already."""
    ended: Ended | None


def parse_cursor(text: str) -> tuple[int, bool]:
    """Return the position in the log, and whether an unfinished line was shown up to it."""
    found = _CURSOR.fullmatch(text or "0")
    if found is None:
        raise Invalid(f"cursor={text!r} is none of job_read's", hint="Leave it out to begin.")
    return int(found[1]), bool(found[2])


def page_of(raw: bytes, *, start: int, shown: bool, mask: Callable[[], Mask]) -> Page:
    """Read what jobs.py gave for a cursor.

    What stands before the cursor only tells the masks where they are: within a private key, or in
    the middle of a line, whose beginning was shown if `shown` says so.
    """
    head, _, log = raw.partition(b"\n")
    try:
        about = json.loads(head)
        position = int(about["from"])
    except (ValueError, KeyError, TypeError):
        raise Unavailable("the job's log cannot be read", hint="See job_list.") from None
    frames = list(_frames(log, position))
    before = Transcript(mask)
    for kind, payload, after in frames:
        if after <= start and kind in _STREAMS:
            before.add(_STREAMS[kind], payload)
    transcript, ended = before.go_on(shown=shown), None
    for kind, payload, after in frames:
        position = after
        if kind == b"X":
            ended = ended_of(payload, transcript)
        elif after > start and kind in _STREAMS:
            transcript.add(_STREAMS[kind], payload)
    whole = position >= int(about["size"])
    if whole:
        transcript.settle()
    return Page(about, transcript, f"{position}{'f' * whole}", not whole, ended)


_STREAMS = {b"O": "stdout", b"e": "stderr"}


def _frames(log: bytes, position: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield kind, payload and the position after it, of each whole frame."""
    at = 0
    while at + HEADER.size <= len(log):
        kind, size = HEADER.unpack_from(log, at)
        end = at + HEADER.size + size
        if size > MOST or kind not in b"BOeX":
            raise Unavailable("the job's log is damaged", hint="Stop the job and start it anew.")
        if end > len(log):
            return
        yield kind, log[at + HEADER.size : end], position + end
        at = end
