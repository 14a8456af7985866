"""One guest: what it is, and its power."""

from __future__ import annotations

import asyncio

import pytest

from pvemcp.call import Effect
from tests.scenarios.rig import Rig, ToolFault, rig


def guests(r: Rig, type_: str = "qemu", *, running: bool, ha: bool = False) -> list[int]:
    """Return the guests in this state: no templates, HA-managed ones only when asked."""
    managed = {int(sid.split(":")[1]) for sid in r.world.ha}
    return [
        guest.vmid
        for guest in r.world.guests.values()
        if guest.type == type_
        and guest.running == running
        and not guest.template
        and not guest.lock
        and (guest.vmid in managed) == ha
    ]


def a_guest(r: Rig, type_: str = "qemu", *, running: bool = True, ha: bool = False) -> int:
    """Return one guest in this state."""
    return guests(r, type_, running=running, ha=ha)[0]


async def test_a_guest_is_shown_whole_in_one_call(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        vmid = a_guest(r)
        text = await client.call("guest_get", guest=vmid)
        for part in (f"qemu/{vmid}", "running", "config (digest", "pending", "snapshots"):
            assert part in text


async def test_a_guest_is_found_by_its_name_in_any_case() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r)
        name = r.world.guests[vmid].name
        assert f"qemu/{vmid}" in await client.call("guest_get", guest=name.upper(), parts=[])


async def test_a_guest_that_was_just_made_is_found_by_its_name_and_listed_with_its_state() -> None:
    async with rig() as r, r.client() as client:
        template = next(g.vmid for g in r.world.guests.values() if g.template and g.type == "qemu")
        r.world.faults.unsampled.add(190)
        path = f"/nodes/pve1/qemu/{template}/clone"
        params = {"newid": 190, "name": "fresh"}
        await client.call("api_change", method="POST", path=path, params=params)
        assert "qemu/190 fresh" in await client.call("guest_get", guest="fresh", parts=[])
        rows = await client.data("inventory_find", where="name=fresh")
        assert [(row["vmid"], row["status"]) for row in rows["items"]] == [(190, "stopped")]


async def test_a_name_of_two_guests_is_refused_with_both() -> None:
    async with rig() as r, r.client() as client:
        first, second = sorted(r.world.guests)[:2]
        for vmid in (first, second):
            r.world.guests[vmid].config["name"] = "twin"
            r.world.guests[vmid].config["hostname"] = "twin"
        r.world.touch()
        with pytest.raises(ToolFault, match="2 guests are named twin") as error:
            await client.call("guest_get", guest="twin")
        assert str(first) in str(error.value)
        assert str(second) in str(error.value)


async def test_a_guest_that_is_not_there_is_answered_with_the_nearest() -> None:
    async with rig() as r, r.client() as client:
        name = r.world.guests[a_guest(r)].name
        with pytest.raises(ToolFault, match="not_found") as error:
            await client.call("guest_get", guest=name[:-1] + "_")
        assert name in str(error.value)


async def test_a_part_that_the_token_may_not_see_does_not_hide_the_others() -> None:
    async with rig() as r:
        vmid = a_guest(r)
        token = r.world.token("root@pam", "aud", privsep=True, roles={"/vms": "PVEAuditor"})
        r.world.faults.dead_node("none")
        async with r.client(token=token) as client:
            view = await client.data("guest_get", guest=vmid)
            assert view["status"]["status"] == "running"


@pytest.mark.parametrize(
    ("action", "before", "after"),
    [
        ("start", False, True),
        ("shutdown", True, False),
        ("stop", True, False),
        ("reboot", True, True),
        ("reset", True, True),
    ],
)
async def test_power_changes_the_guest_and_says_how_the_task_ended(
    action: str, before: bool, after: bool
) -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r, running=before)
        text = await client.call("guest_power", guests=vmid, action=action)
        assert ": OK after" in text
        assert r.world.guests[vmid].running == after


