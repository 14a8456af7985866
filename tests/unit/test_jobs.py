"""Jobs that the helper keeps: how much of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pvemcp.host.jobs import END, HEADER, MOST, MOST_BYTES, listing

SECOND = 1.0


def job(folder: Path, number: int, owner: str, *, size: int = 0) -> str:
    """Leave behind a job that has ended; a higher number is newer."""
    place = folder / f"pvemcp-job-{number:016x}"
    place.mkdir()
    spec = json.dumps({"owner": owner, "title": "t", "profile": "read", "timeout": 9}).encode()
    (place / "input").write_bytes(HEADER.pack(b"R", len(spec)) + spec)
    end = HEADER.pack(b"X", END) + json.dumps({"code": 0}).encode().ljust(END)
    with (place / "log").open("wb") as log:
        log.truncate(size)
        log.seek(0, os.SEEK_END)
        log.write(end)
    at = place.stat().st_mtime - 3600 + number * SECOND
    os.utime(place, (at, at))
    return place.name


def kept(folder: Path) -> set[str]:
    """Return what is still there after a listing, which agrees."""
    told = {row["job"] for row in listing(folder)}
    assert told == {place.name for place in folder.iterdir()}
    return told


def test_one_owner_fills_no_disk_and_costs_no_other_its_jobs(tmp_path: Path) -> None:
    mine = job(tmp_path, 0, "quiet", size=1000)
    loud = [job(tmp_path, number, "loud", size=MOST_BYTES // 8) for number in range(1, 21)]
    assert kept(tmp_path) == {mine, *loud[-7:]}, "the newest stay"


def test_of_many_small_jobs_the_newest_stay(tmp_path: Path) -> None:
    loud = [job(tmp_path, number, "loud") for number in range(MOST + 5)]
    assert kept(tmp_path) == set(loud[5:])
