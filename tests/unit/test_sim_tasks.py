"""Tasks of the simulated cluster, and what a test can break."""

from __future__ import annotations

import json

from pvemcp.sim.tasks import Tasks
from pvemcp.sim.world import make_world
from tests.unit.sim_rig import caller, failure, root

VM = "/nodes/pve1/qemu"


async def test_a_manual_task_moves_line_by_line() -> None:
    admin = root(make_world("homelab", progress="manual"))
    tasks: Tasks = admin.world.tasks
    upid = await admin.data("POST", f"{VM}/106/clone", newid=300, full=1)
    assert admin.world.guests[300].lock == "clone"
    tasks.advance(upid, lines=3)
    log = await admin.data("GET", f"/nodes/pve1/tasks/{upid}/log")
    assert [row["t"] for row in log][1:] == [
        "transferred 3.2 GiB of 32.0 GiB (10.00%)",
        "transferred 6.4 GiB of 32.0 GiB (20.00%)",
    ]
    status = await admin.data("GET", f"/nodes/pve1/tasks/{upid}/status")
    assert status["status"] == "running"
    assert "exitstatus" not in status
    tasks.finish(upid)
    status = await admin.data("GET", f"/nodes/pve1/tasks/{upid}/status")
    assert (status["status"], status["exitstatus"]) == ("stopped", "OK")
    assert admin.world.guests[300].lock == ""


async def test_a_task_that_ends_badly_leaves_nothing_behind() -> None:
    admin = root(make_world("homelab", progress="manual"))
    upid = await admin.data("POST", f"{VM}/106/clone", newid=300, full=1)
    admin.world.tasks.finish(upid, "clone failed: disk full")
    assert 300 not in admin.world.guests
    log = await admin.data("GET", f"/nodes/pve1/tasks/{upid}/log", limit=0)
    assert log[-1]["t"] == "TASK ERROR: clone failed: disk full"


async def test_a_timed_task_follows_the_clock() -> None:
    admin = root(make_world("homelab", progress="timed"))
    upid = await admin.data("POST", f"{VM}/106/clone", newid=300, full=1)
    path = f"/nodes/pve1/tasks/{upid}/status"
    assert (await admin.data("GET", path))["status"] == "running"
    admin.world.clock.advance(30)
    assert (await admin.data("GET", path))["exitstatus"] == "OK"


async def test_a_timed_task_ends_when_it_is_due_whoever_looks_when() -> None:
    admin = root(make_world("homelab", progress="timed"))
    upid = await admin.data("POST", f"{VM}/106/status/start")
    admin.world.clock.advance(300)
    (row,) = await admin.data("GET", "/nodes/pve1/tasks", typefilter="qmstart", limit=1)
    assert row["upid"] == upid
    assert row["endtime"] - row["starttime"] in {3, 4}  # whole seconds of a running clock
    uptime = (await admin.data("GET", f"{VM}/106/status/current"))["uptime"]
    assert uptime in range(296, 300)


async def test_what_follows_a_task_is_due_after_it_and_not_after_the_look() -> None:
    admin = root(make_world("homelab", progress="timed"))
    admin.world.guests[104].running = False
    admin.world.ha["vm:104"].state = "stopped"
    begun = admin.world.clock.now()
    await admin.data("POST", f"{VM}/104/status/start")
    admin.world.clock.advance(600)
    (asked,) = await admin.data("GET", "/nodes/pve1/tasks", typefilter="hastart", since=int(begun))
    (real,) = await admin.data("GET", "/nodes/pve1/tasks", typefilter="qmstart", since=int(begun))
    assert real["starttime"] - asked["endtime"] in {8, 9}
    assert admin.world.guests[104].running


async def test_the_cluster_log_tells_tasks_logins_and_snapshots() -> None:
    admin = root()
    admin.world.log.clear()
    admin.world.add_user("eve@pve", password="secret-enough")
    await admin.task("POST", f"{VM}/106/snapshot", snapname="one")
    await admin.task("POST", f"{VM}/103/status/start")
    await admin.data("POST", "/access/ticket", username="eve@pve", password="secret-enough")
    lines = await admin.data("GET", "/cluster/log")
    texts = [line["msg"] for line in reversed(lines)]
    assert texts[1] == "snapshot VM 106: one"
    assert texts[0].startswith("starting task UPID:pve1:")
    assert texts[2].startswith("end task UPID:")
    assert texts[2].endswith(":qmsnapshot:106:root@pam!mcp: OK")
    assert texts[4].endswith(": you can't start a vm if it's a template")
    assert texts[5] == "successful auth for user 'eve@pve'"
    assert [line["pri"] for line in reversed(lines)] == [6, 6, 6, 6, 3, 6]
    assert lines[0]["user"] == "root@pam"
    assert len(await admin.data("GET", "/cluster/log", max=2)) == 2


async def test_the_cluster_log_shows_each_their_own_without_the_right() -> None:
    admin = root()
    await admin.task("POST", f"{VM}/106/status/start")
    bob = caller(admin.world, vms_106="PVEVMUser")
    await bob.task("POST", f"{VM}/106/status/stop")
    lines = await bob.data("GET", "/cluster/log")
    assert {line["user"] for line in lines} == {"bob@pve!mcp"}
    assert len(lines) == 2


