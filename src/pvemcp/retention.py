"""How far back the audit goes: the oldest calls are deleted, by age and by size.

Only ever a run of the oldest rows, never the newest row, and a few at a time: the event loop waits
for each batch, a few milliseconds. The space goes back to the file system in steps, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pvemcp.audit import Audit
from pvemcp.chain import Chain
from pvemcp.errors import Fault
from pvemcp.recordings import Recordings
from pvemcp.settings import Settings
from pvemcp.store import Store

log = logging.getLogger(__name__)

ANCHOR_EVERY = 60.0
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


async def anchoring(
    audit: Audit,
    file: Path | None,
    *,
    tell: Callable[[str], None] | None = None,
    every: float = ANCHOR_EVERY,
) -> None:
    """Tell the journal, a file, and `tell`, the audit's head each minute in which it moved.

    Goes on for ever.
    """
    told = audit.head()
    while True:
        await asyncio.sleep(every)
        try:
            if (head := audit.head()) is None or head == told:
                continue
            line, told = audit.anchor(head), head
            if tell is not None:
                tell(line)
            if file is not None:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(f"{line}\n")
        except Fault as fault:
            log.warning("The audit's head could not be told: %s", fault)
        except OSError as error:
            log.warning("The audit's head could not be written to %s: %s", file, error)


async def keep_within(store: Store, settings: Settings) -> None:
    """Hold the audit to its settings, for ever. A failure is logged and tried again."""
    while True:
        more = False
        try:
            more = delete_batch(store, settings, time.time())
        except Fault as fault:
            log.warning("The audit could not be cut to its limits: %s", fault)
        await asyncio.sleep(PAUSE if more else EVERY)


async def keep_recordings_within(audit: Audit, store: Store, settings: Settings) -> None:
    """Hold recordings of shells to their settings, for ever; what a kill cut off ends first."""
    recordings = Recordings(store)
    with suppress(Fault):
        recordings.end_cut_off(audit.event)
    while True:
        days = settings.audit_keep_days
        before = time.time() - days * DAY if days else float("-inf")
        try:
            recordings.forget(
                before=before, most=settings.recordings_max_mb << 20, tell=audit.event
            )
        except Fault as fault:
            log.warning("Recordings could not be cut to their limits: %s", fault)
        await asyncio.sleep(EVERY)


def delete_batch(store: Store, settings: Settings, now: float) -> bool:
    """Delete some of the oldest calls that are beyond the limits; whether there may be more.

    Raises Unavailable when the database is locked, full or damaged.
    """
    before = now - settings.audit_keep_days * DAY if settings.audit_keep_days else float("-inf")
    too_large = used(store) > most(settings)
    # Contents of files must not push the audit out: the journal of changes gets half at most.
    crowded = too_large and _size_of_changes(store) > most(settings) // 2
    last = _last_of_batch(store, float("inf") if too_large and not crowded else before)
    deleted = last is not None and _delete(store, last)
    deleted = _delete_changes(store, settings, now, crowded=crowded) or deleted
    if spare := _pragma(store, "freelist_count"):
        store.give_back(PAGES_BACK)
    return deleted or _pragma(store, "freelist_count") < spare


def _size_of_changes(store: Store) -> int:
    return int(store.rows("SELECT total(length(sealed)) FROM changes")[0][0])


def _delete_changes(store: Store, settings: Settings, now: float, *, crowded: bool) -> bool:
    """Delete some of the oldest changes that are beyond their age; of any age when crowded."""
    days = settings.changes_keep_days
    before = now - days * DAY if days else float("-inf")
    store.write("DELETE FROM commits WHERE until < ?", (before,))
    oldest = store.rows(
        "SELECT number, time, length(sealed) FROM changes "
        "WHERE id NOT IN (SELECT change FROM commits WHERE state = 'waiting') "
        "ORDER BY number LIMIT 50"
    )
    last = _last_of(oldest, float("inf") if crowded else before)
    if last is None:
        return False
    kept = "SELECT change FROM commits WHERE state = 'waiting'"
    sql = f"DELETE FROM changes WHERE number <= ? AND id NOT IN ({kept})"  # noqa: S608
    return store.write(sql, (last,)) > 0


def _delete(store: Store, last: int) -> bool:
    chain = Chain(store)
    with store.whole():
        deleted = store.write("DELETE FROM calls WHERE number <= ?", (last,)) > 0
        chain.cut(last)
    return deleted


def _last_of_batch(store: Store, before: float) -> int | None:
    """Return the number of the last row to delete: all rows up to it are older than `before`."""
    oldest = store.rows(
        "SELECT number, time, length(arguments) + length(steps) FROM calls "
        "WHERE number < (SELECT max(number) FROM calls) ORDER BY number LIMIT ?",
        (MOST_ROWS,),
    )
    return _last_of(oldest, before)


def _last_of(oldest: Iterable[tuple[Any, ...]], before: float) -> int | None:
    """Return the last of these rows (number, time, size) that go, as a batch of a small size."""
    last, text = None, 0
    for number, moment, size in oldest:
        if moment >= before or text > MOST_TEXT:
            break
        last, text = int(number), text + int(size)
    return last


def used(store: Store) -> int:
    """Return the bytes in use in the database."""
    pages = _pragma(store, "page_count") - _pragma(store, "freelist_count")
    return pages * _pragma(store, "page_size")


def _pragma(store: Store, name: str) -> int:
    return int(store.rows(f"PRAGMA {name}")[0][0])


def most(settings: Settings) -> int:
    """Return the bytes that the audit may take."""
    return settings.audit_max_mb * 1024 * 1024
