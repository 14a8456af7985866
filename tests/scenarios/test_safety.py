"""Before a rollback, and before a disk is let go of, a snapshot is taken, and the plan says so."""

from __future__ import annotations

import re
from typing import Any

from pvemcp.access.approvals import Person
from pvemcp.access.policy import Policy
from pvemcp.journal.book import Book
from pvemcp.sim.world import Guest
from tests.scenarios.rig import Caller, Rig, rig
from tests.scenarios.test_approvals import id_in, refused

ROOT = Person("root", "host")


def vm(r: Rig) -> Guest:
    """Return a stopped VM of pve1."""
    return next(
        g for g in r.world.guests.values()
        if g.type == "qemu" and g.node == "pve1" and not g.running and not g.template
    )  # fmt: skip


async def snapshot(client: Caller, guest: Guest, name: str) -> None:
    """Take a snapshot."""
    path = f"/nodes/pve1/qemu/{guest.vmid}/snapshot"
    await client.call("api_change", method="POST", path=path, params={"snapname": name})


def rollback(guest: Guest, name: str) -> dict[str, Any]:
    """Return the arguments of a rollback."""
    path = f"/nodes/pve1/qemu/{guest.vmid}/snapshot/{name}/rollback"
    return {"method": "POST", "path": path}


def ours(guest: Guest) -> list[str]:
    """Return the safety snapshots of a guest."""
    return [name for name in guest.snapshots if name.startswith("pvemcp-")]


async def test_a_rollback_can_be_taken_back(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        guest = vm(r)
        await snapshot(client, guest, "old")
        guest.config["keyboard"] = "de"
        await client.call("api_destroy", **rollback(guest, "old"))
        assert "keyboard" not in guest.config
        (name,) = ours(guest)
        change = Book(r.store).list()[0]
        assert f"snapshot/{name}/rollback" in change.undo
        await client.call("change_undo", change=change.id)
        assert guest.config["keyboard"] == "de"


async def test_an_undone_rollback_of_a_guest_that_ran_starts_it_again() -> None:
    async with rig() as r, r.client() as client:
        guest = r.world.guests[100]
        ran = [guest.running]
        await client.call("api_destroy", **rollback(guest, "tested"))
        ran.append(guest.running)
        change = Book(r.store).list()[0]
        assert "running: 1 -> 0" in await client.call("change_show", change=change.id)
        await client.call("change_undo", change=change.id)
        assert [*ran, guest.running] == [True, False, True]


async def test_the_plan_shows_the_snapshot_and_a_person_approves_it_too(era: str) -> None:
    async with rig() as r, r.client(era=era, policy=Policy()) as client:
        guest = vm(r)
        await snapshot(client, guest, "old")
        call = rollback(guest, "old")
        text = await refused(client, "api_destroy", **call)
        assert f"POST /nodes/pve1/qemu/{guest.vmid}/snapshot: " in text
        assert re.search(r"safety snapshot: pvemcp-[0-9a-f]{10} is taken first", text)
        r.approvals.approve(id_in(text), ROOT, typed=str(guest.vmid))
        await client.call("api_destroy", **call, approval=id_in(text))
        assert len(ours(guest)) == 1


async def test_where_no_snapshot_helps_the_plan_says_why() -> None:
    async with rig() as r, r.client() as client:
        guest = vm(r)
        await snapshot(client, guest, "old")
        for storage in r.world.storages.values():
            storage.type = "zfspool"
        text = await client.call("api_destroy", **rollback(guest, "old"), dry_run=True)
        assert "goes back only to the newest snapshot" in text
        path = f"/nodes/pve1/qemu/{guest.vmid}/config"
        text = await client.call(
            "api_destroy", method="PUT", path=path, params={"delete": "scsi0", "force": 1},
            dry_run=True,
        )  # fmt: skip
        assert "PVE deletes no volume that a snapshot holds" in text


async def test_a_detached_disk_is_held_by_a_snapshot_and_comes_back() -> None:
    async with rig() as r, r.client() as client:
        guest = vm(r)
        disk = str(guest.config["scsi0"])
        path = f"/nodes/pve1/qemu/{guest.vmid}/config"
        await client.call("api_destroy", method="PUT", path=path, params={"delete": "scsi0"})
        assert len(ours(guest)) == 1
        change = Book(r.store).list()[0]
        await client.call("change_undo", change=change.id)
        assert guest.config["scsi0"] == disk


async def test_a_snapshot_that_fails_keeps_the_rollback_from_being_sent() -> None:
    async with rig() as r, r.client() as client:
        guest = vm(r)
        await snapshot(client, guest, "old")
        guest.config["description"] = "kept"
        r.world.faults.fail_tasks("qmsnapshot", "no space left")
        text = await refused(client, "api_destroy", **rollback(guest, "old"))
        assert "the safety snapshot could not be made" in text
        assert guest.config["description"] == "kept"


async def test_a_guest_keeps_three_of_them() -> None:
    async with rig() as r, r.client() as client:
        guest = vm(r)
        await snapshot(client, guest, "old")
        for _ in range(5):
            r.world.clock.advance(60)
            await client.call("api_destroy", **rollback(guest, "old"))
        assert len(ours(guest)) == 3
