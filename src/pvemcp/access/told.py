"""Which freezes of this node the other nodes know, as they last said.

It stands in the database, so that the command line, the page and `/readyz` tell the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace

from pvemcp.access.freeze import Freeze
from pvemcp.errors import Fault
from pvemcp.store import Store


def digest(freezes: Sequence[Freeze]) -> str:
    """Return what tells a set of freezes from another."""
    ordered = sorted(map(astuple, freezes))
    return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()


NONE = digest(())
"""What a node knows that was never told anything."""


ONCE = "It is told as soon as it answers; until then run the command there, too"
"""What to do about a node that does not know."""


@dataclass(frozen=True, slots=True)
class Hearer:
    """Another node. `digest` is of the freezes that it knows; `released` of them it has ended.

    `problem` is why it could not be told the last time, `since` when that began (since the epoch).
    """

    node: str
    digest: str = NONE
    released: int = 0
    problem: str = ""
    since: float = 0.0

    @property
    def behind(self) -> str:
        """What to say of it while it does not know the freezes as they are."""
        why = self.problem or "it has not answered yet"
        return f"{self.node} does not know the freezes of this node: {why}"


class Told:
    """What the other nodes know."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def all(self) -> list[Hearer]:
        """Return every node that was told something, or should have been."""
        rows = self._store.rows(
            "SELECT node, digest, released, problem, since FROM told ORDER BY node"
        )
        return [Hearer(*row) for row in rows]

    def behind(self, own: Sequence[Freeze]) -> list[Hearer]:
        """Return the nodes that do not know the freezes of this one as they are."""
        wanted = digest(own)
        return [each for each in self.all() if each.digest != wanted]

    def known_on(self, own: Sequence[Freeze]) -> str:
        """Return the names of the nodes that have frozen the same; none while nothing is."""
        wanted = digest(own)
        knowing = (each for each in self.all() if own and each.digest == wanted)
        return ", ".join(
            f"{each.node}{' (ended there by hand)' * bool(each.released)}" for each in knowing
        )

    def keep(self, nodes: Iterable[str]) -> None:
        """Know of these nodes, and of no others."""
        wanted, known = set(nodes), {each.node for each in self.all()}
        for node in known - wanted:
            self._store.write("DELETE FROM told WHERE node = ?", (node,))
        for node in wanted - known:
            self._put(Hearer(node))

    def heard(self, node: str, known: str, released: int) -> None:
        """Note what a node has taken over: the digest of it."""
        self._put(Hearer(node, known, released))

    def failed(self, node: str, fault: Fault) -> Hearer | None:
        """Note why a node could not be told; return it if that is news."""
        before = {each.node: each for each in self.all()}.get(node, Hearer(node))
        since = before.since if before.problem else self._now()
        now = replace(before, problem=fault.message, since=since)
        return now if self._put(now) else None

    def _put(self, now: Hearer) -> bool:
        if now in self.all():
            return False
        self._store.write("REPLACE INTO told VALUES (?, ?, ?, ?, ?)", astuple(now))
        return True
