"""What systemd hears of the service, on a real notification socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvemcp.errors import Unavailable
from pvemcp.systemd import FEEDS, notify, told

WATCHDOG = 0.15
"""Seconds."""


class Listening:
    """The socket on which systemd listens."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}

    async def next(self, seconds: float = 5) -> str:
        loop = asyncio.get_running_loop()
        return (await asyncio.wait_for(loop.sock_recv(self.socket, 4096), seconds)).decode()

    def waiting(self) -> list[str]:
        """Return what has arrived."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Listening]:
    listening = Listening(tmp_path / "notify")
    yield listening
    listening.socket.close()


async def at_once() -> bool:
    return True


async def never() -> bool:
    return False


async def test_it_is_told_when_the_service_is_ready_and_then_that_it_lives(
    systemd: Listening,
) -> None:
    is_ready = asyncio.Event()

    async def ready() -> bool:
        return await is_ready.wait()

    async with told(ready, lambda: None, status="MCP at home", env=systemd.env):
        await asyncio.sleep(0)
        assert systemd.waiting() == []
        is_ready.set()
        assert await systemd.next() == "READY=1\nSTATUS=MCP at home"
        for _ in range(2):
            assert await systemd.next() == "WATCHDOG=1"


async def test_a_service_that_could_not_start_is_not_ready(systemd: Listening) -> None:
    async with told(never, lambda: None, status="", env=systemd.env):
        with pytest.raises(TimeoutError):
            await systemd.next(WATCHDOG)


async def test_a_check_that_fails_stops_the_feeding_until_it_passes(systemd: Listening) -> None:
    problem = "the disk is gone"

    def check() -> None:
        if problem:
            raise Unavailable(problem, hint="")

    async with told(at_once, check, status="fine", env=systemd.env):
        assert (await systemd.next()).startswith("READY=1")
        assert await systemd.next() == "STATUS=The self-check failed: the disk is gone"
        with pytest.raises(TimeoutError):
            await systemd.next(WATCHDOG)
        problem = ""
        assert await systemd.next() == "STATUS=fine"
        assert await systemd.next() == "WATCHDOG=1"


async def test_a_loop_that_hangs_feeds_nothing(systemd: Listening) -> None:
    async with told(at_once, lambda: None, status="", env=systemd.env):
        await systemd.next()
        await systemd.next()
        systemd.waiting()
        time.sleep(2 * WATCHDOG)  # noqa: ASYNC251 - it hangs
        assert systemd.waiting() == []


async def test_without_systemd_nothing_happens() -> None:
    notify("READY=1", env={})
    async with told(at_once, lambda: None, status="", env={}):
        await asyncio.sleep(0)


def test_it_is_fed_well_before_the_time_is_over() -> None:
    assert FEEDS >= 2
