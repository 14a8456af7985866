"""How a command ended, and in which profile each effect runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pvemcp.call import Effect
from pvemcp.errors import Unavailable
from pvemcp.host.frames import Link
from pvemcp.host.transcript import Transcript, Unmasked

ANSWER_SECONDS = 30

PROFILES: Mapping[Effect, str] = {
    Effect.READ: "read",
    Effect.CHANGE: "change",
    Effect.DESTROY: "root",
}
EFFECTS: Mapping[str, Effect] = {profile: effect for effect, profile in PROFILES.items()}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. `code` is None when a signal ended it or its sandbox vanished."""

    transcript: Transcript
    code: int | None = None
    signal: str = ""
    why: str = ""
    """timeout, output (it wrote too much), input (it did not read), vanished, or empty."""
    seconds: float = 0.0
    dropped: int = 0
    """Bytes of output beyond the profile's limit."""

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, with exit code 0."""
        return self.code == 0 and not self.why

    @property
    def note(self) -> str:
        """How it ended, in a word or two."""
        return self.why or self.signal or f"exit {self.code}"


def ended_of(payload: bytes, transcript: Transcript) -> Ended:
    """Read the frame X. The command might have written it, so nothing in it is relied on."""
    try:
        found = json.loads(payload)
        code = found.get("code")
        return Ended(
            transcript,
            code=int(code) if code is not None else None,
            signal=str(found.get("signal", ""))[:20],
            why=str(found.get("why", ""))[:20],
            seconds=float(found.get("seconds", 0)),
            dropped=int(found.get("dropped", 0)),
        )
    except (ValueError, TypeError, AttributeError):
        return Ended(transcript, why="vanished")


async def output_of(link: Link, what: str) -> str:
    """Return what a short command wrote, and close its link. Raises Unavailable if it failed."""
    texts, ended = {"O": b"", "e": b""}, Ended(Transcript(Unmasked), why="vanished")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while frame := await link.receive():
                if frame.kind == "X":
                    ended = ended_of(frame.payload, ended.transcript)
                    break
                texts[frame.kind] = texts.get(frame.kind, b"") + frame.payload
    except TimeoutError:
        ended = replace(ended, why="no answer")
    finally:
        link.close()
    if not ended.ok:
        said = texts["e"].decode("utf-8", "replace").strip()[:500] or "it wrote nothing"
        raise Unavailable(
            f"the helper there did not carry out {what} ({ended.note}): {said}",
            hint="There: journalctl -u pvemcp-helper.",
        )
    return texts["O"].decode("utf-8", "replace")
