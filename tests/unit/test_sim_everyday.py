"""Everyday questions, which the worlds have answers to."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pvemcp.sim.world import World, WorldName, make_world
from tests.unit.sim_rig import Caller, root

DAY = 86400


async def failed_tasks(admin: Caller, node: str, type_: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await admin.data(
        "GET", f"/nodes/{node}/tasks", errors=1, typefilter=type_
    )
    return rows


async def log_of(admin: Caller, upid: str) -> list[str]:
    rows = await admin.data("GET", f"/nodes/{upid.split(':')[1]}/tasks/{upid}/log", limit=0)
    return [row["t"] for row in rows]


@pytest.mark.parametrize(
    ("world", "node", "vmid", "reason"),
    [
        ("homelab", "pve1", 105, "exit code 2"),
        ("cluster", "pve2", 116, "Broken pipe"),
    ],
)
async def test_the_log_of_last_nights_backup_says_why_a_guest_failed(
    world: WorldName, node: str, vmid: int, reason: str
) -> None:
    admin = root(make_world(world))
    (run,) = await failed_tasks(admin, node, "vzdump")
    assert run["status"] == "job errors"
    assert 0 < admin.world.clock.seconds() - run["endtime"] < 26 * 3600
    lines = await log_of(admin, run["upid"])
    (said,) = [line for line in lines if line.startswith(f"ERROR: Backup of VM {vmid} failed - ")]
    assert reason in said
    assert lines[-1] == "TASK ERROR: job errors"
    content = await admin.data("GET", f"/nodes/{node}/storage/nas/content", content="backup")
    newest = {row["vmid"]: max(r["ctime"] for r in content if r["vmid"] == row["vmid"])
              for row in content}  # fmt: skip
    assert (
        newest[vmid]
        < run["starttime"]
        <= min(
            at
            for other, at in newest.items()
            if other != vmid and admin.world.guests[other].node == node
        )
    )


async def test_a_full_storage_and_a_certificate_that_ends_soon_are_there() -> None:
    admin = root(make_world("cluster"))
    used = {
        row["storage"]: row["used_fraction"]
        for row in await admin.data("GET", "/nodes/pve1/storage")
    }
    assert 0.9 < used["nas"] < 1
    assert max(share for name, share in used.items() if name != "nas") < 0.8
    now = admin.world.clock.seconds()
    left = {}
    for node in ("pve1", "pve2", "pve3", "pve4"):
        for row in await admin.data("GET", f"/nodes/{node}/certificates/info"):
            left[node, row["filename"]] = (row["notafter"] - now) // DAY
    assert [key for key, days in left.items() if days < 30] == [("pve3", "pve-ssl.pem")]


async def test_a_start_that_failed_is_explained_by_the_configuration() -> None:
    admin = root(make_world("cluster"))
    (task,) = await failed_tasks(admin, "pve2", "qmstart")
    assert (task["id"], task["user"]) == ("121", "alice@pve")
    missing = task["status"].split("'")[1]
    config = await admin.data("GET", "/nodes/pve2/qemu/121/config")
    assert config["ide2"].startswith(missing)
    isos = await admin.data("GET", "/nodes/pve2/storage/nas/content", content="iso")
    assert len(isos) == 3
    assert missing not in {row["volid"] for row in isos}
    assert await admin.task("POST", "/nodes/pve2/qemu/121/status/start") == task["status"]
    await admin.data("PUT", "/nodes/pve2/qemu/121/config", ide2="none,media=cdrom")
    assert await admin.task("POST", "/nodes/pve2/qemu/121/status/start") == "OK"


async def test_there_are_templates_stopped_guests_and_guests_without_snapshots() -> None:
    admin = root(make_world("cluster"))
    guests = await admin.data("GET", "/cluster/resources", type="vm")
    assert {row["name"] for row in guests if row.get("template")} == {
        "debian13-tmpl",
        "win2025-tmpl",
    }
    stopped = [r["vmid"] for r in guests if r["status"] == "stopped" and not r["template"]]
    assert stopped == [121, 132, 137, 143, 161, 185]
    counts = [len(guest.snapshots) for guest in admin.world.guests.values()]
    assert set(counts) == {0, 1, 2, 3}
    taken = [s.snaptime for g in admin.world.guests.values() for s in g.snapshots.values()]
    now = admin.world.clock.seconds()
    assert min(taken) < now - 365 * DAY < now - 7 * DAY < max(taken) < now


async def test_changes_wait_and_the_log_names_who_made_them() -> None:
    admin = root(make_world("cluster"))
    rows = await admin.data("GET", "/nodes/pve2/qemu/106/pending")
    assert {"key": "cores", "value": 7, "pending": 4} in rows
    lines = await admin.data("GET", "/cluster/log", max=500)
    assert "alice@pve" in {row["user"] for row in lines if row["msg"] == "update VM 106: -cores 4"}
    times = [row["time"] for row in lines]
    assert times == sorted(times, reverse=True)
    assert times[0] <= admin.world.clock.seconds()
    assert max(times) - min(times) > 30 * DAY


async def test_tokens_that_end_and_users_who_have_left_are_there() -> None:
    admin = root(make_world("cluster"))
    now = admin.world.clock.seconds()
    users = {row["userid"]: row for row in await admin.data("GET", "/access/users", full=1)}
    assert users["carol@pve"]["enable"] == 0
    ends = {row["tokenid"]: row["expire"] for row in users["ci@pve"]["tokens"]}
    assert ends["old"] < now < ends["deploy"] < now + 7 * DAY


def test_the_past_is_the_same_for_the_same_seed_and_nothing_runs() -> None:
    for name in ("homelab", "cluster"):
        one, two = make_world(name), make_world(name)
        assert [_told(one, n) for n in (0, 1)] == [_told(two, n) for n in (0, 1)]
        assert not [task for task in one.tasks if task.running]
        assert one.log[-1]["time"] <= one.clock.seconds()


def _told(world: World, field: int) -> list[Any]:
    tasks = [(task.type, task.id, task.exitstatus) for task in world.tasks]
    volumes = [volume.vmid for volume in world.storages["nas"].volumes]
    return tasks if field else volumes


def test_the_past_costs_little() -> None:
    begun = time.process_time()
    make_world("cluster")
    assert time.process_time() - begun < 0.5
