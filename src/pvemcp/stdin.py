"""The lines of stdin, read so that waiting for one can be cancelled.

A thread that waits in read() cannot be: the process would not end before the next line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

_CHUNK = 65536


async def lines(descriptor: int) -> AsyncIterator[str]:
    """Yield what comes in, line by line; bytes that are not UTF-8 are replaced."""
    pending = bytearray()
    while chunk := await _read(descriptor):
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield (pending + line).decode("utf-8", "replace")
            pending.clear()
        pending += rest
    if pending:
        yield pending.decode("utf-8", "replace")


async def _read(descriptor: int) -> bytes:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    with contextlib.suppress(PermissionError):  # a regular file cannot be waited for: it is ready
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:  # the terminal has gone
        return b""
