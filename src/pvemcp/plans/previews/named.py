"""Whom a write touches besides the guest in its path: the policy asks about each of them.

A list of vmids, a volume's name, HA's `vm:100`, a restore over a guest, a pool's members, all
guests of a node that goes down: whatever way leads to a guest, its tags, pool and protection count.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pvemcp.call import Effect, Intent, Target
from pvemcp.errors import Fault
from pvemcp.plans.previews.guest import Guest, guest_in, unseen_guest
from pvemcp.pve.client import Pve
from pvemcp.pve.volumes import owner

_LISTS = ("vmid", "vms", "guests", "target-vmid", "sid", "resource", "resources", "id")
"""Parameters that name guests: `100`, `100,101`, `vm:100`, `100-0`."""
_NUMBERED = re.compile(r"(?:(?:vm|ct|qemu|lxc)[:/])?([1-9][0-9]{2,8})(?:-[0-9]+)?")
_IN_GUEST = re.compile(r"(?:/nodes/[^/]+/)?(?:qemu|lxc)/([0-9]+)(?:/|$)")
_CREATES = re.compile(r"POST /nodes/\{node\}/(?:qemu|lxc)")
_ALL_OF_NODE = re.compile(
    r"POST /nodes/\{node\}/(?:startall|stopall|suspendall|migrateall|status)"
    r"|POST /cluster/bulk-action/guest/\w+"
)
_BACKUP = re.compile(r"\w+ (?:/nodes/\{node\}/vzdump|/cluster/backup(?:/\{id\})?)")
_STORED = re.compile(r"(?:PUT|DELETE) /cluster/(?:backup/\{id\}|ha/rules/\{rule\})")
"""What names its guests itself, so that who changes it need not."""
_GUESTS = ("vmid", "resources", "pool", "all", "node")
_REMARKS = frozenset({"id", "rule", "comment", "digest", "type"})
_PLACES = re.compile(r"(?:POST|PUT) /cluster/ha/(?:rules|groups)(?:/\{\w+\})?")
_MOVES = re.compile(r"POST .*/(?:migrate|relocate|clone|migrateall|bulk-action/guest/migrate)")
LOOKED_INTO = 8
"""Guests whose configuration is read for PVE's protection flag; the others count as protected."""


async def named(pve: Pve, intent: Intent, target: Target) -> tuple[Target, ...]:
    """Return the further guests, nodes and pools that a write touches. Never raises a Fault."""
    intent = await _with_stored(pve, intent)
    nodes = [Target("node", name, node=name) for name in _nodes(intent)]
    given = [intent.params.get("poolid"), intent.params.get("pool")]
    pools = [Target("pool", pool, pool=pool) for pool in _words(given)]
    return (*nodes, *pools, *await _guests(pve, intent, target))


async def _with_stored(pve: Pve, intent: Intent) -> Intent:
    """Add the guests that a backup job or an HA rule is about already to those that are given."""
    stored = _STORED.fullmatch(f"{intent.verb} {intent.template}")
    if not stored or (intent.verb == "PUT" and not intent.params.keys() - _REMARKS):
        return intent
    try:
        now = await pve.get(intent.path)
    except Fault:
        now = {"all": 1}
    kept = {name: [intent.params.get(name, ""), now.get(name, "")] for name in _GUESTS}
    return replace(intent, params={**intent.params, **kept})


def _nodes(intent: Intent) -> Iterable[str]:
    """Return the nodes to which something is moved, and those that HA is told about."""
    if _PLACES.fullmatch(f"{intent.verb} {intent.template}"):
        return [word.partition(":")[0] for word in _words(intent.params.get("nodes"))]
    if not _MOVES.fullmatch(f"{intent.verb} {intent.template}"):
        return ()
    given = (intent.params.get(name) for name in ("target", "node"))
    return (str(name) for name in given if name)


