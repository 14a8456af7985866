"""What systemd is told of the service: ready, alive, stopping; sd_notify(3) without its library."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from pvemcp.errors import Fault

logger = logging.getLogger(__name__)

FEEDS = 3
"""How often within the watchdog's time it is fed."""


def notify(*lines: str, env: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, if it started this process and wants to know."""
    if address := env.get("NOTIFY_SOCKET"):
        place = f"\0{address[1:]}" if address.startswith("@") else address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as link:
            link.settimeout(0.2)  # a full queue shall not hang the loop
            link.sendto("\n".join(lines).encode(), place)


@contextlib.asynccontextmanager
async def told(
    ready: Callable[[], Awaitable[bool]],
    check: Callable[[], object],
    *,
    status: str,
    env: Mapping[str, str] = os.environ,
) -> AsyncIterator[None]:
    """Tell systemd once it is `ready`, and then that it is alive as long as `check` passes.

    A loop that hangs, or a check that raises a Fault, feeds no watchdog: systemd ends the process
    and starts another. The check must not depend on what a client can do, or clients could have
    the service killed.
    """
    task = asyncio.create_task(_tell(ready, check, status, env))
    try:
        yield
    finally:
        task.cancel()


async def _tell(
    ready: Callable[[], Awaitable[bool]],
    check: Callable[[], object],
    status: str,
    env: Mapping[str, str],
) -> None:
    if not await ready():
        return
    notify("READY=1", f"STATUS={status}", env=env)
    microseconds = int(env.get("WATCHDOG_USEC") or 0)
    if not microseconds or env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    faulthandler.enable()  # the watchdog ends it with SIGABRT: the journal then has the place
    failed = ""
    while True:
        problem = _problem(check)
        if problem != failed:
            notify(f"STATUS={problem or status}", env=env)
            if problem:
                logger.error("%s The watchdog will start the service anew.", problem)
            failed = problem
        if not problem:
            notify("WATCHDOG=1", env=env)
        await asyncio.sleep(microseconds / 1e6 / FEEDS)


def _problem(check: Callable[[], object]) -> str:
    try:
        check()
    except Fault as fault:
        return f"The self-check failed: {' '.join(fault.message.split())}"
    return ""
