"""Commands, shells and jobs of a client of the installed service, and how they end."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.host import needs
from tests.host.machine import Machine
from tests.host.served import UNIT, Served
from tests.host.test_helper import units, working
from tests.host.waiting import until
from tests.scenarios.rig import ERAS, Caller, ToolFault

SOAK = float(os.environ.get("PVEMCP_SOAK_SECONDS", "15"))


@pytest.mark.parametrize("era", ERAS)
async def test_whoami_is_the_user_of_the_sandbox(host: Served, era: str) -> None:
    async with host.client(host.grant(f"who-{era}"), era=era) as client:
        text = await client.call("host_run", command="whoami")
        assert re.search(r"^exit 0 .*\npvemcp-read-[0-9a-f]{16}$", text)
        text = await client.call("host_run", command="whoami; pwd", effect="change")
        assert text.endswith("\npvemcp-run\n/var/lib/pvemcp-run")


async def test_what_may_change_has_a_workspace_and_nothing_else(host: Served) -> None:
    async with host.client(host.grant("worker", ceiling="change")) as client:
        await client.call("host_run", command="echo kept > note", effect="change")
        text = await client.call("host_run", command="cat note", effect="change")
        assert text.endswith("\nkept")
        for place in ("/etc/x", "/usr/x", "/root/x", "/var/lib/pvemcp/x", "/run/x", "/home/x"):
            await client.call("host_run", command=f"touch {place}", effect="change")
            assert not (host.machine.root / place.lstrip("/")).exists()
        for secret in ("/etc/shadow", "/var/lib/pvemcp/pvemcp.db", "/etc/pvemcp/token"):
            text = await client.call("host_run", command=f"wc -c {secret}", effect="change")
            assert not text.startswith("exit 0")


async def test_two_commands_have_users_of_their_own(host: Served) -> None:
    async with host.client(host.grant("two", ceiling="read")) as client:
        slow = asyncio.create_task(client.call("host_run", command="id -u; sleep 3; echo alive"))
        kill = "for p in /proc/[0-9]*; do kill -9 ${p#/proc/}; done; id -u"
        other = await client.call("host_run", command=kill)
        text = await slow
        assert text.endswith("\nalive")
        assert text.splitlines()[1] not in other


async def test_a_diagnostic_of_root_reads_what_root_reads(host: Served) -> None:
    async with host.client(host.grant("diagnosing", ceiling="read")) as client:
        text = await client.call(
            "host_diagnose", operation="unit-status", params={"unit": "pvemcp-helper.socket"}
        )
        assert "active (running)" in text
        text = await client.call("host_diagnose", operation="journal", params={"lines": 5})
        assert text.startswith("exit 0")
        assert len(text.splitlines()) <= 6


# How they end


@pytest.mark.parametrize("era", ERAS)
async def test_a_time_out_and_a_cancelled_call_end_the_whole_tree(host: Served, era: str) -> None:
    tree = "trap '' TERM INT HUP; setsid sleep 6161 & (sleep 6162 &); sleep 6163"
    async with host.client(host.grant(f"ending-{era}", ceiling="read"), era=era) as client:
        text = await client.call("host_run", command=tree, timeout=1)
        assert "ended at its time limit" in text
        await _gone(host.machine, "sleep 616")
        call = asyncio.create_task(client.call("host_run", command=tree, timeout=100))
        await _until(lambda: "sleep 6163" in working(host.machine))
        call.cancel()
        await asyncio.wait([call])
        await _gone(host.machine, "sleep 616")


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_vanishes_ends_its_commands(host: Served, era: str) -> None:
    secret = host.grant(f"vanishing-{era}", ceiling="read")

    async def use() -> None:
        async with host.client(secret, era=era) as client:
            await client.call("host_run", command="sleep 7171 & sleep 7172", timeout=100)

    using = asyncio.create_task(use())
    await _until(lambda: "sleep 7172" in working(host.machine))
    using.cancel()
    await asyncio.wait([using])
    await _gone(host.machine, "sleep 717")


async def _until(true: Callable[[], object]) -> None:
    await asyncio.to_thread(until, lambda: true() or None, "a condition", seconds=20)


async def _gone(machine: Machine, what: str) -> None:
    await _until(lambda: what not in working(machine))


# What a restart of the service leaves


async def test_jobs_outlive_a_restart_and_shells_say_what_became_of_them(host: Served) -> None:
    secret = host.grant("restarting")
    async with host.client(secret) as client:
        job = await _start(client, "for i in 1 2 3 4; do echo tick $i; sleep 1; done; exit 6")
        work = await _start(client, "echo changed > by-job; echo done", effect="change")
        shell = (await client.call("shell_open")).split()[0]
        await client.call("shell_send", shell=shell, text="sleep 8181", wait=0)
    host.machine.run(["systemctl", "restart", UNIT])
    host.restart()
    await _gone(host.machine, "sleep 8181")
    async with host.client(secret) as client:
        with pytest.raises(ToolFault, match="the service was restarted since"):
            await client.call("shell_read", shell=shell)
        text, cursor = "", ""
        while "ended" not in text.rsplit("\n", 1)[-1]:
            page = await client.call("job_read", job=job, cursor=cursor, wait=20)
            cursor = page.rsplit('cursor="', 1)[1].split('"')[0]
            text += "\n" + page
        ticks = re.findall(r"tick (\d)", text)
        assert ticks == ["1", "2", "3", "4"]
        assert "ended: exit 6" in text
        listed = await client.call("job_list")
        assert re.search(rf"{job}\t.*exit 6", listed)
        assert re.search(rf"{work}\t.*change.*exit 0", listed)


async def _start(client: Caller, command: str, **more: str) -> str:
    return (await client.call("job_start", command=command, **more)).split()[0]


async def test_a_job_is_stopped_read_in_pages_and_seen_by_its_owner_only(host: Served) -> None:
    secret, other = host.grant("job-owner"), host.grant("job-other")
    async with host.client(secret) as client, host.client(other) as stranger:
        job = await _start(client, "seq 1 20000; echo 'password=hunter2hunter2'; sleep 9191")
        for tool in ("job_read", "job_stop"):
            with pytest.raises(ToolFault, match="no job"):
                await stranger.call(tool, job=job)
        assert job not in await stranger.call("job_list")
        cursor, numbers = "", ""
        while True:
            page = await client.call("job_read", job=job, cursor=cursor, wait=5)
            body, tail = page.rsplit("\n[", 1)
            numbers += body + "\n"
            cursor = tail.split('cursor="')[1].split('"')[0]
            if "more to read" not in tail:
                break
        found = numbers.split()
        assert "".join(found[:-1]) == "".join(map(str, range(1, 20001)))
        await _until(lambda: "sleep 9191" in working(host.machine))
        assert "stopped" in await client.call("job_stop", job=job)
        await _gone(host.machine, "sleep 9191")
        page = await client.call("job_read", job=job, cursor=cursor)
        assert "ended: killed" in page


# Many at once, for a while


@dataclass
class _Soaked:
    """One shell at work, and what it wrote."""

    client: Caller
    shell: str
    seen: str = ""

    async def send(self, **what: object) -> None:
        self.seen += _body(await self.client.call("shell_send", shell=self.shell, **what))

    async def read(self, wait: float = 0) -> None:
        self.seen += _body(await self.client.call("shell_read", shell=self.shell, wait=wait))

    async def has(self, word: str) -> None:
        async with asyncio.timeout(60):
            while word not in self.seen:
                await self.read(wait=5)

    async def interrupt(self, number: int) -> None:
        """Interrupt a command once it has the terminal: before, nothing would be interrupted."""
        await self.send(text=f"sh -c 'echo begun {number}; exec sleep 500'", wait=0)
        await self.has(f"begun {number}")
        await self.send(key="ctrl-c", wait=5)

    async def work(self, number: int, deadline: float) -> None:
        """Give it mixed input, and check that each answer came once, and in order."""
        await self.send(text="stty -echo; PS1=")
        count = 0
        while time.monotonic() < deadline:
            lines = "; ".join(f"echo {number}-{count + i}-ü" for i in range(5))
            await self.send(text=lines, wait=5)
            count += 5
            if count % 20 == 0:
                await self.interrupt(count)
            if count % 35 == 0:
                await self.send(rows=30 + count % 20, columns=200, wait=0)
            await self.read()
        await self.has(f"{number}-{count - 1}-ü")
        numbers = re.findall(rf"{number}-(\d+)-ü", self.seen)
        assert numbers == [str(n) for n in range(count)], (number, count, len(numbers))


async def _soak(client: Caller, number: int, deadline: float) -> None:
    shell = (await client.call("shell_open", columns=200)).split()[0]
    try:
        await _Soaked(client, shell).work(number, deadline)
    finally:
        await client.call("shell_close", shell=shell)


def _body(page: str) -> str:
    """Return what a page has of the shell's output; a page may end within a line."""
    body = page.rpartition("\n[shell-")[0]
    return "" if body == "[nothing new]" else body


