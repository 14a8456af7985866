"""`pvemcp demo` and `pvemcp simulate` as processes: what they print, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.scenarios.browsing import Person
from tests.scenarios.test_process import call, names


async def test_the_demo_prints_all_that_a_client_needs(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pvemcp", "demo", "--port", "0"),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    words = ""
    while "claude mcp add" not in words:
        words += (await process.stdout.readline()).decode()
    line = next(line for line in words.split("\n") if "claude mcp add" in line)
    assert line.strip().startswith("claude mcp add --transport http pvemcp http://127.0.0.1:")
    url, secret = line.split()[6], line.split("Bearer ")[1].strip('"')
    async with aiohttp.ClientSession() as session:
        assert "12 guests" in await call(session, url, secret, "inventory_find", {})
    while "password " not in words:
        words += (await process.stdout.readline()).decode()
    page = next(line.split()[1] for line in words.split("\n") if line.startswith("  page "))
    assert page == f"{url.removesuffix('/mcp')}/page/"
    person = Person(page.removesuffix("/page/"))
    entered = await person.log_in("root@pam", words.rpartition("password ")[2].split()[0], "pam")
    assert entered.status == 303
    while "approvals list" not in words:
        words += (await process.stdout.readline()).decode()
    name, _, folder = words.rpartition("export ")[2].split()[0].partition("=")
    listed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pvemcp", "grant", "list"),
        env={"PATH": os.environ["PATH"], name: folder},
        stdout=asyncio.subprocess.PIPE,
    )
    assert b"demo" in (await listed.communicate())[0]
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def ignores(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    [mask] = [line.split()[1] for line in status if line.startswith("SigIgn")]
    return bool(int(mask, 16) & 1 << (number - 1))


@asynccontextmanager
async def tried_out(
    tmp_path: Path, *words: str, before: tuple[str, ...] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run demo or simulate, which keep their files in `tmp_path`, until it has said everything."""
    process = await asyncio.create_subprocess_exec(
        *(*before, sys.executable, "-m", "pvemcp", *words),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        while b"Ctrl-C ends it" not in (line := await process.stdout.readline()):
            assert line
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["demo", "simulate"])
async def test_nothing_is_left_when_the_terminal_of_a_tryout_is_closed(
    tmp_path: Path, command: str, how: signal.Signals
) -> None:
    async with tried_out(tmp_path, command, "--port", "0") as process:
        assert names(tmp_path)
        process.send_signal(how)
        assert await process.wait() == 0
    assert names(tmp_path) == []


async def test_nohup_keeps_a_tryout_running(tmp_path: Path) -> None:
    words = ("simulate", "--port", "0")
    async with tried_out(tmp_path, *words, before=("nohup",)) as process:
        assert ignores(process.pid, signal.SIGHUP)
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("command", "remedy"),
    [("demo", "make demo PORT=9090 (pvemcp demo --port 9090)"), ("simulate", "--port")],
)
async def test_a_tryout_on_a_busy_port_says_how_to_take_another(
    tmp_path: Path, command: str, remedy: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pvemcp", command, "--port", str(busy.getsockname()[1])),
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert process.returncode == 2
    assert "address already in use" in said.decode()
    assert remedy in said.decode()
    assert "PVEMCP_LISTEN" not in said.decode()
    assert "Traceback" not in said.decode()
    assert names(tmp_path) == []
