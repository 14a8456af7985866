"""Snapshots: list, take, roll back, remove."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pvemcp.sim.configs import masked
from pvemcp.sim.declare import (
    NODE,
    SNAPNAME,
    VMID,
    Ask,
    Endpoint,
    Handler,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
)  # fmt: skip
from pvemcp.sim.edits import can_snapshot
from pvemcp.sim.guests import guest_in_task, lock_text, start_guest, stop_guest, the_guest
from pvemcp.sim.refusal import TaskFailure, failed
from pvemcp.sim.tasks import Work
from pvemcp.sim.world import Guest, GuestType, Snapshot, World


def _list(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> list[dict[str, Any]]:
        guest = the_guest(ask, type_)
        rows = [_row(guest, snapshot) for snapshot in guest.snapshots.values()]
        now = {"name": "current", "description": "You are here!", "digest": guest.digest()}
        parent = {"parent": guest.parent} if guest.parent else {}
        return [*rows, {**now, **parent, "running": int(guest.running)}]

    return handle


def _row(guest: Guest, snapshot: Snapshot) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": snapshot.name,
        "description": snapshot.description,
        "snaptime": snapshot.snaptime,
    }
    if guest.type == "qemu":
        row["vmstate"] = int(snapshot.vmstate)
    if snapshot.parent:
        row["parent"] = snapshot.parent
    return row


def _existing(ask: Ask, type_: GuestType) -> tuple[Guest, Snapshot]:
    guest, name = the_guest(ask, type_), ask.args["snapname"]
    if name not in guest.snapshots:
        raise failed(f"snapshot '{name}' does not exist")
    return guest, guest.snapshots[name]


def _config(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> dict[str, Any]:
        _, snapshot = _existing(ask, type_)
        shown = {**masked(snapshot.config), "snaptime": snapshot.snaptime}
        if snapshot.description:
            shown["description"] = snapshot.description
        if snapshot.parent:
            shown["parent"] = snapshot.parent
        return shown

    return handle


def _describe(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> None:
        _, snapshot = _existing(ask, type_)
        if "description" in ask.args:
            snapshot.description = ask.args["description"]

    return handle


def _set_lock(guest: Guest, lock: str) -> None:
    guest.config.pop("lock", None)
    if lock:
        guest.config["lock"] = lock


def _start(ask: Ask, type_: GuestType, verb: str, work: Work) -> str:
    prefix, word = ("qm", "VM") if type_ == "qemu" else ("vz", "CT")
    what = verb.replace("del", "delete ").replace("rollback", "rollback snapshot")

    def check() -> None:
        message = f"{what} {word} {ask.vmid}: {ask.args['snapname']}"
        ask.world.record(ask.who.id, message, node=ask.node)
        work.check()

    return ask.world.tasks.start(
        ask.node, f"{prefix}{verb}", id=str(ask.vmid), user=ask.who.id,
        work=replace(work, check=check),
    )  # fmt: skip


def _unlocked(ask: Ask, type_: GuestType) -> Guest:
    guest = guest_in_task(ask.world, ask.node, type_, ask.vmid)
    if guest.lock:
        raise TaskFailure(lock_text(guest))
    return guest


def _take(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        name, guest = ask.args["snapname"], the_guest(ask, type_)

        def check() -> None:
            _check_take(ask.world, guest, name)

        def apply() -> None:
            _set_lock(guest, "")
            guest.snapshots[name] = Snapshot(
                name,
                ask.world.clock.seconds(),
                {k: v for k, v in guest.config.items() if not _stays(k)},
                ask.args.get("description", ""),
                guest.parent,
                vmstate=bool(ask.args.get("vmstate")) and guest.running,
            )
            guest.parent = name

        saved = ("saving VM state and RAM", "completed saving the VM state in 3s, saved 512.0 MiB")
        work = Work(
            apply,
            check,
            begin=lambda: _set_lock(guest, "snapshot"),
            undo=lambda: _set_lock(guest, ""),
            lines=(*(saved if ask.args.get("vmstate") else ()), f"snapshotting '{name}'"),
            seconds=3,
        )
        return _start(ask, type_, "snapshot", work)

    return handle


def _check_take(world: World, guest: Guest, name: str) -> None:
    if guest.template:
        raise TaskFailure("you can't take a snapshot if it's a template")
    if guest.lock:
        raise TaskFailure(lock_text(guest))
    if name in guest.snapshots:
        raise TaskFailure(f"snapshot name '{name}' already used")
    if not can_snapshot(world, guest):
        raise TaskFailure("snapshot feature is not available")


def _rollback(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        name, guest = ask.args["snapname"], the_guest(ask, type_)

        def check() -> None:
            _unlocked(ask, type_)
            if name not in guest.snapshots:
                raise TaskFailure(f"snapshot '{name}' does not exist")

        work = Work(
            lambda: _go_back(ask.world, guest, name, start=bool(ask.args.get("start"))),
            check,
            begin=lambda: _set_lock(guest, "rollback"),
            undo=lambda: _set_lock(guest, ""),
            lines=(f"rolling back to '{name}'",),
            seconds=4,
        )
        return _start(ask, type_, "rollback", work)

    return handle


def _go_back(world: World, guest: Guest, name: str, *, start: bool) -> None:
    snapshot = guest.snapshots[name]
    stop_guest(guest)
    guest.pending.clear()
    stay = {k: v for k, v in guest.config.items() if _stays(k)}
    guest.config.clear()
    guest.config.update({k: v for k, v in snapshot.config.items() if not _stays(k)} | stay)
    guest.parent = name
    if start or snapshot.vmstate:
        start_guest(world, guest)


def _stays(name: str) -> bool:
    """Whether a setting is no part of snapshots: a guest's notes and its unused volumes."""
    return name == "description" or name.startswith("unused")


