"""Writes after which other rules hold for a guest: its tags, pool, node or protection change.

Who may give a guest a mark, or take one away, would otherwise choose the rule for the next write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pvemcp.access.rules import fits_place, tags_in
from pvemcp.call import Intent, Target
from pvemcp.settings.policy import Rule

_CONFIG = re.compile(r"(?:PUT|POST) /nodes/\{node\}/(?:qemu|lxc)/\{vmid\}/config")
_POOLS = re.compile(r"PUT /pools(?:/\{poolid\})?")
_MOVES = re.compile(
    r"POST (?:/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}/migrate|/nodes/\{node\}/migrateall"
    r"|/cluster/bulk-action/guest/migrate|/cluster/ha/resources/\{sid\}/(?:migrate|relocate))"
)


def left_and_joined(
    rules: Sequence[Rule], intent: Intent, target: Target
) -> Iterator[tuple[Rule, bool]]:
    """Yield the rules that hold no longer for a guest after a write; with True, those that are new.

    Only what its tags, pool, node and protection decide is looked at.
    """
    then = _after(intent, target)
    if then == target:
        return
    for rule in rules:
        before, after = fits_place(rule, target), fits_place(rule, then)
        if before != after:
            yield rule, after


def _after(intent: Intent, target: Target) -> Target:
    """Return a guest as it is after a write."""
    method, given = f"{intent.verb} {intent.template}", intent.params
    if target.kind != "guest" or not target.known:
        return target
    if _CONFIG.fullmatch(method) and str(given.get("vmid")) == str(target.vmid):
        return _reconfigured(given, target)
    if _POOLS.fullmatch(method) and str(target.vmid) in _names(given.get("vms")):
        out = str(given.get("delete", "")) in ("1", "True")
        return replace(target, pool="" if out else str(given.get("poolid") or ""))
    if _MOVES.fullmatch(method):
        node = given.get("target") or (given.get("node") if "/ha/" in method else "")
        return replace(target, node=str(node or target.node))
    return target


def _reconfigured(given: Any, target: Target) -> Target:
    gone = _names(given.get("delete"))
    if "tags" in given or "tags" in gone:
        tags = () if "tags" in gone else tags_in({"tags": given["tags"]})
        target = replace(target, tags=tags)
    if "protection" in given or "protection" in gone:
        on = "protection" not in gone and str(given["protection"]) == "1"
        target = replace(target, protected=on)
    return target


def _names(value: Any) -> list[str]:
    listed = ",".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return [name for name in re.split(r"[\s,;]+", listed) if name]
