"""The nodes of this cluster, as its file system lists them (`/etc/pve/.members`, in the mirror)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from pvemcp.errors import Missing, Unavailable

FILE = "members.json"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
MIRROR = "On this node: systemctl status pvemcp-mirror."
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Member:
    """A node. `address` is the one by which PVE reaches it; None until it was seen once."""

    name: str
    address: Address | None
    online: bool


@dataclass(frozen=True, slots=True)
class Members:
    """All nodes, this one too: `own` is its name. `nodes` is empty when it is alone."""

    own: str
    nodes: Mapping[str, Member] = field(default_factory=dict)

    def others(self) -> list[str]:
        """Return the names of the other nodes."""
        return sorted(name for name in self.nodes if name != self.own)

    def address(self, name: str) -> Address | None:
        """Return a node's address, if it is known."""
        found = self.nodes.get(name)
        return found.address if found else None

    def reachable(self, name: str, *, offline: bool = False) -> Address:
        """Return where a node is reached, with `offline` also one that the cluster does not see.

        Raises Missing for a stranger, Unavailable.
        """
        found = self.nodes.get(name)
        if found is None:
            known = ", ".join(self.nodes) or f"{self.own}, which is in no cluster"
            raise Missing(f"no node {name[:80]} is in this cluster", hint=f"There are: {known}.")
        if found.address is None:
            raise Unavailable(
                f"the address of {name} is not known here: it has not been up since this node is",
                hint=f"Start {name}, or see what is wrong with it: pvecm status.",
            )
        if not found.online and not offline:
            raise Unavailable(
                f"{name} is offline, as the cluster sees it",
                hint=f"Start {name}, or repair its network; pvecm status shows the cluster.",
            )
        return found.address


def read_members(folder: Path) -> Members:
    """Read the mirror's copy. Raises Unavailable when there is none, or none that can be read."""
    path = folder / FILE
    try:
        found = json.loads(path.read_bytes())
        own = _name(found["nodename"])
        rows = found.get("nodelist", {}).items()
        return Members(own, {_name(name): _member(name, row) for name, row in rows})
    except OSError as error:
        problem = error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        problem = "it is not a list of nodes"
    raise Unavailable(f"the cluster's nodes are not known: {path}: {problem}", hint=MIRROR)


def _name(text: Any) -> str:
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise ValueError("not a node's name")
    return text


def _member(name: str, row: Mapping[str, Any]) -> Member:
    address = ip_address(row["ip"]) if row.get("ip") else None
    return Member(name, address, online=row["online"] == 1)
