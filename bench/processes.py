"""The servers under measurement: each a process of its own, started and ended here."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.client import Client, Failure

START_LIMIT = 30.0
"""Seconds that a server may take to answer."""
_ROOT = Path(__file__).resolve().parents[1]
_PVEMCP = (sys.executable, "-m", "pvemcp")
_SECRET = re.compile(r"pvemcp_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Server:
    """A running MCP server."""

    name: str
    url: str
    secret: str
    pid: int
    cold: float
    """Seconds from the start of the process to its answered tools/list."""

    def client(self) -> Client:
        """Return a client that is still to be connected."""
        return Client(self.url, self.secret)

    def cpu(self) -> float:
        """Return the CPU seconds that the process has used, user and system.

        What proc(5) stat tells in ticks of 10 ms, read from the process's own clock in
        nanoseconds (clock_getcpuclockid(3)).
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss(self) -> float:
        """Return the resident memory in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise Failure(f"{self.name} has ended")


@dataclass(frozen=True, slots=True)
class FakePve:
    """A running fake PVE."""

    port: int

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    def set_up(self, **settings: Any) -> dict[str, int]:
        """Set `guests`, `delay`, `hang`; return `requests` and `connections` since the last."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"/bench?{urlencode(settings)}")
            counted: dict[str, int] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return counted


@contextmanager
def fake_pve() -> Iterator[FakePve]:
    """Run a fake PVE."""
    fake = FakePve(_free_port())
    with _process([sys.executable, "-m", "bench.fake_pve", str(fake.port)], None):
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                fake.set_up()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield fake


def environment(state: Path, pve_url: str, port: int, **more: str) -> dict[str, str]:
    """Return the environment of a pvemcp: nothing of the caller's own settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PVEMCP_")}
    return inherited | {
        "PVEMCP_STATE_DIR": str(state),
        "PVEMCP_PVE_URL": pve_url,
        "PVEMCP_PVE_TOKEN_ID": "root@pam!bench",
        "PVEMCP_PVE_TOKEN_SECRET": "01234567-89ab-cdef-0123-456789abcdef",
        "PVEMCP_LISTEN": f"127.0.0.1:{port}",
        "PVEMCP_CALLS_PER_MINUTE": "1000000",  # it is one grant that makes all calls
        "PVEMCP_REQUESTS_PER_MINUTE": "1000000",
        **more,
    }


def pvemcp(env: dict[str, str], *arguments: str) -> str:
    """Run a pvemcp command to its end and return what it printed."""
    done = subprocess.run(
        [*_PVEMCP, *arguments], env=env, cwd=_ROOT, check=True, capture_output=True, text=True,
        timeout=START_LIMIT,
    )  # fmt: skip
    return done.stdout + done.stderr


@asynccontextmanager
async def product(
    folder: Path, pve: FakePve, *, profile: Path | None = None, **more: str
) -> AsyncIterator[Server]:
    """Run `pvemcp serve` with a grant; its state stays in `folder` for the next start.

    With `profile` it runs under cProfile, which writes that file when the service ends. `more` is
    added to its environment.
    """
    env = environment(folder, pve.url, _free_port(), **more)
    secret = _granted(env, folder)
    command = [*_PVEMCP, "serve"]
    if profile is not None:
        command[1:1] = ["-m", "cProfile", "-o", str(profile)]
    async with _server("pvemcp", command, env, secret, folder) as server:
        yield server


@asynccontextmanager
async def unguarded(folder: Path, pve: FakePve, **more: str) -> AsyncIterator[Server]:
    """Run the product without policy, audit and journal; `more` is added to its environment."""
    env = environment(folder, pve.url, _free_port(), **more)
    secret = _granted(env, folder)
    command = [sys.executable, "-m", "bench.unguarded"]
    async with _server("unguarded", command, env, secret, folder) as server:
        yield server


def _granted(env: dict[str, str], folder: Path) -> str:
    """Return the secret of the grant, which is made at the first start."""
    kept = folder / "bench-secret"
    if not kept.exists():
        printed = pvemcp(env, "grant", "create", "bench", "--ceiling", "destroy")
        kept.write_text(_SECRET.findall(printed)[0])
    return kept.read_text()


@asynccontextmanager
async def yardstick(folder: Path, pve: FakePve) -> AsyncIterator[Server]:
    """Run the yardstick."""
    env = environment(folder, pve.url, _free_port())
    command = [sys.executable, "-m", "bench.yardstick", pve.url, _port(env)]
    async with _server("yardstick", command, env, "", folder) as server:
        yield server


@asynccontextmanager
async def _server(
    name: str, command: list[str], env: dict[str, str], secret: str, folder: Path
) -> AsyncIterator[Server]:
    url = f"http://127.0.0.1:{_port(env)}/mcp"
    log = folder / f"{name}.log"
    started = time.perf_counter()
    with _process(command, log, env) as process:
        await _answered(process, Client(url, secret), log)
        cold = time.perf_counter() - started
        yield Server(name, url, secret, process.pid, cold)


async def _answered(process: subprocess.Popen[bytes], client: Client, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            async with client:
                await client.request("tools/list", {})
                return
        await asyncio.sleep(0.005)
    raise Failure(f"{process.args!r} does not answer: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:]


@contextmanager
def _process(
    command: list[str], log: Path | None, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with contextlib.ExitStack() as stack:
        err = stack.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(command, env=env, cwd=_ROOT, stdout=err, stderr=err)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)  # as Ctrl-C: a profiler gets to write its file
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(env: dict[str, str]) -> str:
    return env["PVEMCP_LISTEN"].rpartition(":")[2]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
