"""What one intended write means: to what, what changes, what is lost, what cannot be seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pvemcp.call import Intent, Target

NAMED = 500
"""Further targets that a plan names."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that changes; None stands for "not there"."""

    key: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.key}: set to {self.new}"
        if self.new is None:
            return f"{self.key}: {self.old} is removed"
        return f"{self.key}: {self.old} -> {self.new}"


@dataclass(frozen=True, slots=True)
class Preview:
    """What a person must know to answer yes or no. Texts are as PVE gives them, unmasked."""

    intent: Intent
    target: Target
    does: str
    """One sentence without a full stop: "destroys qemu/105 web and its disks"."""
    changes: tuple[Change, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """What an administrator would look up first, as `(name, text)`."""
    lost: tuple[str, ...] = ()
    """What is gone afterwards, one line each; empty when nothing is."""
    unseen: tuple[str, ...] = ()
    """What could not be looked up, and why."""
    undo: str = ""
    """How it can be taken back, or why it cannot; empty: it cannot. See journal/undoable.py."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What an approval holds on to: config digest, status, snapshots. When it is another, the
    approval is void. No uptimes, sizes in use or other values that move by themselves."""
    confirm: str = ""
    """What a person types to confirm an irreversible loss: the guest's id, the volume's name."""
    also: tuple[Target, ...] = ()
    """Further guests, nodes and pools that it touches: the policy asks about them, too."""
    users: tuple[Target, ...] = ()
    """Guests that lose what they use, which `facts` name: the policy asks about them, too."""

    @property
    def bound(self) -> str:
        """The intent and the state it was planned for, in one canonical text."""
        return json.dumps(
            [self.intent.said, self.target.id, [one.id for one in self.also], self.state],
            sort_keys=True,
            default=str,
        )

    def told(self) -> list[str]:
        """Write what an administrator would look up, and what changes."""
        told = [f"{name}: {text}" for name, text in self.facts]
        if self.also:
            told.append(f"touches also: {_named(self.also)}")
        return [*told, *map(str, self.changes)]

    def lines(self) -> list[str]:
        """Write it for a person, first line first."""
        listed = [f"- {self.intent.verb} {self.intent.path}: {self.does}"]
        listed += [f"    {line}" for line in self.told()]
        listed += [f"    LOST: {line}" for line in self.lost]
        listed += [f"    not seen: {line}" for line in self.unseen]
        listed.append(f"    undo: {self.undo or 'not possible'}")
        return listed


def _named(targets: tuple[Target, ...]) -> str:
    names = [f"{one.kind} {one.id} {one.name}".rstrip() for one in targets]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
