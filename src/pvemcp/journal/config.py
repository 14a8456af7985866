"""A guest's configuration: what counts, what waits for a restart, and its way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pvemcp.journal.change import Recipe, Request, State, differences, never
from pvemcp.journal.drives import free_unused, is_drive, is_unused, volume_of, volumes
from pvemcp.journal.plain import hidden
from pvemcp.journal.subject import Facts, Reader, Subject, absent_or
from pvemcp.pve.client import Pve

PENDING = " (pending)"
"""Ends the name of a value that counts from the next start on."""
REMOVED = "is removed at the next start"
_MADE = ("parent", "lock", "template", "snaptime", "meta")
"""Settings that PVE keeps itself."""


def guest_path(params: Mapping[str, Any], template: str) -> str:
    """Return the path of the guest that a request is about."""
    kind = "lxc" if "/lxc" in template else "qemu"
    return f"/nodes/{params['node']}/{kind}/{params['vmid']}"


def config_reader(path: str) -> Reader:
    """Return what reads the configuration of a guest; {} when there is no such guest."""

    async def read(pve: Pve) -> State:
        return state_of(await absent_or(pve, f"{path}/pending"))

    return read


def state_of(rows: Any) -> State:
    """Return the answer of GET …/pending as a state."""
    state: State = {}
    for row in rows or ():
        name = str(row["key"])
        if row.get("value") is not None:
            state[name] = row["value"]
        if row.get("delete"):
            state[f"{name}{PENDING}"] = REMOVED
        elif row.get("pending") is not None:
            state[f"{name}{PENDING}"] = row["pending"]
    return state


def config_subject(template: str, params: Mapping[str, Any]) -> Subject:
    """Return the subject of a change to a guest's configuration."""
    path = guest_path(params, template)
    return Subject("guest", "/".join(path.split("/")[3:5]), config_reader(path), config_undo)


@dataclass(slots=True)
class _Back:
    """What the request says that brings a configuration back."""

    settings: State = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    revert: list[str] = field(default_factory=list)
    destroy: list[str] = field(default_factory=list)
    """Drives whose volume the change made."""
    lost: list[str] = field(default_factory=list)


def config_undo(facts: Facts) -> Recipe:
    """Take a change of a guest's configuration back."""
    if not facts.before or not facts.after:
        return never("the configuration could not be seen")
    method = facts.description.method(facts.verb, facts.template)
    back = _Back(lost=list(hidden(facts, method)) if method else [])
    waited = _counting_now(facts)
    changed = [
        n
        for n in differences(facts.before, facts.after)
        if n not in _MADE and n.removesuffix(PENDING) not in waited
    ]
    if waited:
        back.lost.append(f"what waited for the next start counts now: {', '.join(waited)}")
    for name in changed:
        _plan(facts, back, name)
    requests = _requests(facts, back)
    if not requests:
        return never("; ".join(back.lost) or "nothing has changed")
    return Recipe(tuple(requests), tuple(back.lost), keys=tuple(changed))


def _counting_now(facts: Facts) -> list[str]:
    """Return the settings that waited before: a write to a stopped guest makes them count."""
    waited = [n for n in facts.before if n.endswith(PENDING) and n not in facts.after]
    names = [name.removesuffix(PENDING) for name in waited]
    return [
        name
        for name in names
        if facts.before[f"{name}{PENDING}"] == facts.after.get(name, REMOVED)
        and name not in facts.params
    ]


def _plan(facts: Facts, back: _Back, name: str) -> None:
    old, new = facts.before.get(name), facts.after.get(name)
    plain = name.removesuffix(PENDING)
    if name != plain:
        if plain not in back.settings and plain not in back.delete:
            _plan_pending(back, plain, old, new)
    elif is_unused(name):
        _plan_unused(facts, back, name, old)
    elif is_drive(name):
        _plan_drive(facts, back, name)
    elif old is None:
        back.delete.append(name)
    elif str(old).strip("*"):
        back.settings[name] = old


def _plan_pending(back: _Back, name: str, old: Any, new: Any) -> None:
    if old is None:
        back.revert.append(name)
        if is_drive(name) and volume_of(new):
            back.lost.append(f"{volume_of(new)} stays, as an unused disk")
    elif old == REMOVED:
        back.delete.append(name)
    else:
        back.settings[name] = old


def _plan_unused(facts: Facts, back: _Back, name: str, old: Any) -> None:
    if old is not None and volume_of(old) not in volumes(facts.after):
        back.lost.append(f"{name}: the volume {volume_of(old)} is deleted")


def _plan_drive(facts: Facts, back: _Back, name: str) -> None:
    old, new = facts.before.get(name), facts.after.get(name)
    fresh = volume_of(new or "") in volumes(facts.after) - volumes(facts.before)
    if new is not None and fresh:
        back.destroy.append(name)
    if old is not None and volume_of(old) and volume_of(old) not in volumes(facts.after):
        back.lost.append(f"{name}: the volume {volume_of(old)} is deleted")
    elif old is not None:
        back.settings[name] = old
    elif not fresh:
        back.delete.append(name)


def _requests(facts: Facts, back: _Back) -> list[Request]:
    path = f"{facts.guest}/config"
    requests = [each for name in back.destroy for each in _destroyed(facts, path, name)]
    values: State = dict(back.settings)
    if back.delete:
        values["delete"] = ",".join(back.delete)
    if back.revert:
        values["revert"] = ",".join(back.revert)
    return [*requests, *([Request("PUT", path, values)] if values else [])]


def _destroyed(facts: Facts, path: str, name: str) -> list[Request]:
    """Take a drive out and delete its volume: VMs can do it at once."""
    if facts.guest.split("/")[3] == "qemu":
        return [Request("PUT", path, {"delete": name, "force": 1})]
    unused = free_unused(facts.after)
    return [Request("PUT", path, {"delete": name}), Request("PUT", path, {"delete": unused})]
