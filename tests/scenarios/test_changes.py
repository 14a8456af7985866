"""Every change is in the journal before it is sent, and is taken back from there."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from pvemcp.journal.book import Book
from pvemcp.journal.change import Change
from pvemcp.sim.world import Volume
from tests.scenarios.rig import Caller, Rig, rig
from tests.scenarios.test_approvals import refused

QEMU = "/nodes/pve1/qemu"


def vm(r: Rig, *, running: bool) -> int:
    """Return a VM of the world."""
    return next(
        g.vmid
        for g in r.world.guests.values()
        if g.type == "qemu" and g.node == "pve1" and g.running is running and not g.template
    )


def changes(r: Rig) -> list[Change]:
    """Return the journal, newest first."""
    return Book(r.store).list()


async def configure(client: Caller, vmid: int, **params: Any) -> None:
    """Change a VM's configuration."""
    path = f"{QEMU}/{vmid}/config"
    await client.call("api_change", method="PUT", path=path, params=params)


async def test_a_configuration_is_shown_before_and_after_and_comes_back(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        vmid = vm(r, running=False)
        before = dict(r.world.guests[vmid].config)
        await configure(client, vmid, memory="3072", description="new words", delete="onboot")
        (change,) = changes(r)
        assert change.outcome == "done"
        text = await client.call("change_show", change=change.id)
        assert f"memory: {before['memory']} -> 3072" in text
        assert "description: set to new words" in text or "-> new words" in text
        await client.call("change_undo", change=change.id)
        assert {k: str(v) for k, v in r.world.guests[vmid].config.items()} == {
            k: str(v) for k, v in before.items()
        }
        listed = await client.call("change_list")
        assert "done, undone" in listed


async def test_what_a_running_guest_takes_at_its_next_start_is_reverted() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=True)
        await configure(client, vmid, cores=3, cpu="host")
        guest = r.world.guests[vmid]
        assert guest.pending
        (change,) = changes(r)
        assert "cores (pending)" in await client.call("change_show", change=change.id)
        await client.call("change_undo", change=change.id)
        assert not guest.pending


async def test_power_is_journaled_with_its_task_and_comes_back(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        vmid = vm(r, running=False)
        await client.call("guest_power", guests=vmid, action="start")
        (change,) = changes(r)
        assert (change.before, change.after) == ({"power": "stopped"}, {"power": "running"})
        assert change.upid.startswith("UPID:")
        await client.call("change_undo", change=change.id)
        assert not r.world.guests[vmid].running


async def test_an_undo_is_a_change_that_can_be_undone() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        await configure(client, vmid, description="one")
        first = changes(r)[0]
        await client.call("change_undo", change=first.id)
        second = changes(r)[0]
        assert second.undoes == first.id
        assert "was undone already" in await refused(client, "change_undo", change=first.id)
        await client.call("change_undo", change=second.id)
        assert r.world.guests[vmid].config["description"] == "one"
        assert not Book(r.store).get(first.id).undone_by


async def test_a_state_that_moved_on_is_not_overwritten() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        await configure(client, vmid, description="ours")
        (change,) = changes(r)
        r.world.guests[vmid].config["description"] = "theirs"
        text = await refused(client, "change_undo", change=change.id)
        assert "ours -> theirs" in text
        assert "theirs" in await client.call("change_show", change=change.id)
        assert r.world.guests[vmid].config["description"] == "theirs"


async def test_a_dry_run_of_an_undo_shows_its_requests_and_does_nothing() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        await configure(client, vmid, description="ours")
        (change,) = changes(r)
        text = await client.call("change_undo", change=change.id, dry_run=True)
        assert f"PUT {QEMU}/{vmid}/config" in text
        assert r.world.guests[vmid].config["description"] == "ours"
        assert not Book(r.store).get(change.id).undone_by


async def test_a_refused_change_is_a_row_too() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=True)
        path = f"{QEMU}/{vmid}"
        await refused(client, "api_destroy", path=path)
        (change,) = changes(r)
        assert change.outcome == "failed"
        assert "running" in change.error
        assert "cannot be undone" in await refused(client, "change_undo", change=change.id)
        assert "could not be read" not in await client.call("change_show", change=change.id)


async def test_another_grant_sees_no_change_of_this_one_unless_it_administers_pve() -> None:
    async with rig() as r, r.client() as client:
        token = r.world.token("op@pve", "t", roles={"/vms": "PVEVMAdmin"})
        vmid = vm(r, running=False)
        await configure(client, vmid, description="x")
        (change,) = changes(r)
        sql = "UPDATE changes SET grant_id = 'g2' WHERE id = ?"
        r.store.write(sql, (change.id,))
        assert change.id in await client.call("change_list")  # a token of root
        async with r.client(token=token) as other:
            assert "0 changes" in await other.call("change_list")
            for tool in ("change_show", "change_undo", "change_confirm"):
                assert "there is no change" in await refused(other, tool, change=change.id)


async def test_what_the_database_keeps_of_a_state_is_sealed() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        await configure(client, vmid, description="rosebud", cipassword="swordfish-9")
        (row,) = r.store.rows("SELECT * FROM changes")
        assert b"swordfish" not in b"".join(each for each in row if isinstance(each, bytes))
        assert "swordfish" not in repr([each for each in row if not isinstance(each, bytes)])
        text = await client.call("change_show", change=changes(r)[0].id)
        assert "swordfish" not in text


