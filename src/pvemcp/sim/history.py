"""What happened in a world before it begins: nightly backups, tasks that went well or badly."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pvemcp.sim.tasks import Past
from pvemcp.sim.usage import root_disk
from pvemcp.sim.world import GIB, Guest, Volume, World

HOUR = 3600
DAY = 24 * HOUR
NIGHT = 2 * HOUR + HOUR // 2
"""When backups start: 02:30 UTC, in seconds of the day."""
_EACH = 30
"""Seconds that the backup of a guest takes."""
_ENDINGS = {"qemu": "vma.zst", "lxc": "tar.zst"}
Event = tuple[float, Callable[[], None]]
"""When, and what."""


@dataclass(frozen=True, slots=True)
class Done:
    """A task of a guest, so many hours ago. `status` other than OK is why it failed."""

    ago: float
    type: str
    vmid: int
    user: str = "root@pam"
    seconds: float = 3.0
    log: tuple[str, ...] = ()
    status: str = "OK"


@dataclass(frozen=True, slots=True)
class Backups:
    """A backup job that runs every night on each node."""

    storage: str
    guests: Sequence[Guest]
    nights: int = 3
    broken: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Guests that failed last night, with what their log says; the last line is the reason."""
    absent: Mapping[str, int] = field(default_factory=dict)
    """Nodes that have been off for so many nights."""


def happen(world: World, events: Iterable[Event]) -> None:
    """Let events happen in their order, before now."""
    for _, event in sorted(events, key=lambda item: item[0]):
        event()
    # Tasks that overlapped have told their ends at once.
    lines = sorted(world.log, key=lambda line: line["time"])
    world.log.clear()
    world.log.extend({**line, "number": number} for number, line in enumerate(lines, start=1))


def last_night(world: World) -> int:
    """Return the latest 02:30 UTC that is more than an hour ago (epoch)."""
    latest = world.clock.seconds() - HOUR
    return latest - (latest - NIGHT) % DAY


def done(world: World, tasks: Iterable[Done]) -> Iterator[Event]:
    """Return tasks of guests as events."""
    now = world.clock.now()
    for task in tasks:
        node = world.guests[task.vmid].node
        past = Past(node, task.type, str(task.vmid), task.user, task.seconds, task.log, task.status)
        yield _task(world, past, at=now - task.ago * HOUR)


def refreshed(world: World, *, days: int) -> Iterator[Event]:
    """Return a daily look for updates on each node that runs; that of yesterday failed on one."""
    last = max(node for node in world.nodes if world.nodes[node].online)
    for name in (name for name, node in world.nodes.items() if node.online):
        for day in range(days):
            broken = day == 1 and name == last
            log = "Err:1 http://mirror.example.org/debian trixie InRelease" if broken else "Reading"
            status = "command 'apt-get update' failed: exit code 100" if broken else "OK"
            past = Past(name, "aptupdate", "", "root@pam", 6, (log,), status)
            yield _task(world, past, at=last_night(world) + 2 * HOUR - (day + 1) * DAY)


def said(world: World, *, ago: float, user: str, vmid: int, message: str) -> Event:
    """Return a line of the cluster log about a guest, so many hours ago, as an event."""
    at = world.clock.now() - ago * HOUR

    def tell() -> None:
        with world.clock.at(at):
            world.record(user, message, node=world.guests[vmid].node)

    return at, tell


def backed_up(world: World, job: Backups) -> Iterator[Event]:
    """Return the runs of a backup job as events; their archives are on the storage at once."""
    for night in reversed(range(job.nights)):
        at = last_night(world) - night * DAY
        for name in world.nodes:
            guests = [guest for guest in job.guests if guest.node == name]
            if guests and night >= job.absent.get(name, 0):
                broken = job.broken if night == 0 else {}
                yield _run(world, job.storage, guests, broken, at=at)


def _run(
    world: World,
    storage: str,
    guests: Sequence[Guest],
    broken: Mapping[int, Sequence[str]],
    *,
    at: int,
) -> Event:
    lines = [f"INFO: starting new backup job: vzdump --storage {storage} --mode snapshot --quiet 1"]
    failed = False
    for number, guest in enumerate(guests):
        trouble = broken.get(guest.vmid, ())
        lines += _guest_log(guest, storage, trouble, at=at + number * _EACH)
        failed = failed or bool(trouble)
        if not trouble:
            volume = _archive(guest, storage, at=at + number * _EACH)
            world.storages[storage].volumes.append(volume)
    lines.append(f"INFO: Backup job finished {'with errors' if failed else 'successfully'}")
    past = Past(
        guests[0].node, "vzdump", "", "root@pam", len(guests) * _EACH, tuple(lines),
        "job errors" if failed else "OK",
    )  # fmt: skip
    return _task(world, past, at=at)


def _guest_log(guest: Guest, storage: str, trouble: Sequence[str], *, at: int) -> Iterator[str]:
    size = root_disk(guest) / GIB
    yield f"INFO: Starting Backup of VM {guest.vmid} ({guest.type})"
    yield f"INFO: Backup started at {_time(at)}"
    yield f"INFO: status = {'running' if guest.running else 'stopped'}"
    yield f"INFO: {guest.word} Name: {guest.name}"
    yield f"INFO: creating vzdump archive '/mnt/pve/{storage}/dump/{_file(guest, at)}'"
    if trouble:
        yield from trouble[:-1]
        yield f"ERROR: Backup of VM {guest.vmid} failed - {trouble[-1]}"
        yield f"INFO: Failed at {_time(at + _EACH)}"
        return
    yield f"INFO: archive file size: {size / 3:.2f}GB"
    yield f"INFO: Finished Backup of VM {guest.vmid} (00:00:{_EACH})"
    yield f"INFO: Backup finished at {_time(at + _EACH)}"


def _archive(guest: Guest, storage: str, *, at: int) -> Volume:
    return Volume(
        f"{storage}:backup/{_file(guest, at)}", "backup", root_disk(guest) // 3, at,
        _ENDINGS[guest.type], guest.vmid, guest.name,
    )  # fmt: skip


def _file(guest: Guest, at: int) -> str:
    stamp = dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y_%m_%d-%H_%M_%S")
    return f"vzdump-{guest.type}-{guest.vmid}-{stamp}.{_ENDINGS[guest.type]}"


def _time(at: int) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _task(world: World, past: Past, *, at: float) -> Event:
    return at, lambda: world.tasks.remember(past, at=at)
