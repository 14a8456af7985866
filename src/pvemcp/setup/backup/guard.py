"""Only one restore at a time, and one that is killed is taken back at once.

A second process waits until the first has gone, however it went. If the machine itself goes down,
`pvemcp-recover.service` does the same before the service starts again.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pvemcp.errors import Conflict
from pvemcp.setup.backup.written import unwritable

LOCK = "restore.lock"


@contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of restores; the kernel lets it go with the process. Raises Conflict."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(folder / LOCK, flags, 0o600)
    except OSError as exc:
        raise unwritable(folder, exc) from None
    try:
        _take(lock, wait=wait)
        yield
    finally:
        os.close(lock)


def _take(lock: int, *, wait: bool) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict("Another restore is under way.", hint="Wait until it has ended.") from None


@contextmanager
def guarded(taken_back: Callable[[], object]) -> Iterator[None]:
    """Have a second process call `taken_back` if this one is killed while the block runs.

    However else the block ends, it has taken back itself what it had to.
    """
    reader, writer = os.pipe()
    guard = os.fork()
    if guard == 0:
        _wait_then(taken_back, reader, writer)
    os.close(reader)
    try:
        yield
    finally:
        os.write(writer, b"ended")
        os.close(writer)
        os.waitpid(guard, 0)


def _wait_then(taken_back: Callable[[], object], reader: int, writer: int) -> None:
    """Be the second process; never returns."""
    code = 1
    try:
        os.setsid()  # what ends the first one's terminal or group does not end this one
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(each, signal.SIG_IGN)
        os.close(writer)
        if not os.read(reader, 1):  # the end of the file: the first process has been killed
            taken_back()
        code = 0
    finally:
        os._exit(code)
