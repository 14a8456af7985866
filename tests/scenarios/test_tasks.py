"""PVE tasks, and PVE tasks as MCP tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from pvemcp.call import Effect
from tests.scenarios.rig import Caller, Rig, ToolFault, rig
from tests.scenarios.test_guests import a_guest, guests

TASKS = "io.modelcontextprotocol/tasks"


async def started(r: Rig, client: Caller) -> str:
    """Start a guest in a world of manual progress and return the UPID."""
    vmid = a_guest(r, running=False)
    await client.call("guest_power", guests=vmid, action="start", wait=0)
    (upid,) = r.running()
    return upid


async def test_tasks_are_listed_newest_first(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        vmid = a_guest(r, running=False)
        await client.call("guest_power", guests=vmid, action="start")
        await client.call("guest_power", guests=vmid, action="shutdown")
        listed = await client.data("task_list", guest=vmid)
        assert [row["type"] for row in listed["items"]][:2] == ["qmshutdown", "qmstart"]
        assert {row["status"] for row in listed["items"][:2]} == {"OK"}


async def test_only_running_or_only_failed_tasks_are_listed_when_asked() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        assert upid in await client.call("task_list", state="running")
        r.world.tasks.finish(upid, "out of memory")
        assert upid not in await client.call("task_list", state="running")
        text = await client.call("task_list", state="error")
        assert upid in text
        assert "out of memory" in text


async def test_a_task_is_shown_with_its_log() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        assert ": running" in await client.call("task_get", upid=upid)
        r.world.tasks.finish(upid)
        text = await client.call("task_get", upid=upid, wait=5)
        assert ": OK" in text
        assert "TASK OK" in text


async def test_a_running_task_is_stopped() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        await client.call("task_stop", upid=upid)
        assert not r.running()
        with pytest.raises(ToolFault, match="has ended"):
            await client.call("task_stop", upid=upid)


async def test_the_tasks_of_a_guest_are_found_on_the_node_that_it_left() -> None:
    async with rig("cluster") as r, r.client() as client:
        vmid = next(v for v in guests(r, running=True) if r.world.online(r.world.guests[v].node))
        left = r.world.guests[vmid].node
        target = next(n for n in r.world.nodes if n != left and r.world.online(n))
        path = f"/nodes/{left}/qemu/{vmid}/migrate"
        params = {"target": target, "online": 1}
        await client.call("api_change", method="POST", path=path, params=params)
        assert r.world.guests[vmid].node == target
        assert f"qmigrate\t{vmid}\t{left}" in await client.call("task_list", guest=vmid)


@pytest.mark.parametrize("since", ["yesterday", "7", "d", "2026-13-01", "-5m"])
async def test_a_wrong_since_says_what_is_right(since: str) -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault, match="Write"):
            await client.call("task_list", since=since)


@pytest.mark.parametrize("upid", ["", "UPID:x", "qmstart", "UPID:pve1:0:0:0:a:b:c:", "x" * 10_000])
async def test_what_is_no_upid_is_refused(upid: str) -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault, match="invalid"):
            await client.call("task_get", upid=upid)
        assert r.asked() == 0


async def test_a_task_that_never_was_is_missing() -> None:
    async with rig() as r, r.client() as client:
        upid = "UPID:pve1:00000001:00000001:6B03D6EA:qmstart:100:root@pam:"
        with pytest.raises(ToolFault, match="no such task"):
            await client.call("task_get", upid=upid)


async def as_task(client: Caller, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send a raw request as a client that declares the tasks extension."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}},
    }
    dispatcher = client.mcp.session._dispatcher
    return dict(await dispatcher.send_raw_request(method, {**params, "_meta": meta}, None))


async def test_a_client_with_tasks_gets_the_pve_task_as_an_mcp_task() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        vmid = a_guest(r, running=False)
        arguments = {"guests": vmid, "action": "start"}
        made = await as_task(client, "tools/call", {"name": "guest_power", "arguments": arguments})
        assert made["resultType"] == "task"
        assert made["status"] == "working"
        upid = made["taskId"]
        assert upid.startswith("UPID:pve1:")
        working = await as_task(client, "tasks/get", {"taskId": upid})
        assert (working["resultType"], working["status"]) == ("complete", "working")
        r.world.tasks.finish(upid)
        ended = await as_task(client, "tasks/get", {"taskId": upid})
        assert ended["status"] == "completed"
        assert ": OK after" in ended["result"]["content"][0]["text"]
        assert not ended["result"].get("isError")


async def test_an_mcp_task_that_fails_completes_with_an_error_result() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        r.world.tasks.finish(upid, "no space left")
        ended = await as_task(client, "tasks/get", {"taskId": upid})
        assert ended["status"] == "completed"
        assert ended["result"]["isError"] is True
        assert "no space left" in ended["result"]["content"][0]["text"]


async def test_cancelling_an_mcp_task_stops_the_pve_task() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        await as_task(client, "tasks/cancel", {"taskId": upid})
        assert not r.running()
        ended = await as_task(client, "tasks/get", {"taskId": upid})
        assert ended["status"] == "cancelled"


async def test_cancelling_needs_the_effect_of_stopping() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        async with r.client(ceiling=Effect.READ) as reader:
            with pytest.raises(MCPError, match="ceiling"):
                await as_task(reader, "tasks/cancel", {"taskId": upid})
        assert r.running()


async def test_a_client_without_the_extension_cannot_ask_for_tasks() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        with pytest.raises(MCPError) as error:
            await client.mcp.session._dispatcher.send_raw_request(
                "tasks/get",
                {
                    "taskId": upid,
                    "_meta": {
                        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                        "io.modelcontextprotocol/clientCapabilities": {},
                    },
                },
                None,
            )
        assert error.value.error.code == -32021


async def test_a_short_list_of_tasks_says_how_many_there_are() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r, running=False)
        for action in ("start", "shutdown", "start"):
            await client.call("guest_power", guests=vmid, action=action)
        text = await client.call("task_list", guest=vmid, limit=2)
        assert text.startswith("3 tasks\n")
        assert "2 of 3 shown" in text


async def test_a_list_of_tasks_under_a_weak_token_says_that_others_are_left_out() -> None:
    async with rig() as r, r.client(token=r.world.token("root@pam", "weak", privsep=True)) as c:
        assert "PVE leaves out tasks of others" in await c.call("task_list")


async def test_a_task_that_nobody_can_see_any_more_is_not_called_running() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        upid = await started(r, client)
        call = asyncio.create_task(
            client.call(
                "api_change",
                method="PUT",
                path="/nodes/pve1/qemu/{vmid}/resize",
                params={"vmid": upid.split(":")[6], "disk": "scsi0", "size": "+1G"},
                wait=1,
            )
        )
        while len(r.running()) < 2:
            await asyncio.sleep(0)
        r.world.faults.drop_connections()
        text = await call
        assert "state unknown" in text
        assert "PVE does not answer" in text
        assert "still running" not in text


async def test_many_guests_are_reported_as_one_count() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        stopped = [g.vmid for g in r.world.guests.values() if not g.running and not g.template]
        call = asyncio.create_task(
            client.call("guest_power", guests=[str(v) for v in stopped[:2]], action="start")
        )
        while len(r.running()) < 2:
            await asyncio.sleep(0)
        for upid in r.running():
            r.world.tasks.finish(upid)
        await call
        assert [(done, total) for done, total, _ in client.reports] == [(1, 2), (2, 2)]