def _remove(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> str:
        name, guest = ask.args["snapname"], the_guest(ask, type_)

        def check() -> None:
            _unlocked(ask, type_)
            if name not in guest.snapshots:
                raise TaskFailure(f"snapshot '{name}' does not exist")

        def apply() -> None:
            _set_lock(guest, "")
            gone = guest.snapshots.pop(name)
            for other in guest.snapshots.values():
                other.parent = gone.parent if other.parent == name else other.parent
            guest.parent = gone.parent if guest.parent == name else guest.parent

        work = Work(
            apply,
            check,
            begin=lambda: _set_lock(guest, "snapshot-delete"),
            undo=lambda: _set_lock(guest, ""),
            seconds=3,
        )
        return _start(ask, type_, "delsnapshot", work)

    return handle


_DESCRIPTION = text("description", "Notes.")
_AUDIT = perm("/vms/{vmid}", "VM.Audit")
_TAKE = perm("/vms/{vmid}", "VM.Snapshot")
_BACK = perm("/vms/{vmid}", "VM.Snapshot", "VM.Snapshot.Rollback", any_of=True)
_SEE = perm("/vms/{vmid}", "VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit", any_of=True)


def _endpoints(type_: GuestType, word: str) -> tuple[Endpoint, ...]:
    all_ = f"/nodes/{{node}}/{type_}/{{vmid}}/snapshot"
    one = f"{all_}/{{snapname}}"
    ram = (flag("vmstate", "Keep the memory too."),) if type_ == "qemu" else ()
    return (
        endpoint("GET", all_, _list(type_), about=f"Snapshots of a {word}, and `current`.",
                 permissions=_AUDIT, protected=True, returns=index("name", "parent")),
        endpoint("POST", all_, _take(type_), about=f"Take a snapshot of a {word}.",
                 permissions=_TAKE, protected=True, returns="string",
                 parameters=(SNAPNAME, _DESCRIPTION, *ram)),
        endpoint("GET", one, listing("rollback", "config", key="cmd"), about="What there is.",
                 local=True, parameters=(NODE, VMID, SNAPNAME), returns=index("cmd")),
        endpoint("DELETE", one, _remove(type_), about="Remove a snapshot; its changes stay.",
                 permissions=_TAKE, protected=True, returns="string",
                 parameters=(flag("force", "Even if a disk fails."),)),
        endpoint("GET", f"{one}/config", _config(type_), about="Configuration in a snapshot.",
                 permissions=_SEE, returns="object"),
        endpoint("PUT", f"{one}/config", _describe(type_), about="Change a snapshot's notes.",
                 permissions=_TAKE, protected=True, parameters=(_DESCRIPTION,)),
        endpoint("POST", f"{one}/rollback", _rollback(type_),
                 about=f"Take a {word} back to a snapshot; what came later is lost.",
                 permissions=_BACK, protected=True, returns="string",
                 parameters=(flag("start", "Start it afterwards.", default=0),)),
    )  # fmt: skip


ENDPOINTS: tuple[Endpoint, ...] = (*_endpoints("qemu", "VM"), *_endpoints("lxc", "container"))
