"""Takes over what other nodes have frozen, and nothing more from them.

A node says which freezes are its own, all of them at once. Whose they are is not in the message: it
is the node that has proved itself (see door.py). So no node can say anything of another's freezes,
nor of those that were made here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pvemcp.access.freeze import EVERYONE, MODES, Freeze, Freezes
from pvemcp.errors import Conflict, Invalid
from pvemcp.unseen import clean

DO = "freezes"
"""The request that says them."""
NEEDS = 2
"""The version of the frames that knows it."""
MOST = 100
"""Freezes of one node."""
MOST_THAWS, WINDOW = 30, 60.0
"""How often in so many seconds a node may take something back. To freeze it may always."""
_LENGTHS = {"client": 100, "grant": 100, "by": 100, "reason": 500}


def said(own: Sequence[Freeze]) -> dict[str, Any]:
    """Return the request that says what this node has frozen."""
    return {"do": DO, "freezes": [{key: asdict(each)[key] for key in _KEYS} for each in own]}


@dataclass(slots=True)
class Hearing:
    """Takes over what other nodes say. `clock` is in seconds."""

    freezes: Freezes
    clock: Callable[[], float] = time.monotonic
    _thaws: dict[str, deque[float]] = field(default_factory=dict)

    def hear(self, caller: str, request: Mapping[str, Any]) -> dict[str, int]:
        """Take over the freezes of a node; return how many of them were ended here by hand.

        Raises Invalid, and Conflict for a node that takes back too often.
        """
        given = _read(caller, request)
        if any(each not in given for each in self.freezes.made_on(caller)):
            self._allow_thaw(caller)
        return {"released": self.freezes.take(caller, given)}

    def _allow_thaw(self, caller: str) -> None:
        seen, now = self._thaws.setdefault(caller, deque(maxlen=MOST_THAWS)), self.clock()
        if len(seen) == MOST_THAWS and now - seen[0] < WINDOW:
            raise Conflict(
                f"{caller} took freezes back more than {MOST_THAWS} times in {WINDOW:.0f} s",
                hint="It is heard again after that time.",
            )
        seen.append(now)


_KEYS = ("client", "grant", "mode", "by", "reason", "since")


def _read(caller: str, request: Mapping[str, Any]) -> list[Freeze]:
    rows = request.get("freezes")
    if not isinstance(rows, list) or len(rows) > MOST:
        raise Invalid(
            f"a node says at most {MOST} freezes", hint="Freeze everyone instead: pvemcp freeze."
        )
    found = [_freeze(caller, row) for row in rows]
    for names in ([each.client for each in found], [each.grant for each in found]):
        if len(set(names)) != len(names):
            raise Invalid("a client is frozen twice")
    return found


def _freeze(caller: str, row: Any) -> Freeze:
    if not isinstance(row, dict):
        raise Invalid("a freeze is no object")
    for key, most in _LENGTHS.items():
        if not isinstance(row.get(key), str) or len(row[key]) > most:
            raise Invalid(f"{key} of a freeze is no text of at most {most} characters")
    since, mode = row.get("since"), row.get("mode")
    if not isinstance(since, int | float) or not 0 <= since < 1e11:
        raise Invalid("since of a freeze is no time")
    if mode not in MODES:
        raise Invalid(f"mode of a freeze is none of {', '.join(MODES)}")
    if (row["client"] == EVERYONE) != (row["grant"] == ""):
        raise Invalid("a freeze names a client without its id, or an id without a name")
    client, grant, by, reason = (clean(row[key]) for key in _LENGTHS)
    return Freeze(client, mode, by, reason, float(since), caller, grant)