async def test_a_running_task_can_be_stopped() -> None:
    admin = root(make_world("homelab", progress="manual"))
    upid = await admin.data("POST", f"{VM}/106/clone", newid=300, full=1)
    await admin.data("DELETE", f"/nodes/pve1/tasks/{upid}")
    assert (await admin.data("GET", f"/nodes/pve1/tasks/{upid}/status"))["exitstatus"] == (
        "interrupted by signal"
    )
    assert 300 not in admin.world.guests


async def test_tasks_are_filtered() -> None:
    admin = root()
    await admin.task("POST", f"{VM}/106/status/start")
    await admin.task("POST", f"{VM}/106/status/start")
    await admin.task("POST", f"{VM}/108/status/start")
    path, now = "/nodes/pve1/tasks", admin.world.clock.seconds()
    assert len(await admin.data("GET", path, since=now)) == 3
    assert len(await admin.data("GET", path, since=now, errors=1)) == 1
    assert len(await admin.data("GET", path, since=now, vmid=108)) == 1
    assert len(await admin.data("GET", path, since=now, statusfilter="ok,warning")) == 2
    assert len(await admin.data("GET", path)) > 3
    assert await admin.data("GET", path, source="active") == []
    reply = await admin.ask("GET", path, since=now, limit=1)
    assert json.loads(reply.body)["total"] == 3
    assert len(json.loads(reply.body)["data"]) == 1


async def test_the_state_during_a_snapshot_is_locked() -> None:
    admin = root(make_world("homelab", progress="manual"))
    upid = await admin.data("POST", f"{VM}/106/snapshot", snapname="now")
    reply = await admin.ask("PUT", f"{VM}/106/config", cores=2)
    assert failure(reply) == (500, "VM is locked (snapshot)")
    admin.world.tasks.finish(upid)
    assert (await admin.ask("PUT", f"{VM}/106/config", cores=2)).status == 200


async def test_a_task_type_can_be_made_to_fail_late() -> None:
    admin = root()
    admin.world.faults.fail_tasks("qmstart", "start failed: QEMU exited with code 1")
    assert await admin.task("POST", f"{VM}/106/status/start") == (
        "start failed: QEMU exited with code 1"
    )
    assert not admin.world.guests[106].running
    admin.world.faults.fail_tasks("qmstart", "")
    assert await admin.task("POST", f"{VM}/106/status/start") == "OK"


async def test_596_after_a_write_has_happened() -> None:
    admin = root()
    admin.world.faults.answer_596_after_write()
    reply = await admin.ask("PUT", f"{VM}/106/config", description="done")
    assert failure(reply) == (596, "Broken pipe")
    assert admin.world.guests[106].config["description"] == "done"
    assert (await admin.ask("PUT", f"{VM}/106/config", description="again")).status == 200


async def test_a_dead_node_has_no_route() -> None:
    admin = root(make_world("cluster"))
    down = await admin.ask("GET", "/nodes/pve5/status")
    assert failure(down) == (595, "No route to host")
    admin.world.faults.dead_node("pve2")
    assert failure(await admin.ask("GET", "/nodes/pve2/qemu")) == (595, "No route to host")
    rows = {row["node"]: row["status"] for row in await admin.data("GET", "/nodes")}
    assert rows["pve1"] == "online"
    assert rows["pve2"] == rows["pve5"] == "offline"
    guests = await admin.data("GET", "/cluster/resources", type="vm")
    assert {row["status"] for row in guests if row["node"] == "pve2"} == {"unknown"}
    admin.world.faults.revive_node("pve2")
    assert (await admin.ask("GET", "/nodes/pve2/qemu")).status == 200


async def test_without_pvedaemon_only_unprotected_methods_work() -> None:
    admin = root()
    admin.world.faults.pvedaemon_down = True
    assert failure(await admin.ask("GET", VM)) == (595, "Connection refused")
    assert (await admin.ask("GET", "/cluster/resources")).status == 200


async def test_without_quorum_nothing_is_written() -> None:
    admin = root(make_world("cluster"))
    admin.world.faults.quorum_lost = True
    reply = await admin.ask("POST", "/pools", poolid="new")
    assert reply.status == 500
    assert "no quorum" in reply.reason
    head = (await admin.data("GET", "/cluster/status"))[0]
    assert head["quorate"] == 0


async def test_requests_are_counted() -> None:
    admin = root()
    await admin.data("GET", "/version")
    await admin.data("GET", "/version")
    assert admin.world.requests["GET", "/version"] == 2
    assert admin.world.requests.total() == 2


async def test_a_backup_locks_the_guest_and_leaves_a_volume() -> None:
    admin = root(make_world("homelab", progress="manual"))
    upid = await admin.data(
        "POST", "/nodes/pve1/vzdump", vmid="100", storage="nas", compress="zstd"
    )
    assert admin.world.guests[100].lock == "backup"
    admin.world.tasks.advance(upid, lines=4)
    log = await admin.data("GET", f"/nodes/pve1/tasks/{upid}/log")
    assert log[-1]["t"].startswith("INFO:  20% (6.4 GiB of 32.0 GiB) in 6s, read: ")
    admin.world.tasks.finish(upid)
    path = "/nodes/pve1/storage/nas/content"
    backups = await admin.data("GET", path, content="backup", vmid=100)
    assert len(backups) == 4
    assert admin.world.guests[100].lock == ""
