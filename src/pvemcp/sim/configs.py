"""Configurations: what GET config and GET pending show, what PUT and POST change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim import lxc_options, qemu_options
from pvemcp.sim.declare import Ask, flag, text
from pvemcp.sim.guests import check_digest, refuse_locked
from pvemcp.sim.refusal import Refusal, failed, forbidden, rejected
from pvemcp.sim.sdn import zone_of
from pvemcp.sim.validate import find, split_list
from pvemcp.sim.volumes import (
    allocated,
    detach,
    is_drive,
    is_new,
    need_storage,
    storage_of,
    unboot,
    volid,
)
from pvemcp.sim.world import Guest, World

SECRET = "*" * 10
"""How PVE shows a password of cloud-init."""
_BRIDGE = re.compile(r"(?:^|,)bridge=([^,]+)")
_NUMBERED = re.compile(r"^(.*?)\d+$")
_EDIT = (
    text("delete", "Settings to remove.", format="pve-configid-list"),
    text("digest", "Refuse when the configuration has changed since.", max_length=40),
    text("revert", "Pending changes to drop.", format="pve-configid-list"),
)
QEMU_EDIT: tuple[Parameter, ...] = (
    *qemu_options.OPTIONS,
    *_EDIT,
    flag("force", "Remove the volume too.", requires="delete"),
    flag("skiplock", "Ignore locks; root@pam only."),
)
LXC_EDIT: tuple[Parameter, ...] = (*lxc_options.OPTIONS, *_EDIT)
_NO_SETTING = frozenset(
    {"node", "vmid", "delete", "digest", "revert", "force", "skiplock", "background_delay"}
)


def show_config(ask: Ask, guest: Guest) -> dict[str, Any]:
    """Return a configuration with its digest: with pending changes, as it is, or a snapshot's."""
    if name := ask.args.get("snapshot"):
        if name not in guest.snapshots:
            raise failed(f"snapshot '{name}' does not exist")
        return masked(guest.snapshots[name].config)
    config = dict(guest.config)
    if not ask.args.get("current"):
        config |= guest.pending
    shown = {key: value for key, value in config.items() if value is not None}
    if guest.parent:
        shown["parent"] = guest.parent
    return masked({**shown, "digest": guest.digest()})


def show_pending(guest: Guest) -> list[dict[str, Any]]:
    """Return every key with its present value, and the pending one or the wish to delete it."""
    present = masked({**guest.config, "digest": guest.digest()})
    if guest.parent:
        present["parent"] = guest.parent
    rows: dict[str, dict[str, Any]] = {k: {"key": k, "value": v} for k, v in present.items()}
    for key, value in guest.pending.items():
        row = rows.setdefault(key, {"key": key})
        row |= {"delete": 1} if value is None else {"pending": value}
    return list(rows.values())


def masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without cloud-init's password."""
    return {**config, "cipassword": SECRET} if "cipassword" in config else dict(config)


def settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that are settings of a guest."""
    return {key: value for key, value in args.items() if key not in _NO_SETTING}


def family(key: str) -> str:
    """Return a setting's name without its number: net0 is net."""
    match = _NUMBERED.match(key)
    return match[1] if match else key


def check_settings(ask: Ask, type_: str, changes: Mapping[str, Any], removals: list[str]) -> None:
    """Refuse settings that are root's alone, or for which the caller lacks the privilege."""
    options = qemu_options if type_ == "qemu" else lxc_options
    for key in [*changes, *removals]:
        name = family(key)
        if name == "hookscript" and key in changes:
            raise rejected({"hookscript": f"script '{changes[key]}' does not exist\n"})
        if name in options.ROOT_ONLY and not ask.who.is_root:
            raise failed(f"only root can set '{key}' config")
        privilege = options.PRIVILEGE_OF.get(name, "VM.Config.Options")
        if "media=cdrom" in str(changes.get(key, "")):
            privilege = "VM.Config.CDROM"
        _need_on_guest(ask, privilege)
        _check_use(ask, key, str(changes.get(key, "")))
    _check_features(ask, changes)


def _need_on_guest(ask: Ask, privilege: str) -> None:
    """Refuse without the privilege on the guest, or on the pool that it is created in."""
    path, pool = f"/vms/{ask.args['vmid']}", ask.args.get("pool")
    if not (ask.may(path, privilege) or (pool and ask.may(f"/pool/{pool}", privilege))):
        raise forbidden(f"{path}, {privilege}")


