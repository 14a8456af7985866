"""How far back the audit goes: the oldest calls are deleted, by age and by size.

Only ever a run of the oldest rows, never the newest row, and a few at a time: the event loop waits
for each batch, a few milliseconds. The space goes back to the file system in steps, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass

from pvemcp.errors import Fault
from pvemcp.settings import Settings
from pvemcp.store import Store

log = logging.getLogger(__name__)

EVERY = 600.0
"""Seconds between two looks at the audit."""
PAUSE = 0.05
"""Seconds for everybody else between two batches."""
MOST_ROWS = 250
MOST_TEXT = 128 * 1024
"""Characters of a batch: what is deleted is also overwritten, which takes time by its size."""
PAGES_BACK = 64
"""Pages that one batch gives back to the file system."""
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the audit takes on the disk. All in bytes, but for the time."""

    used: int
    """In use in the database."""
    most: int
    """What the setting audit_max_mb allows."""
    free: int
    """Left on the file system for the service's user."""
    total: int
    """Size of the file system."""
    oldest: float | None
    """When the oldest call was made, in seconds since the epoch; None without any."""

    @property
    def disk_filled(self) -> float:
        """Part of the file system that is in use, 0 to 1."""
        return 1 - self.free / self.total if self.total else 1.0


def usage(store: Store, settings: Settings) -> Usage:
    """Return what the audit takes, and what its disk has left. Raises Unavailable."""
    room = os.statvfs(store.path.parent)
    oldest = store.rows("SELECT time FROM calls ORDER BY number LIMIT 1")
    return Usage(
        used=_used(store),
        most=_most(settings),
        free=room.f_bavail * room.f_frsize,
        total=room.f_blocks * room.f_frsize,
        oldest=float(oldest[0][0]) if oldest else None,
    )


async def keep_within(store: Store, settings: Settings) -> None:
    """Hold the audit to its settings, for ever. A failure is logged and tried again."""
    while True:
        more = False
        try:
            more = delete_batch(store, settings, time.time())
        except Fault as fault:
            log.warning("The audit could not be cut to its limits: %s", fault)
        await asyncio.sleep(PAUSE if more else EVERY)


def delete_batch(store: Store, settings: Settings, now: float) -> bool:
    """Delete some of the oldest calls that are beyond the limits; whether there may be more.

    Raises Unavailable when the database is locked, full or damaged.
    """
    before = now - settings.audit_keep_days * DAY if settings.audit_keep_days else float("-inf")
    too_large = _used(store) > _most(settings)
    last = _last_of_batch(store, float("inf") if too_large else before)
    deleted = last is not None and store.write("DELETE FROM calls WHERE number <= ?", (last,)) > 0
    if spare := _pragma(store, "freelist_count"):
        store.give_back(PAGES_BACK)
    return deleted or _pragma(store, "freelist_count") < spare


def _last_of_batch(store: Store, before: float) -> int | None:
    """Return the number of the last row to delete: all rows up to it are older than `before`."""
    oldest = store.rows(
        "SELECT number, time, length(arguments) + length(steps) FROM calls "
        "WHERE number < (SELECT max(number) FROM calls) ORDER BY number LIMIT ?",
        (MOST_ROWS,),
    )
    last, text = None, 0
    for number, moment, size in oldest:
        if moment >= before or text > MOST_TEXT:
            break
        last, text = int(number), text + int(size)
    return last


def _used(store: Store) -> int:
    pages = _pragma(store, "page_count") - _pragma(store, "freelist_count")
    return pages * _pragma(store, "page_size")


def _pragma(store: Store, name: str) -> int:
    return int(store.rows(f"PRAGMA {name}")[0][0])


def _most(settings: Settings) -> int:
    return settings.audit_max_mb * 1024 * 1024
