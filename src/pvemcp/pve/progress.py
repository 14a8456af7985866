"""How far a task is, read from the lines of its log."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SIZE = r"([\d.]+) ?([KMGTP]?)i?B"
_PERCENT = (
    # Mirroring and copying of disks: clone, move, migration with local disks, import.
    re.compile(r"transferred .+ of .+ \((\d+(?:\.\d+)?)%\)"),
    # Backup of a VM.
    re.compile(r"^INFO:\s+(\d+(?:\.\d+)?)% \("),
    # Restore of a VM, from a file or from Proxmox Backup Server.
    re.compile(r"^progress (\d+(?:\.\d+)?)% \("),
    # Downloads: wget's dots.
    re.compile(r"\s(\d{1,3})%\s+[\d.,]+[KMG]?\b"),
)
_MEMORY = re.compile(rf"migration active, transferred {_SIZE} of {_SIZE} VM-state")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_MOST = 99.0
"""Only the task's exit status is the end: memory that changes is sent again and again."""


def percent(lines: Iterable[str]) -> float | None:
    """Return how far the task is according to the last line that says so, at most 99."""
    latest = None
    for line in lines:
        latest = _of_line(line) if _of_line(line) is not None else latest
    return latest


def _of_line(line: str) -> float | None:
    line = line[:500]
    for pattern in _PERCENT:
        if found := pattern.search(line):
            return min(float(found[1]), _MOST)
    if found := _MEMORY.search(line):
        done, total = _bytes(found[1], found[2]), _bytes(found[3], found[4])
        return min(100 * done / total, _MOST) if total else None
    return None


def _bytes(number: str, unit: str) -> float:
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        return 0.0
