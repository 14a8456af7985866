"""What PVE asks of a person: privileges on paths of its access list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ROOT = "root@pam"
SPACE, ALLOCATE = "Datastore.AllocateSpace", "Datastore.Allocate"


@dataclass(frozen=True, slots=True)
class Need:
    """Privileges on an ACL path: all of them, or any. Without a path: only root@pam has it."""

    path: str
    names: tuple[str, ...]
    any: bool = False

    def __str__(self) -> str:
        if not self.path:
            return f"to be {ROOT}"
        return f"{(' or ' if self.any else ' and ').join(self.names)} on {self.path}"


Choice = tuple[Need, ...]
"""Needs that must all be met."""
Needs = tuple[Choice, ...]
"""One of these must be met."""
STRICTEST: Needs = ((Need("/", ("Sys.Modify",)),),)
NOBODY = Need("", ())
"""Only root@pam has it."""

Given = Mapping[str, str]
"""Parameters of a write, as far as permissions are about them; of the others the names alone."""


def both(one: Needs, other: Needs) -> Needs:
    """Return what meets both: each choice of one with each of the other."""
    return tuple((*first, *second) for first in one for second in other)


def each(prefix: str, names: Iterable[str], *privileges: str) -> Choice:
    """Return a need for each name."""
    listed = [name for name in names if name]
    return tuple(Need(f"{prefix}{name}", privileges) for name in listed)
