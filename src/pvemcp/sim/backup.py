"""Backups: vzdump, in one task for all guests that are named."""

from __future__ import annotations

import time
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import Ask, Endpoint, choice, endpoint, flag, text, whole
from pvemcp.sim.guests import lock_text
from pvemcp.sim.progress import backup_lines
from pvemcp.sim.refusal import TaskFailure, failed, forbidden, rejected
from pvemcp.sim.tasks import Work
from pvemcp.sim.usage import root_disk
from pvemcp.sim.validate import split_list
from pvemcp.sim.volumes import need_storage
from pvemcp.sim.world import Guest, Volume, World

_ROOT_ONLY = ("tmpdir", "dumpdir", "script", "job-id")
_ENDINGS = {"qemu": "vma", "lxc": "tar"}
_PACKED = {"zstd": ".zst", "gzip": ".gz", "1": ".lzo", "lzo": ".lzo", "0": ""}


def _guests(ask: Ask) -> list[Guest]:
    world, args = ask.world, ask.args
    here = [guest for guest in world.guests.values() if guest.node == ask.node]
    excluded = {int(vmid) for vmid in split_list(args.get("exclude", ""))}
    if args.get("all"):
        return [guest for guest in here if guest.vmid not in excluded]
    if pool := args.get("pool"):
        return [guest for guest in here if world.pool_of(guest.vmid) == pool]
    named = {int(vmid) for vmid in split_list(args.get("vmid", ""))}
    return [guest for guest in here if guest.vmid in named]


def _start(ask: Ask) -> str:
    world, args = ask.world, ask.args
    for name in _ROOT_ONLY:
        if name in args and not ask.who.is_root:
            raise rejected({name: "Only root may set this option."})
    if not ({"all", "pool", "vmid"} & args.keys()):
        raise rejected({"vmid": "property is missing and it is not optional"})
    storage = args.get("storage", "local")
    need_storage(world, storage)
    if "backup" not in world.storages[storage].content:
        raise failed(f"storage '{storage}' does not support backups")
    if not ask.may(f"/storage/{storage}", "Datastore.AllocateSpace"):
        raise forbidden(f"/storage/{storage}, Datastore.AllocateSpace")
    guests = _guests(ask)
    for guest in guests:
        if not ask.may(f"/vms/{guest.vmid}", "VM.Backup"):
            raise forbidden(f"/vms/{guest.vmid}, VM.Backup")
    work = _work(world, guests, storage, args)
    owner = str(guests[0].vmid) if len(guests) == 1 else ""
    return world.tasks.start(ask.node, "vzdump", id=owner, user=ask.who.id, work=work)


def _work(world: World, guests: list[Guest], storage: str, args: Any) -> Work:
    def check() -> None:
        for guest in guests:
            if guest.lock:
                raise TaskFailure("job errors" if len(guests) > 1 else lock_text(guest))

    def apply() -> None:
        _set_locks(guests, on=False)
        for guest in guests:
            world.storages[storage].volumes.append(_volume(world, guest, storage, args))

    return Work(
        apply,
        check,
        begin=lambda: _set_locks(guests, on=True),
        undo=lambda: _set_locks(guests, on=False),
        lines=_lines(guests),
        seconds=20.0,
    )


def _set_locks(guests: list[Guest], *, on: bool) -> None:
    for guest in guests:
        guest.config.pop("lock", None)
        if on:
            guest.config["lock"] = "backup"


def _lines(guests: list[Guest]) -> tuple[str, ...]:
    lines = ["INFO: starting new backup job"]
    for guest in guests:
        lines.append(f"INFO: Starting Backup of VM {guest.vmid} ({guest.type})")
        lines += backup_lines(root_disk(guest)) if guest.type == "qemu" else ()
        lines.append(f"INFO: Finished Backup of VM {guest.vmid} (00:00:30)")
    return (*lines, "INFO: Backup job finished successfully")


def _volume(world: World, guest: Guest, storage: str, args: Any) -> Volume:
    now = world.clock.seconds()
    stamp = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(now))
    ending = _ENDINGS[guest.type] + _PACKED[str(args.get("compress", "0"))]
    name = f"{storage}:backup/vzdump-{guest.type}-{guest.vmid}-{stamp}.{ending}"
    notes = str(args.get("notes-template", guest.name)).replace("{{guestname}}", guest.name)
    kept = bool(args.get("protected"))
    return Volume(name, "backup", root_disk(guest) // 3, now, ending, guest.vmid, notes, kept)


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("POST", "/nodes/{node}/vzdump", _start, about="Back guests up.", protected=True,
             returns="string",
             parameters=(
                 text("node", "Name of the node.", format="pve-node"),
                 flag("all", "All guests of the node.", default=0),
                 whole("bwlimit", "Limit in KiB/s.", minimum=0, default=0),
                 choice("compress", "Compression.", ("0", "1", "gzip", "lzo", "zstd"),
                        default="0"),
                 text("dumpdir", "Folder; root@pam only."),
                 text("exclude", "Guests to leave out.", format="pve-vmid-list"),
                 Parameter("exclude-path", "array", optional=True, items={"type": "string"},
                           description="Files to leave out."),
                 text("fleecing", "Fleecing.", format="backup-fleecing"),
                 whole("ionice", "IO priority.", minimum=0, maximum=8, default=7),
                 text("job-id", "Job that starts it; root@pam only.", max_length=50,
                      pattern=r"\S+"),
                 whole("lockwait", "Minutes to wait for a lock.", minimum=0, default=180),
                 choice("mailnotification", "When to send a message.", ("always", "failure"),
                        default="always"),
                 text("mailto", "Whom to send it.", format="email-or-username-list"),
                 whole("maxfiles", "Backups to keep; use prune-backups.", minimum=1),
                 choice("mode", "What to do with a running guest.",
                        ("snapshot", "suspend", "stop"), default="snapshot"),
                 text("notes-template", "Notes.", max_length=1024, requires="storage"),
                 choice("notification-mode", "Way of messages.",
                        ("auto", "legacy-sendmail", "notification-system"), default="auto"),
                 choice("pbs-change-detection-mode", "How a backup server finds changes.",
                        ("legacy", "data", "metadata")),
                 text("performance", "Tuning.", format="backup-performance"),
                 whole("pigz", "Threads of pigz.", default=0),
                 text("pool", "All guests of a pool."),
                 flag("protected", "Keep it from being pruned.", requires="storage"),
                 text("prune-backups", "What to keep.", format="prune-backups"),
                 flag("quiet", "Say less.", default=0),
                 flag("remove", "Prune older backups.", default=1),
                 text("script", "Script to call; root@pam only."),
                 flag("stdexcludes", "Leave temporary files out.", default=1),
                 flag("stdout", "Write to standard output."),
                 flag("stop", "Stop running backups instead.", default=0),
                 whole("stopwait", "Minutes to wait for a guest to stop.", minimum=0, default=10),
                 text("storage", "Where to.", format="pve-storage-id"),
                 text("tmpdir", "Folder; root@pam only."),
                 text("vmid", "The guests.", format="pve-vmid-list"),
                 whole("zstd", "Threads of zstd.", default=1),
             )),
)  # fmt: skip
