"""The planning pass: a tool runs, reads what it reads, and writes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pvemcp.call import Call, Intent, PlanEnds
from pvemcp.errors import Fault


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of a planning pass."""

    intents: tuple[Intent, ...]
    result: Any = None
    """What the tool answered; of use only when it would write nothing."""
    fault: Fault | None = None
    """How the tool failed."""
    open_ended: bool = False
    """Further writes hang on PVE's answers to these."""


async def rehearse(call: Call, run: Callable[[], Awaitable[Any]]) -> Rehearsal:
    """Run a tool without its writes. Faults are returned, not raised: see `Rehearsal`."""
    intents: list[Intent] = []
    call.planning = intents
    call.seen.clear()
    call.told.clear()
    try:
        result = await run()
        return Rehearsal(tuple(intents), result)
    except PlanEnds:
        return Rehearsal(tuple(intents), open_ended=True)
    except Fault as fault:
        return Rehearsal(tuple(intents), fault=fault)
    finally:
        call.planning = None
