"""A command on the host, against a bare process, a cold SSH, and SSH to what SSHes again."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from tests.host import needs
from tests.host.claims import sweep
from tests.host.install import install
from tests.host.machine import Machine
from tests.host.served import Served, serve
from tests.scenarios.rig import Caller

from bench.report import Report, percentile

ROUNDS = 30
CROWD = 50
OPTIONS = (
    *("-q", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
    *("-o", "UserKnownHostsFile=/dev/null"),
)
SETUP = """\
set -e
useradd --create-home limited 2>/dev/null || true
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
install -d -m 0700 -o limited ~limited/.ssh
install -m 0600 -o limited /root/.ssh/id_ed25519.pub ~limited/.ssh/authorized_keys
systemctl start ssh
"""


async def run(report: Report, folder: Path) -> None:
    """Measure on a Debian host with systemd, which this boots."""
    report.title("a command on the host (Debian 13 with systemd, effect read)")
    if lacking := needs.missing():
        print(f"  left out: {lacking}")
        return
    sweep()
    with Machine.create("trixie", folder / "machine") as machine:
        machine.boot()
        install(machine)
        host = serve(machine)
        key = _ssh(machine, folder)
        async with host.client(host.grant("bench", ceiling="read")) as client:
            await _alone(report, client, machine, key)
            await _crowd(report, client, host)


def _ssh(machine: Machine, folder: Path) -> Path:
    """Let us in as root, and root in as another user, as the old construction had it."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    machine.run(["install", "-d", "-m", "0700", "/root/.ssh"])
    machine.copy_in(key.with_suffix(".pub").read_bytes(), "/root/.ssh/authorized_keys", mode=0o600)
    machine.run(["bash", "-c", SETUP])
    return key


async def _alone(report: Report, client: Caller, machine: Machine, key: Path) -> None:
    ssh = ("ssh", *OPTIONS, "-i", str(key), f"root@{machine.address}")
    hop = (*ssh, "ssh", *OPTIONS, "limited@localhost", "true")
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "ours": lambda: client.call("host_run", command="true"),
        "bare": lambda: _process("true"),
        "ssh": lambda: _process(*ssh, "true"),
        "chain": lambda: _process(*hop),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 2):
        for name, way in ways.items():
            started = time.perf_counter()
            await way()
            if turn > 1:
                times[name].append((time.perf_counter() - started) * 1000)
    for name, what in (
        ("ours", "host_run true"),
        ("bare", "asyncio.create_subprocess_exec"),
        ("ssh", "a cold SSH"),
        ("chain", "SSH to a process that SSHes again"),
    ):
        note = f"p95 {percentile(times[name], 0.95):.0f} ms"
        report.info(f"{what}: p50", median(times[name]), "ms", note)
    report.least("faster than the old chain", _ratio(times, "chain"), 8.0, "x")
    report.info("faster than a cold SSH", _ratio(times, "ssh"), "x")


def _ratio(times: dict[str, list[float]], name: str) -> float:
    return median(t / o for t, o in zip(times[name], times["ours"], strict=True))


async def _process(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stdin=-3, stdout=-3, stderr=-3)
    if await process.wait():
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}")


async def _crowd(report: Report, client: Caller, host: Served) -> None:
    """Run many commands at once, while another client lists guests."""
    async with host.client(host.grant("other", ceiling="read")) as other:
        idle = [await _timed(other) for _ in range(50)]
        started = time.perf_counter()
        commands = [client.call("host_run", command="sleep 0.5") for _ in range(CROWD)]
        crowd = asyncio.gather(*commands)
        busy = []
        while not crowd.done():
            busy.append(await _timed(other))
            await asyncio.sleep(0.01)
        await crowd
        took = (time.perf_counter() - started) * 1000
    report.info(f"{CROWD} x sleep 0.5 at once: all done after", took, "ms")
    report.info("another client's list, p50: idle", median(idle), "ms")
    report.info("another client's list, p50: meanwhile", median(busy), "ms", f"{len(busy)} calls")
    report.most("another client's list, p99: meanwhile", percentile(busy, 0.99), 100, "ms")


async def _timed(client: Caller) -> float:
    started = time.perf_counter()
    await client.call("inventory_find", limit=5)
    return (time.perf_counter() - started) * 1000
