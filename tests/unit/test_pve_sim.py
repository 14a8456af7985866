"""The client against the simulated PVE: real refusals, tasks, rights and outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest

from pvemcp.call import ApiToken
from pvemcp.errors import (
    Conflict,
    Denied,
    Missing,
    TaskFailed,
    Unauthenticated,
    Unavailable,
    Uncertain,
)
from pvemcp.pve.client import Pve, PveClient
from pvemcp.pve.tasks import follow_ha, run_task
from pvemcp.sim.http import serve
from pvemcp.sim.world import World, make_world
from tests.unit.pve_server import allow, new_call

VM = "/nodes/pve1/qemu/100"


@asynccontextmanager
async def pve_of(world: World, *, token: tuple[str, str] | None = None) -> AsyncIterator[Pve]:
    with TemporaryDirectory(prefix="pvemcp-") as folder:
        uds = str(Path(folder) / "pve.sock")
        async with (
            serve(world, uds=uds, tls=False),
            PveClient("http://localhost", socket=uds, permit=allow) as client,
        ):
            yield client.bind(new_call(ApiToken(*(token or world.token()))))


def homelab(progress: Literal["immediate", "manual", "timed"] = "immediate") -> World:
    return make_world("homelab", progress=progress)


async def test_a_guest_is_stopped_and_started() -> None:
    async with pve_of(homelab()) as pve:
        for action, state in (("stop", "stopped"), ("start", "running")):
            upid = await pve.post(f"{VM}/status/{action}")
            assert (await run_task(pve, upid, wait=10)).status == "ok"
            assert (await pve.get(f"{VM}/status/current"))["status"] == state


async def test_a_task_that_fails_late_tells_why() -> None:
    world = homelab()
    world.faults.fail_tasks("qmstop", "command 'x' failed: exit code 1")
    async with pve_of(world) as pve:
        upid = await pve.post(f"{VM}/status/stop")
        with pytest.raises(TaskFailed, match="exit code 1"):
            await run_task(pve, upid, wait=10)


async def test_a_running_task_is_followed_while_its_log_grows() -> None:
    world = homelab("manual")
    async with pve_of(world) as pve:
        upid = await pve.post(f"{VM}/clone", newid=990, full=True)
        assert (await run_task(pve, upid, wait=0)).status == "running"
        following = asyncio.create_task(run_task(pve, upid, wait=20))
        world.tasks.finish(upid)
        assert (await following).status == "ok"


async def test_a_locked_guest_is_a_conflict() -> None:
    world = homelab()
    world.faults.lock_guest(100, "backup")
    async with pve_of(world) as pve:
        with pytest.raises(Conflict, match="locked") as caught:
            await pve.put(f"{VM}/config", name="other")
        assert "a backup of it runs" in caught.value.hint


async def test_what_is_not_there_is_told_with_what_is() -> None:
    async with pve_of(homelab()) as pve:
        for path, words in (
            ("/nodes/pve1/qemu/999/config", "guest 999 does not exist"),
            ("/nodes/pve1/lxc/100/config", "is a virtual machine"),
            ("/nodes/pve2/status", "There is pve1"),
            (f"{VM}/snapshot/nope/config", "There is"),
        ):
            with pytest.raises(Missing) as caught:
                await pve.get(path)
            assert words in str(caught.value), path


async def test_a_wrong_secret_is_unauthenticated_and_never_shown() -> None:
    world = homelab()
    name, _ = world.token()
    async with pve_of(world, token=(name, "wrong-secret")) as pve:
        with pytest.raises(Unauthenticated) as caught:
            await pve.get("/version")
        assert name in caught.value.message
        assert "wrong-secret" not in str(caught.value) + repr(pve.call) + repr(caught.value)


async def test_a_token_without_rights_is_denied_and_its_lists_are_incomplete() -> None:
    world = homelab()
    world.add_user("weak@pve")
    token = world.token("weak@pve", "t", privsep=False)
    async with pve_of(world, token=token) as pve:
        with pytest.raises(Denied, match=r"lacks VM.Audit on /vms/100"):
            await pve.get(f"{VM}/config")
        assert await pve.resources("vm") == []
        assert "lacks VM.Audit on /vms" in await pve.blind("/vms", "VM.Audit")


async def test_outages_of_a_part_are_told_apart() -> None:
    world = homelab()
    async with pve_of(world) as pve:
        await pve.get("/version")
        world.faults.answer_596_after_write()
        with pytest.raises(Uncertain, match="596"):
            await pve.post(f"{VM}/status/stop")
        world.faults.drop_connections(1)
        await pve.get("/version")
        world.faults.drop_connections()
        with pytest.raises(Unavailable):
            await pve.get("/version")


async def test_an_ha_managed_guest_is_followed_beyond_the_request() -> None:
    world = homelab()
    guest = world.guests[104]
    path = f"/nodes/{guest.node}/{guest.type}/104"
    async with pve_of(world) as pve:
        verb, state = ("shutdown", "stopped") if guest.running else ("start", "running")
        upid = await pve.post(f"{path}/status/{verb}")
        end = await follow_ha(pve, upid, guest_path=path, state=state, wait=20)
        assert end.status == "ok"


async def test_a_list_of_ten_thousand_guests_is_one_request() -> None:
    world = make_world("large")
    async with pve_of(world) as pve:
        await pve.get("/version")
        before = sum(world.requests.values())
        rows = await asyncio.gather(*(pve.resources("vm") for _ in range(8)))
        assert sum(world.requests.values()) - before == 1
        assert len(rows[0]) == 10_000
        assert all(row is rows[0] for row in rows)


async def test_a_slow_node_does_not_slow_the_others() -> None:
    world = make_world("cluster")
    slow, other = (next(g for g in world.guests.values() if g.node == n) for n in ("pve2", "pve1"))
    world.faults.slow_node("pve2", 1.5)
    async with pve_of(world) as pve:
        await pve.get("/version")
        base = f"/nodes/pve2/{slow.type}/{slow.vmid}"
        parts = ("status/current", "config", "pending", "snapshot")
        hung = [asyncio.create_task(pve.get(f"{base}/{part}")) for part in parts]
        await asyncio.sleep(0)
        await pve.get(f"/nodes/pve1/{other.type}/{other.vmid}/status/current")
        assert not any(task.done() for task in hung)
        await asyncio.gather(*hung)
