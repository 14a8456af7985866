"""What a change works on: how its state is read, and how the change is taken back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pvemcp.errors import Missing, Rejected
from pvemcp.journal.change import Recipe, State, never
from pvemcp.pve.client import Pve
from pvemcp.pve.description import Description

Reader = Callable[[Pve], Awaitable[State]]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a change once it has ended."""

    verb: str
    template: str
    path: str
    params: Mapping[str, Any] = field(repr=False)
    before: State = field(repr=False)
    after: State = field(repr=False)
    description: Description = field(repr=False)
    safety: str = ""
    """The snapshot of the guest that was taken just before."""

    def text(self, name: str) -> str:
        """Return a parameter as text, empty when it was not given."""
        value = self.params.get(name)
        return "" if value is None else str(value)

    def flag(self, name: str) -> bool:
        """Whether a boolean parameter was given as true."""
        return self.text(name) in ("1", "True")

    @property
    def guest(self) -> str:
        """The path of the guest: the first four parts of the change's."""
        return "/".join(self.path.split("/")[:5])


@dataclass(frozen=True, slots=True)
class Subject:
    """One target of one change."""

    kind: str
    id: str
    read: Reader
    """Raises a Fault when the state cannot be read; {} stands for "is not there"."""
    undo: Callable[[Facts], Recipe]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


async def nothing(_pve: Pve) -> State:
    """Read nothing: there is no state that could be compared."""
    return {}


def unknown(kind: str, id_: str, why: str) -> Subject:
    """Return the subject of a change that cannot be taken back."""
    return Subject(kind, id_, nothing, lambda _facts: never(why))


async def absent_or(pve: Pve, path: str, **params: Any) -> Any:
    """GET what may not be there; None then. Raises other Faults."""
    try:
        return await pve.get(path, **params)
    except (Missing, Rejected):
        return None


def flat(found: Any) -> State:
    """Return PVE's answer as a state, with values as they are written.

    Lists of names whose order means nothing are sorted. What PVE shows as an object, such as
    `prune-backups` of a backup job, it takes as a property string.
    """
    if not isinstance(found, Mapping):
        return {}
    return {
        key: _written(key, value)
        for key, value in found.items()
        if value is not None and key not in MOVING
    }


def _written(key: str, value: Any) -> Any:
    if key in _SETS:
        return ",".join(sorted(str(value).split(",")))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_part(value[name])}" for name in sorted(value))
    return value


def _part(value: Any) -> str:
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)


MOVING = frozenset(("order", "errors", "next-run"))
"""What PVE shows beside the settings, and changes by itself: the place of an HA rule, …"""
_SETS = frozenset(("content", "nodes", "exitnodes", "resources"))
