"""One step of a set-up: it says what it would change, changes it, and takes exactly that back."""

from __future__ import annotations

from typing import Any, Protocol

Record = dict[str, Any]
"""What a step changed, as JSON can hold it; kept until the step is undone."""


class Step(Protocol):
    """A change of this host or of PVE. `name` says what it is about, in a few words.

    Everything raises a Fault when it cannot be done; nothing is then half changed.
    """

    name: str

    def plan(self) -> list[str]:
        """Return what `apply` would change now, a line each; empty when all is as it should be."""

    def apply(self) -> Record:
        """Make it so; doing it again changes nothing."""

    def undo(self, record: Record) -> list[str]:
        """Take back what `apply` recorded, and nothing else; return what was done, a line each."""
