"""Outputs that were too long for one answer, kept for a while so that the rest can be read."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from pvemcp.errors import Missing
from pvemcp.host.transcript import Transcript

KEPT_BYTES = 32 << 20
"""Of all kept outputs together; the oldest go first."""
KEPT_SECONDS = 1800.0
PREFIX = "out-"


@dataclass(frozen=True, slots=True)
class Output:
    """One kept output and whose it is."""

    owner: str
    transcript: Transcript
    until: float


class Outputs:
    """The kept outputs of this process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Output] = OrderedDict()

    def keep(self, owner: str, transcript: Transcript) -> str:
        """Keep an output for half an hour; return its name."""
        name = PREFIX + secrets.token_hex(6)
        self._kept[name] = Output(owner, transcript, time.monotonic() + KEPT_SECONDS)
        while self._bytes() > KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return name

    def find(self, owner: str, name: str) -> Transcript:
        """Return a kept output of this owner. Raises Missing."""
        for old in [key for key, one in self._kept.items() if one.until < time.monotonic()]:
            del self._kept[old]
        found = self._kept.get(name)
        if found is None or found.owner != owner:
            raise Missing(
                f"no output {name} is kept",
                hint="Outputs are kept for half an hour, and not over a restart. Run it again, "
                "or as a job (job_start), whose output stays for a week.",
            )
        return found.transcript

    def _bytes(self) -> int:
        return sum(one.transcript.end - one.transcript.first for one in self._kept.values())
