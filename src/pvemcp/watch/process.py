"""Whether the process before this one was ended without notice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pvemcp.errors import Fault
from pvemcp.store import Store

NAME = "process"


@contextlib.contextmanager
def noted(store: Store, now: float) -> Iterator[bool]:
    """Note that this process runs, until the end of the block; give whether one was noted before.

    Where the database cannot be written, nothing is known.
    """
    found = False
    with contextlib.suppress(Fault):
        found = bool(store.rows("SELECT 1 FROM state WHERE name = ?", (NAME,)))
        store.write("INSERT OR REPLACE INTO state (name, value) VALUES (?, ?)", (NAME, str(now)))
    try:
        yield found
    finally:
        with contextlib.suppress(Fault):
            store.write("DELETE FROM state WHERE name = ?", (NAME,))