def _check_use(ask: Ask, key: str, value: str) -> None:
    """Refuse a new volume without space on its storage, a card without use of its bridge."""
    needed: tuple[str, str] | None = None
    if is_drive(key) and is_new(value):
        needed = f"/storage/{storage_of(value)}", "Datastore.AllocateSpace"
    elif family(key) == "net" and (bridge := _BRIDGE.search(value)):
        needed = f"/sdn/zones/{zone_of(ask.world, bridge[1])}/{bridge[1]}", "SDN.Use"
    if needed and not ask.may(*needed):
        raise forbidden(", ".join(needed))


def _check_features(ask: Ask, changes: Mapping[str, Any]) -> None:
    names = {part.partition("=")[0] for part in str(changes.get("features", "")).split(",")}
    if names - {"", "nesting"} and not ask.who.is_root:
        raise forbidden("changing feature flags (except nesting) is only allowed for root@pam")


def removals_of(ask: Ask, type_: str) -> list[str]:
    """Return what `delete` names. Raises the 400 for a setting that does not exist."""
    options = qemu_options.OPTIONS if type_ == "qemu" else lxc_options.OPTIONS
    declared = {parameter.name: parameter for parameter in options}
    names = split_list(ask.args.get("delete", ""))
    for name in names:
        if find(declared, name) is None:
            raise rejected({"delete": f"unknown option '{name}'"})
    return names


def edit(ask: Ask, guest: Guest) -> None:
    """Do what PUT config does. Raises what PVE answers at once."""
    changes, removals = settings(ask.args), removals_of(ask, guest.type)
    check_settings(ask, guest.type, changes, removals)
    check_digest(ask, guest)
    if not (ask.args.get("skiplock") and ask.who.is_root):
        refuse_locked(guest)
    for key in split_list(ask.args.get("revert", "")):
        guest.pending.pop(key, None)
    write(ask.world, guest, changes, removals, force=bool(ask.args.get("force")))
    summary = " ".join([*(f"-{k} {v}" for k, v in changes.items()), *removals])
    ask.world.record(ask.who.id, f"update {guest.word} {guest.vmid}: {summary}", node=guest.node)


def write(
    world: World,
    guest: Guest,
    changes: Mapping[str, Any],
    removals: list[str],
    *,
    force: bool = False,
) -> None:
    """Change settings: at once, or as pending when the guest runs and cannot take them.

    With `force` the volumes of removed drives go too.
    """
    made = _made(world, guest, changes)
    if not guest.running:
        removals = [*removals, *(key for key, value in guest.pending.items() if value is None)]
        made = {k: v for k, v in guest.pending.items() if v is not None} | made
        guest.pending.clear()
    live = qemu_options.LIVE if guest.type == "qemu" else lxc_options.LIVE
    for key, value in made.items():
        if guest.running and family(key) not in live:
            guest.pending[key] = value
        else:
            _set(guest, key, value)
            guest.pending.pop(key, None)
    for key in removals:
        _remove(guest, key, live=not guest.running or family(key) in live, force=force)


def _made(world: World, guest: Guest, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Make the volumes that settings ask for. PVE keeps what comes before one that fails."""
    for key, value in changes.items():
        if is_drive(key) and (storage := storage_of(str(value))):
            need_storage(world, storage)
    taken: set[str] = set()
    made: dict[str, Any] = {}
    for key, value in changes.items():
        try:
            made[key] = allocated(world, guest, str(value), taken) if is_drive(key) else value
        except Refusal:
            guest.pending.update(made)
            raise
    return made


def _set(guest: Guest, key: str, value: Any) -> None:
    """Give a setting its value. A volume that is used again is not unused any more."""
    if is_drive(key):
        if key in guest.config and volid(str(guest.config[key])) != volid(str(value)):
            detach(guest.config, key)
        used = volid(str(value))
        for name in [n for n in guest.config if family(n) == "unused"]:
            if volid(str(guest.config[name])) == used:
                del guest.config[name]
    guest.config[key] = value


def _remove(guest: Guest, key: str, *, live: bool, force: bool = False) -> None:
    guest.pending.pop(key, None)
    if key not in guest.config:
        return
    if not live:
        guest.pending[key] = None
        return
    unboot(guest.config, key)
    if is_drive(key) and not force:
        detach(guest.config, key)
    else:
        del guest.config[key]
