"""This node in its cluster: what the mirror shows of it, read again when it has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pvemcp.errors import Unavailable
from pvemcp.host import identity, members
from pvemcp.host.identity import Identity
from pvemcp.host.members import Members

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(slots=True)
class Cluster:
    """The cluster as `folder` (the mirror) shows it; nodes call each other on `port`."""

    folder: Path
    port: int
    _kept: dict[str, tuple[Stamp, object]] = field(default_factory=dict)

    def members(self) -> Members:
        """Return the nodes. Raises Unavailable."""
        return self._current(members.read_members, members.FILE)

    def identity(self) -> Identity:
        """Return this node's certificate. Raises Misconfigured."""
        return self._current(identity.load, identity.CERT, identity.KEY, identity.AUTHORITY)

    def others(self) -> list[str]:
        """Return the names of the other nodes; none when the cluster is not known."""
        try:
            return self.members().others()
        except Unavailable:
            return []

    def _current(self, read: Callable[[Path], T], *names: str) -> T:
        stamp = tuple(map(self._stamp, names))
        kept, value = self._kept.get(names[0], ((), None))
        if kept != stamp or value is None:
            value = read(self.folder)
            self._kept[names[0]] = (stamp, value)
        return value  # type: ignore[return-value] # what the same reader has returned

    def _stamp(self, name: str) -> tuple[int, int, int]:
        try:
            found = (self.folder / name).stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_ino, found.st_size)