async def test_a_secret_that_pve_hides_is_said_not_to_come_back() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        r.world.guests[vmid].config["cipassword"] = "old"
        await configure(client, vmid, description="x", cipassword="new-password")
        (change,) = changes(r)
        text = await client.call("change_show", change=change.id)
        assert "not brought back: cipassword" in text
        assert "not brought back: cipassword" in await client.call("change_undo", change=change.id)
        assert r.world.guests[vmid].config["cipassword"] == "new-password"


async def test_a_change_that_was_being_sent_when_the_process_died_may_have_happened() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        await configure(client, vmid, description="x")
        r.store.write("UPDATE changes SET outcome = 'open', process = '1/1'")
        (change,) = changes(r)
        assert change.outcome == "unfinished: may have happened"
        assert "unfinished: may have happened" in await client.call("change_list")


async def test_nothing_is_sent_that_cannot_be_journaled() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        r.store.write("DROP TABLE changes")
        text = await refused(
            client, "api_change", method="PUT", path=f"{QEMU}/{vmid}/config",
            params={"description": "x"},
        )  # fmt: skip
        assert "Refused before it was sent" in text
        assert r.world.guests[vmid].config.get("description") != "x"


async def test_a_task_that_outlives_its_call_is_completed_when_somebody_looks() -> None:
    async with rig(progress="manual") as r, r.client() as client:
        vmid = vm(r, running=False)
        path = f"{QEMU}/{vmid}/snapshot"
        await client.call(
            "api_change", method="POST", path=path, params={"snapname": "one"}, wait=0
        )
        (change,) = changes(r)
        assert change.outcome == "running"
        assert "still under way" in await refused(client, "change_undo", change=change.id)
        r.world.tasks.finish(change.upid)
        assert re.search(rf"{change.id}.*done.*yes", await client.call("change_list"))


async def test_reads_are_not_journaled_and_pay_nothing() -> None:
    async with rig() as r, r.client() as client:
        await client.call("guest_get", guest=vm(r, running=True))
        assert changes(r) == []


async def test_a_file_of_a_vm_gets_its_former_content_again(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        guest = next(g for g in r.world.guests.values() if g.type == "qemu" and g.agent_running)
        files = Files({"/etc/motd": b"first\xff\n"})
        guest.system = files
        await client.call(
            "guest_file_write", guest=guest.vmid, path="/etc/motd", content="second secret-word\n"
        )
        (change,) = changes(r)
        text = await client.call("change_show", change=change.id)
        assert "bytes: 7 -> 19" in text
        assert "secret-word" not in text
        await client.call("change_undo", change=change.id)
        assert files.content["/etc/motd"] == b"first\xff\n"


async def test_a_destroyed_guest_names_its_last_backup() -> None:
    async with rig() as r, r.client() as client:
        vmid = vm(r, running=False)
        nas = r.world.storages["nas"]
        volid = f"nas:backup/vzdump-qemu-{vmid}-2026_01_01-00_00_00.vma.zst"
        nas.volumes.append(Volume(volid, "backup", 1, 2_000_000_000, "vma.zst", vmid))
        await client.call("api_destroy", path=f"{QEMU}/{vmid}", params={"purge": 1})
        (change,) = changes(r)
        assert change.outcome == "done"
        assert volid in change.undo


class Files:
    """The files of a guest."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content

    def start(self, argv: list[str], stdin: bytes) -> int:
        """Run nothing."""
        raise FileNotFoundError(argv[0], stdin)

    def status(self, pid: int) -> None:
        """Know no program."""

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        return self.content[path]

    def write(self, path: str, content: bytes) -> None:
        """Take the content of a file."""
        self.content[path] = content


async def test_a_migration_that_ha_makes_later_can_be_taken_back() -> None:
    async with rig("cluster", progress="manual") as r, r.client() as client:
        guest, path = r.world.guests[105], "/nodes/pve1/qemu/105/migrate"
        params = {"target": "pve2", "online": 1}
        moving = asyncio.create_task(
            client.call("api_change", method="POST", path=path, params=params)
        )
        r.world.tasks.finish(await r.until_running())
        await moving
        (change,) = changes(r)
        assert (guest.node, change.recipe.why_not) == ("pve1", "")
        r.world.clock.advance(10)
        r.world.tasks.settle()
        r.world.tasks.finish(await r.until_running())
        assert guest.node == "pve2"
        back = "POST /nodes/pve2/qemu/105/migrate"
        assert back in await client.call("change_undo", change=change.id, dry_run=True)


async def test_a_stop_that_ha_makes_later_can_be_taken_back() -> None:
    async with rig("cluster", progress="manual") as r, r.client() as client:
        guest, path = r.world.guests[105], "/nodes/pve1/qemu/105/status/stop"
        stopping = asyncio.create_task(client.call("api_destroy", method="POST", path=path))
        r.world.tasks.finish(await r.until_running())
        await stopping
        (change,) = changes(r)
        ran = [guest.running]
        r.world.clock.advance(10)
        r.world.tasks.settle()
        r.world.tasks.finish(await r.until_running())
        assert [*ran, guest.running] == [True, False]
        back = "POST /nodes/pve1/qemu/105/status/start"
        assert back in await client.call("change_undo", change=change.id, dry_run=True)
