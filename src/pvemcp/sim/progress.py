"""Log lines of long tasks, in the words by which a client reads how far they are."""

from __future__ import annotations

from collections.abc import Iterator

from pvemcp.sim.world import GIB

_STEPS = 10


def _parts() -> Iterator[tuple[float, int]]:
    for step in range(1, _STEPS + 1):
        yield step / _STEPS, step


def convert_lines(size: int) -> tuple[str, ...]:
    """Return the log of copying a disk of a stopped guest; `size` in bytes."""
    total = size / GIB
    return tuple(
        f"transferred {total * share:.1f} GiB of {total:.1f} GiB ({share * 100:.2f}%)"
        for share, _ in _parts()
    )


def mirror_lines(drive: str, size: int) -> tuple[str, ...]:
    """Return the log of mirroring a disk of a running guest; `size` in bytes."""
    total = size / GIB
    name = f"drive-{drive}"
    lines = [
        f"{name}: transferred {total * share:.1f} GiB of {total:.1f} GiB ({share * 100:.2f}%)"
        f" in {step * 2}s" + (", ready" if step == _STEPS else "")
        for share, step in _parts()
    ]
    return ("drive mirror is starting for drive-" + drive, *lines, "all 'mirror' jobs are ready")


def migration_lines(memory: int) -> tuple[str, ...]:
    """Return the log of a live migration; `memory` in bytes."""
    total = memory / GIB
    return tuple(
        f"migration active, transferred {total * share:.1f} GiB of {total:.1f} GiB VM-state,"
        " 412.3 MiB/s"
        for share, _ in _parts()
    )


def download_lines() -> tuple[str, ...]:
    """Return the log of a download, as wget writes it."""
    return tuple(
        f"{step * 32768}K ........ ........ ........ ........ {share * 100:3.0f}% 112M {10 - step}s"
        for share, step in _parts()
    )


def backup_lines(size: int) -> tuple[str, ...]:
    """Return the log of a backup of a VM; `size` in bytes."""
    total = size / GIB
    return tuple(
        f"INFO: {share * 100:3.0f}% ({total * share:.1f} GiB of {total:.1f} GiB) in {step * 3}s,"
        " read: 512.0 MiB/s, write: 498.2 MiB/s"
        for share, step in _parts()
    )