async def _guests(pve: Pve, intent: Intent, target: Target) -> Sequence[Target]:
    vmids = set(_vmids(intent)) - ({target.vmid} if target.kind == "guest" else set())
    everyone, pools = _everyone(intent), _pools(intent)
    if not vmids and not everyone and not pools:
        return ()
    try:
        rows = [row for row in await pve.resources() if row.get("type") in ("qemu", "lxc")]
    except Fault:
        return [unseen_guest(vmid) for vmid in sorted(vmids)] or [unseen_guest()]
    by_id = {int(row["vmid"]): row for row in rows}
    if everyone:
        vmids |= {vmid for vmid, row in by_id.items() if everyone in ("*", row.get("node"))}
        vmids -= _excluded(intent)
    vmids |= {vmid for vmid, row in by_id.items() if row.get("pool") in pools}
    found = [guest_in(by_id[vmid]) for vmid in sorted(vmids & set(by_id))]
    unseen = [] if makes_a_new_one(intent) else sorted(vmids - set(by_id))
    return [*await _protected(pve, intent, found), *map(unseen_guest, unseen)]


def _vmids(intent: Intent) -> Iterable[int]:
    if found := _IN_GUEST.match(intent.path):
        yield int(found[1])
    listed = [word for name in _LISTS for word in _words(intent.params.get(name))]
    of_task = str(intent.params.get("upid", "")).split(":")[6:7]
    for word in (*listed, *of_task):
        if number := _NUMBERED.fullmatch(word):
            yield int(number[1])
    for value in intent.params.values():
        for word in _words(value):
            if ":" in word or "/" in word or name_of_volume(word):
                yield from filter(None, [owner(word)])


def name_of_volume(word: str) -> bool:
    """Whether a word is a volume's name without its storage."""
    return word.startswith(("vm-", "base-", "subvol-", "basevol-", "vzdump-"))


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    text = "" if value is None else str(value)
    return [word for word in re.split(r"[,;\s=]+", text) if word]


def _everyone(intent: Intent) -> str:
    """Return the node all of whose guests are meant, `*` for all nodes, or nothing."""
    whole = _ALL_OF_NODE.fullmatch(f"{intent.verb} {intent.template}")
    if whole and not intent.params.get("vms"):
        return intent.node or "*"
    backup = _BACKUP.fullmatch(f"{intent.verb} {intent.template}")
    if backup and intent.params.get("exclude") is not None and not _pools(intent):
        return _node(intent)  # PVE takes everybody else then
    return _node(intent) if {"1", "True", "true"} & set(_words(intent.params.get("all"))) else ""


def _node(intent: Intent) -> str:
    found = set(_words(intent.params.get("node") or intent.node))
    return found.pop() if len(found) == 1 else "*"


def _pools(intent: Intent) -> set[str]:
    """Return the pools all of whose guests are backed up."""
    backup = _BACKUP.fullmatch(f"{intent.verb} {intent.template}")
    return set(_words(intent.params.get("pool"))) if backup else set()


def _excluded(intent: Intent) -> set[int]:
    """Return who is left out; not from a job that has had them."""
    if _STORED.fullmatch(f"{intent.verb} {intent.template}"):
        return set()
    return {int(word) for word in _words(intent.params.get("exclude")) if word.isdigit()}


def makes_a_new_one(intent: Intent) -> bool:
    """Whether the vmid is that of a guest which is not there: PVE refuses one that is."""
    creates = _CREATES.fullmatch(f"{intent.verb} {intent.template}") is not None
    return creates and str(intent.params.get("force", "")) not in ("1", "True", "true")


async def _protected(pve: Pve, intent: Intent, found: Sequence[Guest]) -> list[Target]:
    """Say which are protected. What destroys asks anyway: then no configuration is read."""
    if intent.effect is Effect.DESTROY or len(found) > LOOKED_INTO:
        return [guest.target(protected=True) for guest in found]
    flags = await asyncio.gather(*(_flag(pve, guest) for guest in found))
    return [guest.target(protected=flag) for guest, flag in zip(found, flags, strict=True)]


async def _flag(pve: Pve, guest: Guest) -> bool:
    try:
        config = await pve.get(f"{guest.path}/config")
    except Fault:
        return True
    return str(config.get("protection", 0)) == "1"