async def test_stop_is_refused_when_the_grant_may_only_change() -> None:
    async with rig() as r, r.client(ceiling=Effect.CHANGE) as client:
        vmid = a_guest(r)
        with pytest.raises(ToolFault, match="denied") as error:
            await client.call("guest_power", guests=vmid, action="stop")
        assert "--ceiling destroy" in str(error.value)
        assert r.world.guests[vmid].running
        assert not [key for key in r.world.requests if key[0] == "POST"]


async def test_power_is_not_listed_and_not_run_for_a_grant_that_may_only_read(era: str) -> None:
    async with rig() as r, r.client(ceiling=Effect.READ, era=era) as client:
        names = {tool.name for tool in (await client.mcp.list_tools()).tools}
        assert {"guest_power", "task_stop", "api_change", "api_destroy"}.isdisjoint(names)
        assert {"guest_get", "api_read"} <= names
        with pytest.raises(ToolFault, match="denied"):
            await client.call("guest_power", guests=a_guest(r), action="start")


async def test_a_task_that_fails_is_an_error_with_its_reason() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r, running=False)
        r.world.faults.fail_tasks("qmstart", "start failed: QEMU exited with code 1")
        with pytest.raises(ToolFault, match="task_failed") as error:
            await client.call("guest_power", guests=vmid, action="start")
        assert "QEMU exited with code 1" in str(error.value)


async def test_a_locked_guest_is_said_to_be_locked() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r, running=False)
        r.world.faults.lock_guest(vmid)
        with pytest.raises(ToolFault, match=r"locked \(backup\)"):
            await client.call("guest_power", guests=vmid, action="start")


async def test_a_guest_in_the_wanted_state_is_left_alone() -> None:
    async with rig() as r, r.client() as client:
        text = await client.call("guest_power", guests=a_guest(r), action="start")
        assert "is running already" in text
        assert not [key for key in r.world.requests if key[0] == "POST"]


async def test_several_guests_are_worked_on_and_each_outcome_is_told() -> None:
    async with rig() as r, r.client() as client:
        running = guests(r, running=True)[:2] + guests(r, "lxc", running=True)[:1]
        text = await client.call("guest_power", guests=running, action="shutdown")
        assert len(text.split("\n")) >= len(running)
        assert all(not r.world.guests[vmid].running for vmid in running)


async def test_one_failure_among_several_is_an_error_that_names_the_others_too() -> None:
    async with rig() as r, r.client() as client:
        good, bad = guests(r, running=False)[:2]
        r.world.faults.lock_guest(bad)
        with pytest.raises(ToolFault, match="failed for 1 of 2") as error:
            await client.call("guest_power", guests=[good, bad], action="start")
        assert f"qemu/{good}" in str(error.value)
        assert "locked" in str(error.value)
        assert r.world.guests[good].running


async def test_a_start_under_ha_is_followed_to_the_real_start() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r, running=True, ha=True)
        await client.call("guest_power", guests=vmid, action="stop")
        assert not r.world.guests[vmid].running
        text = await client.call("guest_power", guests=vmid, action="start")
        assert r.world.guests[vmid].running
        assert "HA" in text


async def test_a_long_task_reports_progress_and_hands_back_its_upid(era: str) -> None:
    async with rig(progress="manual") as r, r.client(era=era) as client:
        vmid = a_guest(r, running=False)
        text = await client.call("guest_power", guests=vmid, action="start", wait=1)
        assert "still running" in text
        assert "UPID:" in text
        assert client.reports
        progress = [report[0] for report in client.reports]
        assert progress == sorted(set(progress))


async def test_other_calls_go_on_while_one_waits() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        vmid = a_guest(r, running=False)
        waiting = asyncio.create_task(
            client.call("guest_power", guests=vmid, action="start", wait=60)
        )
        upid = await r.until_running()
        await client.call("cluster_overview")
        r.world.tasks.finish(upid)
        assert ": OK after" in await waiting