@pytest.mark.timeout(600)
async def test_twenty_shells_lose_nothing_and_leave_nothing(host: Served) -> None:
    machine = host.machine
    _on_one_debian(machine)
    secrets = [host.grant(f"soak-{number}", ceiling="read") for number in range(4)]
    async with host.client(secrets[0]) as client:
        await client.call("host_run", command="true")
    before = _held(machine)
    deadline = time.monotonic() + SOAK

    async def grant(number: int) -> None:
        async with host.client(secrets[number]) as client:
            await asyncio.gather(*(_soak(client, number * 5 + i, deadline) for i in range(5)))

    await asyncio.gather(*map(grant, range(4)))
    await _until(lambda: len(units(machine)) <= 2)
    await _until(
        lambda: all(now <= was + 3 for now, was in zip(_held(machine), before, strict=True))
    )


def _on_one_debian(machine: Machine) -> None:
    """Leave out on the other what asks no more of its systemd than the tests before."""
    if reason := needs.once(machine.suite, "trixie"):
        pytest.skip(reason)


def _held(machine: Machine) -> tuple[int, int, int, int]:
    """Return how many descriptors the service and the helper hold, terminals, folders for /tmp."""
    script = (
        "for u in pvemcp.service pvemcp-helper.service; do "
        "ls /proc/$(systemctl show -P MainPID $u)/fd | wc -l; done; ls /dev/pts | wc -l; "
        "ls /run/pvemcp-tmp | wc -l"
    )
    a, b, c, d = map(int, machine.run(["bash", "-c", script]).stdout.split())
    return a, b, c, d


