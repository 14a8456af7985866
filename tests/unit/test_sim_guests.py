"""Guests of the simulated cluster: what changes them, and how that fails."""

from __future__ import annotations

from pvemcp.sim.world import make_world
from tests.unit.sim_rig import errors, failure, root

VM = "/nodes/pve1/qemu"
CT = "/nodes/pve1/lxc"


async def test_start_and_stop_change_the_state() -> None:
    admin = root()
    assert await admin.task("POST", f"{VM}/106/status/start") == "OK"
    assert (await admin.data("GET", f"{VM}/106/status/current"))["status"] == "running"
    assert await admin.task("POST", f"{VM}/106/status/stop") == "OK"
    assert (await admin.data("GET", f"{VM}/106/status/current"))["status"] == "stopped"


async def test_a_start_that_cannot_work_fails_in_its_task() -> None:
    admin = root()
    assert await admin.task("POST", f"{VM}/100/status/start") == "VM 100 already running"
    assert await admin.task("POST", f"{VM}/103/status/start") == (
        "you can't start a vm if it's a template"
    )
    missing = "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist"
    assert await admin.task("POST", f"{VM}/999/status/start") == missing
    admin.world.faults.lock_guest(106, "backup")
    assert await admin.task("POST", f"{VM}/106/status/start") == "VM is locked (backup)"


async def test_a_change_of_a_running_vm_waits_for_its_restart() -> None:
    admin = root()
    await admin.data("PUT", f"{VM}/100/config", memory=4096, description="new")
    pending = {row["key"]: row for row in await admin.data("GET", f"{VM}/100/pending")}
    assert pending["memory"] == {"key": "memory", "value": "2048", "pending": "4096"}
    assert pending["description"]["value"] == "new"
    assert (await admin.data("GET", f"{VM}/100/config", current=1))["memory"] == "2048"
    assert (await admin.data("GET", f"{VM}/100/config"))["memory"] == "4096"
    assert await admin.task("POST", f"{VM}/100/status/reboot") == "OK"
    assert (await admin.data("GET", f"{VM}/100/config", current=1))["memory"] == "4096"


async def test_an_old_digest_is_refused() -> None:
    admin = root()
    digest = (await admin.data("GET", f"{VM}/106/config"))["digest"]
    await admin.data("PUT", f"{VM}/106/config", name="first", digest=digest)
    reply = await admin.ask("PUT", f"{VM}/106/config", name="second", digest=digest)
    assert failure(reply) == (500, "checksum mismatch (file change by other user?)")


async def test_removing_a_disk_from_the_configuration_leaves_it_unused() -> None:
    admin = root()
    await admin.data("PUT", f"{VM}/106/config", delete="scsi0")
    config = await admin.data("GET", f"{VM}/106/config")
    assert "scsi0" not in config
    assert config["unused0"] == "local-lvm:vm-106-disk-0"


async def test_a_vm_is_created_with_what_was_asked_for() -> None:
    admin = root()
    asked = {"vmid": 300, "name": "new", "memory": 1024, "scsi0": "local-lvm:8", "pool": "lab"}
    assert await admin.task("POST", VM, **asked, net0="virtio,bridge=vmbr0", start=1) == "OK"
    config = await admin.data("GET", f"{VM}/300/config")
    assert config["scsi0"] == "local-lvm:vm-300-disk-0,size=8G"
    assert "lock" not in config
    assert (await admin.data("GET", f"{VM}/300/status/current"))["status"] == "running"
    members = await admin.data("GET", "/pools/lab")
    assert 300 in {row["vmid"] for row in members["members"]}


async def test_an_id_that_is_taken_and_a_storage_that_is_not_there_are_refused_at_once() -> None:
    admin = root()
    taken = await admin.ask("POST", VM, vmid=100)
    assert failure(taken) == (500, "VM 100 already exists on node 'pve1'")
    nowhere = await admin.ask("POST", VM, vmid=300, scsi0="nowhere:8")
    assert failure(nowhere) == (500, "storage 'nowhere' does not exist")


async def test_a_container_from_a_missing_template_fails_later() -> None:
    admin = root()
    made = await admin.task("POST", CT, vmid=300, ostemplate="local:vztmpl/none.tar.zst")
    assert made == "unable to create CT 300 - volume 'local:vztmpl/none.tar.zst' does not exist"
    assert 300 not in admin.world.guests


async def test_delete_refuses_running_protected_and_ha_guests_at_once() -> None:
    admin = root()
    cases = {
        f"{VM}/100": "VM 100 is running - destroy failed",
        f"{VM}/111": "can't remove VM 111 - protection mode enabled",
        f"{CT}/102": "unable to destroy CT 102 - container is running",
    }
    for path, reason in cases.items():
        assert failure(await admin.ask("DELETE", path)) == (500, reason)
    assert "used in HA" in (await admin.ask("DELETE", f"{VM}/104")).reason


