"""Which guests use a bridge or a vnet, and what stands on an interface of a node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvemcp.call import Target
from pvemcp.errors import Fault
from pvemcp.plans.previews.diff import names
from pvemcp.plans.previews.guest import guest_in, unseen_guest
from pvemcp.plans.previews.looking import gaps, guests_line, line, look
from pvemcp.pve.client import Pve

Row = Mapping[str, Any]
READ = 64
"""Guests whose configuration is read for one plan, running ones first; the others are counted."""
_CARD = re.compile(r"net\d+")
_BRIDGE = re.compile(r"(?:^|,)bridge=([^,]+)")
_HOLDS = ("bridge_ports", "slaves", "ovs_ports", "ovs_bonds")
"""Settings of an interface that name those which it is made of."""


@dataclass(frozen=True, slots=True)
class Users:
    """The guests that use bridges and vnets."""

    by_bridge: Mapping[str, Sequence[Row]]
    unseen: Sequence[str] = ()
    protected: frozenset[int] = frozenset()
    """Those with PVE's protection flag."""
    whole: bool = True
    """Whether the network of every guest that the token sees was read."""

    @property
    def rows(self) -> Mapping[int, Row]:
        """The guests by their ids, in order."""
        found = {int(row["vmid"]): row for rows in self.by_bridge.values() for row in rows}
        return dict(sorted(found.items()))

    @property
    def running(self) -> int:
        """How many of them run."""
        return sum(row.get("status") == "running" for row in self.rows.values())

    def targets(self) -> tuple[Target, ...]:
        """Return what the policy is asked about, when they lose their network."""
        found = [
            guest_in(row).target(protected=vmid in self.protected)
            for vmid, row in self.rows.items()
        ]
        return (*found, *(() if self.whole else (unseen_guest(),)))

    def facts(self) -> list[tuple[str, str]]:
        """Write who uses what, one fact a bridge."""
        used = {bridge: rows for bridge, rows in self.by_bridge.items() if rows}
        named = [(f"guests on {line(name, 40)}", guests_line(used[name])) for name in sorted(used)]
        return named or [("guests that use it", "none seen")]


async def users(pve: Pve, bridges: set[str] | None, node: str = "") -> Users:
    """Look up who has a network card on bridges or vnets, on one node or all; None: on any.

    What PVE refuses, and how many guests were not looked at, is in `unseen`.
    """
    if bridges is not None and not bridges:
        return Users({})
    try:
        rows = [r for r in await pve.resources() if r.get("type") in ("qemu", "lxc")]
    except Fault as fault:
        return Users({}, (f"guests: {line(fault.message)}",), whole=False)
    here = [row for row in rows if not node or row.get("node") == node]
    here.sort(key=lambda row: (row.get("status") != "running", int(row["vmid"])))
    chosen, unread = here[:READ], len(here[READ:])
    seen = await look({str(row["vmid"]): pve.get(f"{guest_in(row).path}/config") for row in chosen})
    found: dict[str, list[Row]] = {name: [] for name in bridges or ()}
    configs = [(row, seen[str(row["vmid"])] or {}) for row in chosen]
    for row, config in configs:
        for bridge in _bridges(config):
            if bridges is None or bridge in bridges:
                found.setdefault(bridge, []).append(row)
    hidden = await gaps(pve, ("/vms", "VM.Audit"))
    return Users(
        found,
        (*_missed(seen.unseen, unread), *hidden),
        frozenset(int(r["vmid"]) for r, c in configs if str(c.get("protection")) == "1"),
        whole=not (unread or seen.unseen),
    )


def _missed(refused: Sequence[str], unread: int) -> Iterator[str]:
    if refused:
        yield f"networks of {len(refused)} guests, such as {refused[0]}"
    if unread:
        yield f"networks of {unread} more guests: only {READ} are read for a plan"


def _bridges(config: Mapping[str, Any]) -> list[str]:
    cards = (str(value) for key, value in config.items() if _CARD.fullmatch(key))
    return sorted({found[1] for card in cards if (found := _BRIDGE.search(card))})


# Interfaces ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stack:
    """An interface, with all that stands on it."""

    names: Sequence[str]
    """It first, then those above it: a bond, its bridge, the bridge's VLANs."""
    above: Sequence[str] = ()
    """Which stands on which, one line each."""
    addresses: Sequence[str] = ()
    """The node's own addresses on any of them."""


def stack(interfaces: Sequence[Row], iface: str) -> Stack:
    """Find what stands on an interface of a node, in PVE's list of its interfaces."""
    by_name = {str(row.get("iface")): row for row in interfaces}
    found, lines = [iface], list[str]()
    for name in found:  # it grows
        for other, row in by_name.items():
            if other not in found and name in _made_of(other, row):
                found.append(other)
                lines.append(f"{other} is on {name}")
    addresses = [
        f"{row[key]} on {name}"
        for name in found
        for row in (by_name.get(name, {}),)
        for key in ("cidr", "cidr6")
        if row.get(key)
    ]
    return Stack(found, lines, addresses)


def _made_of(name: str, row: Row) -> list[str]:
    parts = [part for key in _HOLDS for part in names(row.get(key))]
    below = str(row.get("vlan-raw-device") or name.rpartition(".")[0])
    return [*parts, below]


# SDN -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sdn:
    """The zones and vnets that a token sees; with `pending`, what waits to be applied, too."""

    zones: Sequence[Row] = ()
    vnets: Sequence[Row] = ()
    controllers: Sequence[Row] = ()
    unseen: list[str] = field(default_factory=list)

    def on_bridges(self, bridges: Sequence[str]) -> set[str]:
        """Return the vnets of the zones that lie on bridges of a node."""
        return self.in_zones({str(z["zone"]) for z in self.zones if z.get("bridge") in bridges})

    def in_zones(self, zones: set[str]) -> set[str]:
        """Return the vnets of zones."""
        return {str(vnet["vnet"]) for vnet in self.vnets if zone_of(vnet) in zones}


def zone_of(vnet: Row) -> str:
    """Return the zone of a vnet; that of one which is not applied stands in `pending`."""
    waiting = vnet.get("pending")
    new = waiting.get("zone") if isinstance(waiting, Mapping) else None
    return str(vnet.get("zone") or new or "")


async def sdn(pve: Pve, *, pending: bool = False) -> Sdn:
    """Look up zones and vnets; with `pending` controllers, too."""
    kinds = ("zones", "vnets", *(("controllers",) if pending else ()))
    more = {"pending": 1} if pending else {}
    seen = await look({f"SDN {k}": pve.get(f"/cluster/sdn/{k}", **more) for k in kinds})
    hidden = await gaps(pve, ("/sdn", "SDN.Audit"))
    rows = {kind: seen.rows(f"SDN {kind}") for kind in kinds}
    return Sdn(**rows, unseen=[*seen.unseen, *hidden])
