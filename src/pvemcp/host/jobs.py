"""Looks after jobs: `jobs.py list`, `jobs.py read JOB CURSOR WAIT` (operations of root's).

A job's folder holds `input` (what inside.py was told) and `log` (its frames; the last tells how it
ended). `list` also removes jobs that ended a week ago, and what is too much of one owner: the
service lists before it starts another.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

JOBS, TMP = Path("/var/lib/pvemcp-helper"), Path("/run/pvemcp-tmp")
HEADER = struct.Struct(">cI")
END = 256
"""Bytes of the last frame's payload (inside.py)."""
PAGE, CONTEXT = 24 * 1024, 64 * 1024
"""Bytes of a log that are read from a cursor on, and before it."""
KEPT = 7 * 86400
"""Seconds that an ended job is kept."""
MOST, MOST_BYTES = 200, 256 << 20
"""Jobs of one owner, and their bytes: beyond them the oldest that have ended go."""
LOOK_EVERY, ASK_EVERY = 0.1, 1.0
"""Seconds between two looks at a log, and between two questions to systemd."""


def about(place: Path) -> dict[str, Any]:
    """Return what was asked for, and how it ended if it did."""
    spec = json.loads((place / "input").read_bytes()[HEADER.size :])
    found = {name: spec.get(name) for name in ("owner", "title", "profile", "timeout")}
    log = place / "log"
    size = log.stat().st_size if log.exists() else 0
    end = _end(log, size) if size else None
    started, changed = (place / "input").stat().st_mtime, log.stat().st_mtime if size else 0
    return {
        "job": place.name,
        **found,
        "started": started,
        "size": size,
        "end": end,
        "changed": changed,
    }


def _end(log: Path, size: int) -> dict[str, Any] | None:
    with log.open("rb") as file:
        file.seek(max(0, size - HEADER.size - END))
        tail = file.read()
    if tail[: HEADER.size] != HEADER.pack(b"X", END):
        return None
    try:
        found = json.loads(tail[HEADER.size :])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _running(names: list[str]) -> set[str]:
    """Return which jobs' units systemd still has."""
    units = [f"{name}.service" for name in names]
    argv = ["systemctl", "is-active", *units]
    states = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603
    active = ("active", "activating", "deactivating")
    return {name for name, state in zip(names, states, strict=False) if state in active}


def listing(folder: Path = JOBS) -> list[dict[str, Any]]:
    """Return all jobs, oldest first; remove old ones, too many, and the /tmp of ended ones."""
    places = sorted(folder.glob("pvemcp-job-*"), key=lambda place: place.stat().st_mtime)
    running = _running([place.name for place in places]) if places else set()
    rows: list[dict[str, Any]] = []
    held = dict[str, tuple[int, int]]()
    for place in reversed(places):
        row = about(place)
        row["running"] = place.name in running
        count, size = held.get(row["owner"], (0, 0))
        count, size = count + 1, size + row["size"] + (place / "input").stat().st_size
        if not row["running"]:
            shutil.rmtree(TMP / place.name, ignore_errors=True)
            old = time.time() - (row["changed"] or row["started"]) > KEPT
            if old or count > MOST or size > MOST_BYTES:
                shutil.rmtree(place, ignore_errors=True)
                continue
        held[row["owner"]] = count, size
        rows.append(row)
    return rows[::-1]


def read(name: str, cursor: int, wait: int) -> None:
    """Write a line of JSON about the job, then whole frames of its log around the cursor.

    Waits at most `wait` seconds for something beyond the cursor, or the job's end.
    """
    place = JOBS / name
    if not place.is_dir():
        sys.exit(3)
    deadline, log = time.monotonic() + wait, place / "log"
    while True:
        row = {**about(place), "running": bool(_running([name]))}
        if row["size"] > cursor or not row["running"] or time.monotonic() >= deadline:
            break
        asked = time.monotonic()
        while time.monotonic() < min(asked + ASK_EVERY, deadline):
            time.sleep(LOOK_EVERY)
            if log.exists() and log.stat().st_size > cursor:
                break
    start, end = _around(log, row["size"], cursor)
    sys.stdout.buffer.write(json.dumps({**row, "from": start}).encode() + b"\n")
    if row["size"]:
        with log.open("rb") as file:
            file.seek(start)
            sys.stdout.buffer.write(file.read(end - start))


def _around(log: Path, size: int, cursor: int) -> tuple[int, int]:
    """Return the positions of the first frame to give, and of the end of the last."""
    start = at = 0
    with (log if size else Path(os.devnull)).open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(HEADER.size)
            if len(head) < HEADER.size:
                break
            at += HEADER.size + HEADER.unpack(head)[1]
            if at <= cursor - CONTEXT:
                start = at
            if at >= cursor + PAGE:
                break
    return start, min(at, size)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["list"]:
            sys.stdout.write(json.dumps(listing()))
        case ["read", job, start, seconds]:
            read(job, int(start), int(seconds))
