"""How the output of a command is written: how it ended, then what it wrote, in order."""

from __future__ import annotations

from collections.abc import Sequence

from pvemcp.host.ended import Ended
from pvemcp.host.transcript import Piece, Transcript
from pvemcp.tools.render import BUDGET, duration, to_json

SHOWN = BUDGET - 2000
"""Bytes of output in one answer."""
_WHY = {
    "timeout": "ended at its time limit",
    "output": "ended: it wrote more than it may",
    "input": "ended: it did not read its input",
    "agent": "the guest agent cut its output",
    "unsure": "its time is up, and the guest has not confirmed its end",
    "vanished": "its sandbox was killed: out of memory, or ended on the host",
}


def write_ended(ended: Ended, *, head: str, rest: str) -> str:
    """Write how a command ended and its output; `rest` says how to get what is left out."""
    parts = [f"{how(ended)}{took(ended)} ({head})"]
    if ended.dropped:
        parts.append(f"{ended.dropped} bytes were dropped: it wrote more than is passed on.")
    return "\n".join([*parts, *shown(ended.transcript, rest=rest)])


def how(ended: Ended) -> str:
    """Write how a command ended: `exit 0`, `killed by SIGTERM, ended at its time limit`."""
    if ended.code is not None:
        how_it_was = f"exit {ended.code}"
    else:
        how_it_was = f"killed by {ended.signal}" if ended.signal else ""
    why = _WHY.get(ended.why, ended.why)
    if ended.signal == "SIGKILL" and not why:
        why = "perhaps out of memory"
    return ", ".join(filter(None, (how_it_was, why)))


def took(ended: Ended) -> str:
    """Write how long it took, if that is worth saying."""
    if ended.seconds < 0.5:
        return ""
    text = f"{ended.seconds:.1f} s" if ended.seconds < 60 else duration(ended.seconds)
    return f" after {text}"


def shown(transcript: Transcript, *, rest: str) -> list[str]:
    """Write the output of a command: all of it, or its beginning and its end."""
    size = transcript.end
    if size <= SHOWN and transcript.first == 0:
        return sections(transcript.since(0, SHOWN)) or ["no output"]
    half = SHOWN // 2
    first, last = transcript.since(0, half), transcript.since(size - half, half)
    gap = last[0].start - (first[-1].start + len(first[-1].data)) if first and last else 0
    return [*sections(first), f"[{gap} of {size} bytes left out; {rest}]", *sections(last)]


def sections(pieces: Sequence[Piece]) -> list[str]:
    """Write output under the name of its stream, which is left out where all is stdout."""
    if all(piece.stream == "stdout" for piece in pieces):
        return [text(b"".join(piece.data for piece in pieces))] if pieces else []
    lines: list[str] = []
    stream = ""
    for piece in pieces:
        if piece.stream != stream:
            lines.append(f"{piece.stream}:")
            stream = piece.stream
        lines.append(text(piece.data))
    return lines


def text(data: bytes) -> str:
    """Decode output; bytes that are no UTF-8 are written as \\xNN."""
    return data.decode("utf-8", "backslashreplace").rstrip("\n")


def json_of(ended: Ended, *, rest: str) -> str:
    """Write a command's end and output as JSON, the output within the budget."""
    pieces = ended.transcript.since(0, SHOWN)
    told = sum(len(piece.data) for piece in pieces)
    value = {
        "exit_code": ended.code,
        "signal": ended.signal,
        "why": ended.why,
        "seconds": ended.seconds,
        "stdout": "".join(text_of(piece) for piece in pieces if piece.stream == "stdout"),
        "stderr": "".join(text_of(piece) for piece in pieces if piece.stream == "stderr"),
        "left_out": ended.transcript.end - told,
        "dropped": ended.dropped,
    }
    return to_json(value | ({"rest": rest} if value["left_out"] else {}))


def text_of(piece: Piece) -> str:
    """Decode one piece exactly as it stands."""
    return piece.data.decode("utf-8", "backslashreplace")