async def test_a_template_with_linked_clones_stays() -> None:
    admin = root()
    assert await admin.task("POST", f"{VM}/103/clone", newid=300, name="copy") == "OK"
    config = await admin.data("GET", f"{VM}/300/config")
    assert config["scsi0"].startswith("local-lvm:base-103-disk-0/vm-300-disk-0")
    assert await admin.task("DELETE", f"{VM}/103") == (
        "base volume 'local-lvm:base-103-disk-0' is still in use by linked cloned"
    )
    assert await admin.task("DELETE", f"{VM}/300") == "OK"
    assert await admin.task("DELETE", f"{VM}/103") == "OK"


async def test_snapshots_come_go_and_bring_back() -> None:
    admin = root()
    path = f"{VM}/106/snapshot"
    assert await admin.task("POST", path, snapname="two") == "OK"
    assert await admin.task("POST", path, snapname="two") == "snapshot name 'two' already used"
    await admin.data("PUT", f"{VM}/106/config", cores=2)
    assert await admin.task("POST", f"{path}/two/rollback") == "OK"
    assert (await admin.data("GET", f"{VM}/106/config"))["cores"] == 8
    assert await admin.task("POST", f"{path}/none/rollback") == "snapshot 'none' does not exist"
    rows = {row["name"]: row for row in await admin.data("GET", path)}
    assert rows["two"]["parent"] == "clean"
    assert rows["current"]["parent"] == "two"
    assert await admin.task("DELETE", f"{path}/two") == "OK"
    assert admin.world.guests[106].parent == "clean"


async def test_a_disk_grows_and_never_shrinks() -> None:
    admin = root()
    path = f"{VM}/106/resize"
    assert await admin.task("PUT", path, disk="scsi0", size="+8G") == "OK"
    assert admin.world.guests[106].config["scsi0"].endswith("size=40G")
    assert await admin.task("PUT", path, disk="scsi0", size="1G") == (
        "shrinking disks is not supported"
    )
    assert await admin.task("PUT", path, disk="scsi7", size="1G") == "disk 'scsi7' does not exist"


async def test_a_guest_migrates_to_another_node() -> None:
    admin = root(make_world("cluster"))
    guest = admin.world.guests[102]
    path = f"/nodes/{guest.node}/qemu/102/migrate"
    assert errors(await admin.ask("POST", path, target=guest.node)) == {
        "target": "target is local node."
    }
    assert failure(await admin.ask("POST", path, target="x1")) == (500, "no such cluster node 'x1'")
    assert await admin.task("POST", path, target="pve1", online=1) == "OK"
    assert guest.node == "pve1"


async def test_ha_only_notes_the_wish_and_starts_the_guest_under_another_task() -> None:
    world = make_world("homelab", progress="manual")
    admin = root(world)
    world.guests[104].running = False
    upid = await admin.data("POST", f"{VM}/104/status/start")
    assert ":hastart:104:" in upid
    world.tasks.finish(upid)
    assert not world.guests[104].running
    world.clock.advance(9)
    rows = await admin.data("GET", "/nodes/pve1/tasks", source="active")
    assert [(row["type"], row["user"]) for row in rows] == [("qmstart", "root@pam")]
    world.tasks.finish(rows[0]["upid"])
    assert world.guests[104].running


async def test_a_command_runs_in_a_guest() -> None:
    admin = root()
    agent = f"{VM}/100/agent"
    pid = (await admin.data("POST", f"{agent}/exec", command=["sh", "-c", "echo hi; exit 3"]))[
        "pid"
    ]
    status = await admin.data("GET", f"{agent}/exec-status", pid=pid)
    assert status == {"exited": 1, "exitcode": 3, "out-data": "hi\n"}
    assert failure(await admin.ask("POST", f"{agent}/exec", command="nosuch"))[0] == 596
    assert failure(await admin.ask("POST", f"{VM}/106/agent/ping")) == (
        500,
        "VM 106 is not running",
    )
    assert failure(await admin.ask("POST", f"{VM}/104/agent/ping")) == (
        500,
        "No QEMU guest agent configured",
    )


async def test_a_slow_command_has_not_exited_until_the_clock_says_so() -> None:
    admin = root()
    agent = f"{VM}/100/agent"
    pid = (await admin.data("POST", f"{agent}/exec", command=["sleep", "5"]))["pid"]
    assert await admin.data("GET", f"{agent}/exec-status", pid=pid) == {"exited": 0}
    admin.world.clock.advance(6)
    assert (await admin.data("GET", f"{agent}/exec-status", pid=pid))["exited"] == 1


async def test_a_guest_on_another_node_or_of_another_type_is_missing() -> None:
    admin = root(make_world("cluster"))
    reply = await admin.ask("GET", "/nodes/pve1/qemu/101/config")
    assert failure(reply) == (
        500,
        "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist",
    )
