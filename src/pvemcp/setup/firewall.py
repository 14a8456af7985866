"""Who may reach the service: rules in PVE's firewall where that is on, else a table of ours.

The rules themselves are what is remembered; there is no second list that could differ from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pvemcp.errors import Misconfigured
from pvemcp.settings import Settings, is_loopback
from pvemcp.setup.networks import Network, merged, own_networks, without
from pvemcp.setup.nft_table import NftTable
from pvemcp.setup.pve_rules import Api, PveRules
from pvemcp.setup.step import Record

AGAIN = "pvemcp firewall allow"
"""Without a network: it puts the rules where they count."""


class Place(Protocol):
    """Where the rules can be."""

    where: str

    def sources(self) -> list[Network] | None:
        """Return who is let in, or None when there is no rule of ours."""

    def ports(self) -> list[int]:
        """Return the ports that are guarded."""

    def rules(self) -> list[str]:
        """Return the rules in force, a line each."""

    def problem(self) -> str:
        """Return why the rules do not count; empty when they do."""

    def write(self, sources: Sequence[Network], ports: Sequence[int]) -> None:
        """Replace the rules."""

    def remove(self) -> bool:
        """Take the rules away; return whether there were any."""


class Pve(Place, Protocol):
    """PVE's firewall."""

    def is_on(self) -> bool:
        """Whether it counts."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is in force."""

    where: str
    sources: list[Network]
    rules: list[str]
    problems: list[str]


class Firewall:
    """The rules of this host, for ports of ours. Fulfils Step; everything raises Faults."""

    name = "firewall"

    def __init__(
        self,
        ports: Callable[[], Sequence[int]],
        table: Place,
        pve: Pve | None,
        own: Callable[[], list[Network]] = own_networks,
    ) -> None:
        self._ports_now = ports
        self._table = table
        self._pve = pve
        self._places: list[Place] = [table, *([pve] if pve else [])]
        self._own = own

    @property
    def _ports(self) -> list[int]:
        """The ports of ours that others can reach; none when the service is on loopback."""
        return sorted(self._ports_now())

    @property
    def _right(self) -> Place:
        """Where rules count now."""
        return self._pve if self._pve and self._pve.is_on() else self._table

    def sources(self) -> list[Network] | None:
        """Return who is let in, wherever that is written; None when nothing is."""
        found = [one for one in (place.sources() for place in self._places) if one is not None]
        return merged(network for one in found for network in one) if found else None

    def allow(self, more: Sequence[Network]) -> list[Network]:
        """Let networks in, besides those that are, or else this host's own; return all."""
        known = self.sources()
        return self._put(merged([*(self._own() if known is None else known), *more]))

    def deny(self, gone: Sequence[Network]) -> list[Network]:
        """Let networks in no longer, also when they are a part of one that is; return the rest."""
        known = self.sources()
        return self._put(without(self._own() if known is None else known, gone))

    def _put(self, sources: list[Network]) -> list[Network]:
        if not self._ports:
            raise Misconfigured(
                "The service listens on this host alone: there is nothing to let in.",
                hint='Set listen = "[::]:8080" first.',
            )
        right = self._right
        right.write(sources, self._ports)
        for place in self._places:
            if place is not right:
                place.remove()
        return sources

    def remove(self) -> list[str]:
        """Take away everything of ours; return where there was something."""
        return [place.where for place in self._places if place.remove()]

    def status(self) -> Status:
        """Return what is in force, and what is wrong with it."""
        there = [place for place in self._places if place.sources() is not None]
        problems = [problem for place in there if (problem := place.problem())]
        if not there and self._ports:
            problems = [f"nothing of pvemcp guards {_named(self._ports)}"]
        for place in there:
            if place is not self._right and not place.problem():
                problems.append(f"the rules are in {place.where}, but PVE's firewall is on")
            if self._ports and place.ports() != self._ports:
                problems.append(
                    f"{_named(place.ports())} is guarded, but the service has {_named(self._ports)}"
                )
        rules = [line for place in there for line in place.rules()]
        where = " and ".join(place.where for place in there)
        return Status(where, self.sources() or [], rules, problems)

    # As a step of set-up ---------------------------------------------------------------------

    def plan(self) -> list[str]:
        """Say who will be let in, or that the rules move to where they count."""
        known = self.sources()
        if not self._ports:
            return []
        if known is None:
            named = ", ".join(map(str, self._own())) or "nobody but this host"
            return [f"let only this host's own networks reach {_named(self._ports)}: {named}"]
        if self.status().problems:
            return [f"put the rules for {_named(self._ports)} into {self._right.where}"]
        return []

    def foresee(self) -> Record:
        """Return what `apply` will have done."""
        return {"made": self.sources() is None}

    def apply(self) -> Record:
        """Let this host's own networks in, unless somebody has chosen already."""
        record = self.foresee()
        if record["made"] or self.status().problems:
            self.allow([])
        return record

    def undo(self, record: Record) -> list[str]:
        """Take the rules away, if set-up made them."""
        if not record["made"]:
            return []
        return [f"removed the rules in {where}" for where in self.remove()]


def open_firewall(settings: Settings, access: Api | None) -> Firewall:
    """Return the rules of this host; `access` is root's to its own PVE, or None elsewhere."""
    return Firewall(lambda: ports_of(settings), NftTable(), PveRules(access) if access else None)


def ports_of(settings: Settings) -> list[int]:
    """Return the service's ports that others can reach."""
    host, port = settings.address
    peers = [settings.peer_port] if settings.peer_port else []
    return [] if is_loopback(host) else [port, *peers]


def _named(ports: Sequence[int]) -> str:
    return f"port {' and '.join(map(str, ports)) or '?'}"
