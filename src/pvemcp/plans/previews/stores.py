"""Which guests have volumes on storages, and which storages stand on a node's own disks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pvemcp.call import Intent, Target
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.guest import guest_in
from pvemcp.plans.previews.looking import guests_line, line, look
from pvemcp.plans.previews.plain import plain
from pvemcp.pve.client import Pve
from pvemcp.pve.volumes import owner

PLACES = 16
"""Storages of nodes that are listed for one plan."""


@dataclass(frozen=True, slots=True)
class Held:
    """What lies on storages. `known` are the guests that PVE lists, by vmid."""

    volumes: Sequence[str]
    backups: Sequence[str]
    known: Mapping[int, Mapping[str, Any]]
    unseen: Sequence[str]
    blind: frozenset[str]
    """Nodes whose storages could not be listed: any of their guests may have volumes there."""

    @property
    def guests(self) -> list[int]:
        """Return whose volumes and backups they are."""
        return owners([*self.volumes, *self.backups])

    @property
    def users(self) -> tuple[Target, ...]:
        """Return them as the policy asks about them, with those that nobody could see."""
        there = {vmid for vmid, row in self.known.items() if row.get("node") in self.blind}
        return tuple(
            guest_in(self.known[vmid]).target(protected=True)
            for vmid in sorted({*self.guests, *there} & self.known.keys())
        )

    def listed(self, vmids: Sequence[int]) -> str:
        """Name guests in one line."""
        return guests_line([self.known.get(v, {"vmid": v}) for v in vmids]) or "none seen"


def owners(volids: Sequence[str]) -> list[int]:
    """Return the guests that volumes belong to."""
    return sorted({owner(volid) for volid in volids} - {0})


async def held(pve: Pve, names: set[str], node: str = "") -> Held:
    """List what lies on storages, on one node or on all: a local one is another on each."""
    rows = await pve.resources()
    places: dict[str, tuple[str, str]] = {}
    for row in rows:
        name, here = str(row.get("storage")), str(row.get("node"))
        if row.get("type") == "storage" and name in names and node in ("", here):
            place = name if str(row.get("shared")) == "1" else f"{name} of {here}"
            places.setdefault(f"volumes on {place}", (here, name))
    asked = list(places)[:PLACES]
    paths = {what: "/nodes/{}/storage/{}/content".format(*places[what]) for what in asked}
    seen = await look({what: pve.get(path) for what, path in paths.items()})
    listed = [row for what in asked for row in seen.rows(what)]
    backups = [str(row.get("volid")) for row in listed if row.get("content") == "backup"]
    volumes = [str(row.get("volid")) for row in listed if row.get("content") != "backup"]
    left = list(places)[PLACES:]
    return Held(
        volumes,
        backups,
        {r["vmid"]: r for r in rows if r.get("type") in ("qemu", "lxc")},
        (*seen.unseen, *left),
        frozenset(here for what, (here, _) in places.items() if what not in seen.found),
    )


async def disk_store(pve: Pve, intent: Intent) -> Preview:
    """Show whose volumes go with a volume group, a pool or a mounted disk of a node."""
    name = str(intent.params.get("name"))
    seen = await look({"storages on it": pve.get("/storage")})
    on_it = {str(r["storage"]) for r in seen.rows("storages on it") if _stands_on(r, intent)}
    lies = await held(pve, on_it, "" if "/ceph/" in intent.template else intent.node)
    gone = owners(lies.volumes)
    base = await plain(pve, intent)
    return replace(
        base,
        facts=(
            ("storages on it", line(", ".join(sorted(on_it)) or "none seen", 300)),
            ("guests with volumes there", lies.listed(gone)),
        ),
        lost=(f"{line(name)} with {len(lies.volumes)} volumes and {len(lies.backups)} backups",),
        unseen=(*base.unseen, *seen.unseen, *lies.unseen),
        state={"storages": sorted(on_it), "guests": lies.guests},
        confirm=name,
        users=lies.users,
    )


def _stands_on(row: Mapping[str, Any], intent: Intent) -> bool:
    """Whether a storage is made of what a request removes."""
    name, kind = str(intent.params.get("name")), intent.template.split("/")[-2]
    pool, path = str(row.get("pool") or ""), f"{row.get('path') or ''}/"
    match kind:
        case "lvm":
            return row.get("vgname") == name
        case "lvmthin":
            group = intent.params.get("volume-group")
            return row.get("thinpool") == name and group in (None, row.get("vgname"))
        case "zfs":
            return f"{pool}/".startswith(f"{name}/") or path.startswith(f"/{name}/")
        case "directory":
            return path.startswith(f"/mnt/pve/{name}/")
        case _:
            return row.get("type") == "rbd" and (pool or "rbd") == name
