"""A cgroup for each machine, in every hierarchy that it may use.

systemd-nspawn --keep-unit works in the cgroup in which it is started. Each machine's is below that
of this process, so that machines do not meet each other and whatever accounts for us still does.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from tests.host.waiting import until

LIMITS = ("memory", "pids", "cpu", "cpuacct")
"""The v1 controllers with which a machine enforces MemoryMax=, TasksMax= and CPUQuota=."""
_UNIFIED = ""
_HIERARCHIES = (_UNIFIED, "name=systemd", *LIMITS)


def folders(name: str) -> tuple[Path, ...]:
    """Return the cgroups of a machine: in cgroup v2 and in the v1 hierarchies that are mounted."""
    return tuple(folder / name for folder in of("self"))


def of(pid: int | str) -> list[Path]:
    """Return the cgroups of a process in those hierarchies."""
    mounted = _mounted()
    rows = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    paths = {each: path.lstrip("/") for _, names, path in rows for each in names.split(",")}
    present = [each for each in _HIERARCHIES if each in mounted and each in paths]
    return list(dict.fromkeys(mounted[each] / paths[each] for each in present))


def missing_limits() -> list[str]:
    """Return which controllers of LIMITS cgroup v1 does not have on this computer."""
    mounted = _mounted()
    return [each for each in LIMITS if each not in mounted]


def _mounted() -> dict[str, Path]:
    """Return where each v1 controller is mounted, and cgroup v2."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            for each in options.split(",") if kind == "cgroup" else [_UNIFIED]:
                found.setdefault(each, Path(before.split()[4]))
    return found


def make(cgroups: Iterable[Path]) -> None:
    """Make the cgroups."""
    for folder in cgroups:
        folder.mkdir(exist_ok=True)


def members(cgroups: Iterable[Path]) -> list[int]:
    """Return the processes in the cgroups and below."""
    found: list[int] = []
    for top in cgroups:
        for folder, _, _ in os.walk(top):
            with contextlib.suppress(OSError):
                found += map(int, Path(folder, "cgroup.procs").read_text().split())
    return found


def remove(cgroups: Iterable[Path]) -> None:
    """Kill every process in the cgroups, and remove them."""
    tops = tuple(cgroups)
    until(lambda: _removed(tops), f"the end of all processes in {tops}")


def _removed(tops: tuple[Path, ...]) -> bool:
    for pid in members(tops):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for top in tops:
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    return not any(top.exists() for top in tops)
