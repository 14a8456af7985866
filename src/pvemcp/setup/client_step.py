"""A client as a step of set-up, so that it is taken back with the rest."""

from __future__ import annotations

from pvemcp.errors import Missing
from pvemcp.setup.account import USER
from pvemcp.setup.clients import Clients, Wanted, entry_lines
from pvemcp.setup.roles import KINDS
from pvemcp.setup.step import Record

PREFIX = "client "


class ClientStep:
    """The client exists. Its secret is in `secret` after `apply` has made it, and nowhere else."""

    def __init__(self, clients: Clients, wanted: Wanted, *, known: bool) -> None:
        self.name = f"{PREFIX}{wanted.name}"
        self.secret = ""
        self._clients = clients
        self._wanted = wanted
        self._known = known
        """A grant of that name exists."""

    def plan(self) -> list[str]:
        """Say what is made, in both halves."""
        if self._known:
            return []
        kind = KINDS[self._wanted.kind]
        return [
            f"make the PVE token {USER}!{self._wanted.name}, with privilege separation",
            *entry_lines(self._wanted.rights()),
            f"make the grant {self._wanted.name} with the ceiling {kind.ceiling}",
        ]

    def foresee(self) -> Record:
        """Return what `apply` will have done."""
        return {"client": self._wanted.name}

    def apply(self) -> Record:
        """Make the client."""
        _, self.secret = self._clients.add(self._wanted)
        self._known = True
        return self.foresee()

    def undo(self, record: Record) -> list[str]:
        """End the client, or what there is of it."""
        self._known = False
        try:
            return self._clients.revoke(record["client"])
        except Missing:
            return []