async def test_fifty_commands_do_not_starve_other_calls(host: Served) -> None:
    _on_one_debian(host.machine)
    async with host.client(host.grant("crowd", ceiling="read")) as client:
        started = time.monotonic()
        crowd = [
            asyncio.create_task(client.call("host_run", command=f"sleep 0.5; echo {i}"))
            for i in range(50)
        ]
        slowest = 0.0
        while not all(task.done() for task in crowd):
            begun = time.monotonic()
            assert "12 guests" in await client.call("inventory_find")
            slowest = max(slowest, time.monotonic() - begun)
        assert [task.result().splitlines()[-1] for task in crowd] == [str(i) for i in range(50)]
        assert slowest < time.monotonic() - started


# What only a machine with enforced limits shows


async def test_limits_hold_where_the_kernel_enforces_them(limited_host: Served) -> None:
    """In cgroup v1 mode: here the v2 controllers of this computer's kernel cannot be had."""
    async with limited_host.client(limited_host.grant("limited", ceiling="read")) as client:
        memory = "python3 -c 'a = bytearray(700 << 20); print(\"had it\")'"
        text = await client.call("host_run", command=memory)
        assert "had it" not in text
        assert "SIGKILL" in text or "exit 137" in text or "sandbox was killed" in text
        forks = "for i in $(seq 300); do sleep 5 & done; jobs -p | wc -l; kill $(jobs -p)"
        text = await client.call("host_run", command=forks, timeout=30)
        assert "fork: " in text
        burn = (
            "python3 -c 'import time, os\ns = time.time()\nwhile time.time() - s < 3: pass\n"
            "print(sum(os.times()[:2]) / (time.time() - s))' & "
        )
        text = await client.call("host_run", command=f"{burn} {burn} wait", timeout=60)
        shares = [float(line) for line in text.splitlines()[1:3]]
        assert sum(shares) < 1.4  # CPUQuota=100% of one processor, of two
