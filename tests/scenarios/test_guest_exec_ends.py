"""How commands in guests end: at their time limit, cancelled, or out of sight."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from pvemcp.access.freeze import Freezes
from pvemcp.tools import agent, posix
from pvemcp.tools.posix import kill
from tests.scenarios.inner import Inner
from tests.scenarios.rig import ToolFault
from tests.scenarios.test_freeze import FREE
from tests.scenarios.test_guest_exec import KINDS, RUN, end, place, running
from tests.scenarios.test_guests import a_guest
from tests.scenarios.test_host import until
from tests.scenarios.test_http import web


@pytest.mark.parametrize("kind", KINDS)
async def test_a_time_limit_ends_the_whole_tree_in_the_guest(kind: str) -> None:
    async with place(kind) as p:
        command = f"trap '' TERM; (setsid sleep 3131.{RUN} &) ; sleep 3132.{RUN}"
        text = await p.call("guest_exec", command=command, timeout=1)
        assert "ended at its time limit" in text
        await until(lambda: not running(f"sleep 313[12].{RUN}"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_ends_the_whole_tree_in_the_guest(kind: str) -> None:
    async with place(kind) as p:
        command = f"(setsid sleep 4141.{RUN} &) ; sleep 4142.{RUN}"
        call = asyncio.create_task(p.call("guest_exec", command=command, timeout=100))
        await until(lambda: running(f"sleep 4142.{RUN}"))
        call.cancel()
        await asyncio.wait([call])
        await until(lambda: not running(f"sleep 414[12].{RUN}"))


@pytest.mark.parametrize("mode", ["read-only", "all", "revoked"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_freeze_ends_what_runs_in_guests(kind: str, mode: str) -> None:
    inner = Inner()
    try:
        async with web(policy=None, rules=FREE) as w, w.client() as client:
            vmid = a_guest(w.rig, kind)
            w.rig.world.guests[vmid].system = inner
            w.rig.world.guests[vmid].agent_running = True
            command = f"(setsid sleep 5151.{RUN} &) ; sleep 5152.{RUN}"
            asked = client.call("guest_exec", guest=vmid, command=command, timeout=100)
            call = asyncio.create_task(asked)
            await until(lambda: running(f"sleep 5152.{RUN}"))
            if mode == "revoked":
                w.grants.revoke("laptop")
            else:
                Freezes(w.rig.store).freeze(mode, client="laptop", by="root")
            await until(lambda: not running(f"sleep 515[12].{RUN}"))
            said = "revoked" if mode == "revoked" else "laptop (is|are) frozen"
            async with asyncio.timeout(20):
                with pytest.raises(ToolFault, match=said):
                    await call
    finally:
        inner.close()
        end(f"sleep 515[12].{RUN}")


def test_the_killer_spares_what_is_not_the_calls() -> None:
    mine = subprocess.Popen(["sleep", "50"], env={**os.environ, "PVEMCP_CALL": "c1"})
    other = subprocess.Popen(["sleep", "50"], env={**os.environ, "PVEMCP_CALL": "c12"})
    try:
        subprocess.run(kill("c1"), check=True)
        assert mine.wait(10) == -15
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_has_lost_the_marker_is_ended_too(kind: str) -> None:
    async with place(kind) as p:
        command = (
            f"(env -i sleep 5151.{RUN} &) ; env -i setsid sleep 5152.{RUN} & exec sleep 5153.{RUN}"
        )
        text = await p.call("guest_exec", command=command, timeout=1)
        assert "ended at its time limit" in text
        await until(lambda: not running(f"sleep 515[123].{RUN}"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_may_clean_up_at_its_time_limit(kind: str) -> None:
    async with place(kind) as p:
        command = "trap 'echo tidied; exit 7' TERM; echo begun; while :; do sleep 0.1; done"
        text = await p.call("guest_exec", command=command, timeout=1)
        assert "begun" in text
        assert "tidied" in text


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_is_cancelled_as_it_starts_leaves_nothing_behind(kind: str) -> None:
    async with place(kind) as p:
        p.rig.world.faults.slow_node("pve1", 0.2)
        for n in range(6):
            command = f"sleep 6161.{RUN}"
            call = asyncio.create_task(p.call("guest_exec", command=command, timeout=100))
            await asyncio.sleep(0.15 * n)  # at different points of its way
            call.cancel()
            await asyncio.wait([call])
        p.rig.world.faults.slow_node("pve1", 0)
        await until(_nothing_in_background)
        assert not running(f"sleep 6161.{RUN}")


class Windows(Inner):
    """A guest whose PowerShell runs for long, and whose taskkill works."""

    def start(self, argv: list[str], stdin: bytes) -> int:
        if argv[0] == "taskkill.exe":
            self.runs[int(argv[-1])].process.kill()
            argv = ["true", *argv]
        elif argv[0] == "powershell.exe":
            argv = ["sleep", f"9191.{RUN}"]
        return super().start(argv, stdin)


async def test_a_time_limit_ends_the_tree_of_a_windows_command() -> None:
    async with place("qemu") as p:
        guest = p.rig.world.guests[p.vmid]
        guest.config["ostype"], guest.system = "win11", Windows()
        p.rig.world.touch()
        text = await p.call("guest_exec", command="Wait-Event", timeout=1)
        assert "ended at its time limit" in text
        started = guest.system.started
        assert started[-1][1:5] == ["taskkill.exe", "/F", "/T", "/PID"]
        assert not running(f"sleep 9191.{RUN}")
        with pytest.raises(ToolFault, match="Windows takes"):
            await p.call("guest_exec", command="x" * 20_000)
        with pytest.raises(ToolFault, match="cannot name a variable"):
            await p.call("guest_exec", command="x", env={"A;calc": "1"})


@pytest.mark.parametrize("text", ["sleep 80", "sh -c 'sleep 80; true'"])
def test_the_killer_ends_a_command_that_has_cleared_its_environment(text: str) -> None:
    clean = f"exec env -i PATH=/usr/bin:/bin {text}"
    run = subprocess.Popen(posix.command(clean, cwd="", env={}, call="c7"))
    while b"PVEMCP_CALL" in Path(f"/proc/{run.pid}/environ").read_bytes() or not _has(run, "80"):
        pass
    subprocess.run(posix.kill("c7", run.pid), check=True)
    assert run.wait(10) < 0


def _has(run: subprocess.Popen[bytes], word: str) -> bool:
    return word.encode() in Path(f"/proc/{run.pid}/cmdline").read_bytes().split(b"PATH")[-1]


def test_the_killer_spares_another_parents_process_of_that_number() -> None:
    script = "sleep 81 & echo $!; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        number = int(other.stdout.readline())
        subprocess.run(posix.kill("c8", number), check=True)
        assert Path(f"/proc/{number}").exists()
        subprocess.run(["kill", str(number)], check=True)


def _nothing_in_background() -> bool:
    return not agent.background
