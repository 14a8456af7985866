"""Starting and stopping guests: every verb below status/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import Ask, Endpoint, Handler, choice, endpoint, flag, perm, text, whole
from pvemcp.sim.guests import (
    guest_in_task,
    lock_text,
    lookup,
    refuse_root_only,
    sid,
    start_guest,
    stop_guest,
)
from pvemcp.sim.qemu_options import MACHINE
from pvemcp.sim.refusal import TaskFailure
from pvemcp.sim.tasks import Work
from pvemcp.sim.volumes import volid
from pvemcp.sim.world import Guest, GuestType, World

Effect = Callable[[World, Guest], None]
_SECONDS: Mapping[str, float] = {"start": 3, "stop": 1, "shutdown": 12, "reboot": 15}
_SHORT: Mapping[GuestType, str] = {"qemu": "qm", "lxc": "vz"}


@dataclass(frozen=True, slots=True)
class Verb:
    """One way to change the power state; `demand` is whether the guest has to run (or not to)."""

    name: str
    effect: Effect
    about: str
    parameters: tuple[Parameter, ...] = ()
    demand: bool | None = None
    ignores_lock: bool = False


def _check(world: World, guest: Guest, verb: Verb) -> None:
    if verb.name == "start":
        _check_start(guest)
        _check_media(world, guest)
    if guest.lock and not verb.ignores_lock:
        raise TaskFailure(lock_text(guest))
    if verb.demand is True and not guest.running:
        raise TaskFailure(f"{guest.word} {guest.vmid} not running")
    if verb.name == "start" and guest.running:
        raise TaskFailure(f"{guest.word} {guest.vmid} already running")


def _check_start(guest: Guest) -> None:
    if guest.template:
        what = "vm" if guest.type == "qemu" else "CT"
        raise TaskFailure(f"you can't start a {what} if it's a template")


def _check_media(world: World, guest: Guest) -> None:
    """Refuse a start whose ISO file is gone."""
    for name in (volid(str(value)) for value in guest.config.values()):
        storage = world.storages.get(name.partition(":")[0])
        if storage and ":iso/" in name and name not in {v.volid for v in storage.volumes}:
            raise TaskFailure(f"volume '{name}' does not exist")


def _stop(_world: World, guest: Guest) -> None:
    stop_guest(guest)


def _restart(world: World, guest: Guest) -> None:
    stop_guest(guest)
    start_guest(world, guest)


def _reset(_world: World, guest: Guest) -> None:
    guest.runs.clear()


def _suspend(_world: World, guest: Guest) -> None:
    guest.paused = True


def _resume(_world: World, guest: Guest) -> None:
    guest.paused = False


def _handler(type_: GuestType, verb: Verb) -> Handler:
    def handle(ask: Ask) -> str:
        refuse_root_only(ask, *(set(ask.args) & _ROOT_ONLY))
        guest = lookup(ask.world, ask.node, type_, ask.vmid)
        if guest and verb.name in {"start", "stop", "shutdown"} and sid(guest) in ask.world.ha:
            return _ask_ha(ask, guest, verb)
        return _run(ask.world, ask.node, type_, ask.vmid, verb, ask.who.id)

    return handle


def _run(world: World, node: str, type_: GuestType, vmid: int, verb: Verb, user: str) -> str:
    def check() -> None:
        _check(world, guest_in_task(world, node, type_, vmid), verb)

    def apply() -> None:
        verb.effect(world, guest_in_task(world, node, type_, vmid))

    work = Work(apply, check, seconds=_SECONDS.get(verb.name, 2))
    return world.tasks.start(
        node, f"{_SHORT[type_]}{verb.name}", id=str(vmid), user=user, work=work
    )


def _ask_ha(ask: Ask, guest: Guest, verb: Verb) -> str:
    """Only note the wish, as PVE does: the manager acts on it later under another UPID."""
    world, resource = ask.world, ask.world.ha[sid(guest)]
    wanted = "started" if verb.name == "start" else "stopped"
    real = verb if verb.name != "shutdown" else _by_name(guest.type, "shutdown")

    def note() -> None:
        resource.state = wanted

    def follow() -> None:
        if guest.running != (wanted == "started"):
            _run(world, guest.node, guest.type, guest.vmid, real, "root@pam")

    work = Work(
        note,
        lines=(f"Requesting HA {verb.name} for {guest.word} {guest.vmid}",),
        seconds=2,
        after=lambda: world.tasks.later(8, follow),
    )
    type_ = "hastart" if wanted == "started" else "hastop"
    return world.tasks.start(ask.node, type_, id=str(guest.vmid), user=ask.who.id, work=work)


_ROOT_ONLY = frozenset(
    """
    skiplock stateuri migratedfrom migration_type migration_network targetstorage force-cpu
    with-conntrack-state nets-host-mtu keepActive nocheck
    """.split()
)
_SKIPLOCK = flag("skiplock", "Ignore locks; root@pam only.")
_TIMEOUT = whole("timeout", "Seconds to wait.", minimum=0)
_FORCE = flag("forceStop", "Stop it when it has not shut down in time.", default=0)
_KEEP = flag("keepActive", "Leave the storage active.", default=0)
_OVERRULE = flag("overrule-shutdown", "End running shutdown tasks first.", default=0)
_SOURCE = text("migratedfrom", "Node that a migration comes from.", format="pve-node")

_QEMU_START = (
    text("force-cpu", "CPU argument of QEMU."),
    text("machine", "Machine type.", format=MACHINE),
    _SOURCE,
    text("migration_network", "Network of a migration.", format="CIDR"),
    choice("migration_type", "Protection of a migration.", ("secure", "insecure")),
    text("nets-host-mtu", "MTU by card.", pattern=r"net\d+=\d+(,net\d+=\d+)*"),
    _SKIPLOCK,
    text("stateuri", "Where a saved state comes from.", max_length=128),
    text("targetstorage", "Storage mapping of a migration.", format="storage-pair-list"),
    _TIMEOUT,
    flag("with-conntrack-state", "Migrate connection tracking.", default=0),
)

_VERBS: Mapping[GuestType, tuple[Verb, ...]] = {
    "qemu": (
        Verb("start", start_guest, "Start a VM.", _QEMU_START),
        Verb(
            "stop",
            _stop,
            "Cut the power of a VM.",
            (_KEEP, _SOURCE, _OVERRULE, _SKIPLOCK, _TIMEOUT),
        ),
        Verb(
            "shutdown",
            _stop,
            "Ask the guest system to shut down.",
            (_FORCE, _KEEP, _SKIPLOCK, _TIMEOUT),
            demand=True,
        ),
        Verb("reboot", _restart, "Shut down and start again.", (_TIMEOUT,), demand=True),
        Verb("reset", _reset, "Press the reset button.", (_SKIPLOCK,), demand=True),
        Verb(
            "suspend",
            _suspend,
            "Pause a VM.",
            (
                _SKIPLOCK,
                text(
                    "statestorage",
                    "Storage of the state.",
                    format="pve-storage-id",
                    requires="todisk",
                ),
                flag("todisk", "Save the state to disk.", default=0),
            ),
            demand=True,
        ),
        Verb(
            "resume",
            _resume,
            "Continue a paused VM.",
            (flag("nocheck", "For migrations."), _SKIPLOCK),
            demand=True,
        ),
    ),
    "lxc": (
        Verb(
            "start",
            start_guest,
            "Start a container.",
            (
                flag("debug", "Log more.", default=0),
                _SKIPLOCK,
            ),
        ),
        Verb("stop", _stop, "Kill a container.", (_OVERRULE, _SKIPLOCK)),
        Verb(
            "shutdown",
            _stop,
            "Shut a container down.",
            (
                _FORCE,
                whole("timeout", "Seconds to wait.", minimum=0, default=60),
            ),
            demand=True,
        ),
        Verb("reboot", _restart, "Shut down and start again.", (_TIMEOUT,), demand=True),
        Verb("suspend", _suspend, "Freeze a container.", demand=True),
        Verb("resume", _resume, "Continue a frozen container.", demand=True),
    ),
}


def _by_name(type_: GuestType, name: str) -> Verb:
    return next(verb for verb in _VERBS[type_] if verb.name == name)


ENDPOINTS: tuple[Endpoint, ...] = tuple(
    endpoint(
        "POST",
        f"/nodes/{{node}}/{type_}/{{vmid}}/status/{verb.name}",
        _handler(type_, verb),
        about=verb.about,
        permissions=perm("/vms/{vmid}", "VM.PowerMgmt"),
        parameters=verb.parameters,
        protected=True,
        returns="string",
    )
    for type_, verbs in _VERBS.items()
    for verb in verbs
)
