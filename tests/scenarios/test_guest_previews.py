"""What a plan says of a guest: what would be looked up first, and what PVE would refuse."""

from __future__ import annotations

from typing import Any

import pytest

from pvemcp.access.policy import Policy
from tests.scenarios.picturing import write
from tests.scenarios.rig import rig
from tests.scenarios.test_previews import plan_of

WEB = "/nodes/pve1/qemu/100"
BUILD = "/nodes/pve1/qemu/106"


async def test_a_destruction_shows_the_rules_of_the_guests_firewall() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        await write(client, "POST", "/cluster/firewall/groups", {"group": "web"})
        rules = f"{BUILD}/firewall/rules"
        await write(client, "POST", rules, {"type": "in", "action": "DROP"})
        await write(client, "POST", rules, {"type": "group", "action": "web"})
        await client.call("api_read", path="/version")
        before = r.asked()
        lines = await plan_of(client, "DELETE", BUILD)
        assert r.asked() - before <= 8
        assert "firewall: 1 rule of its own, the security groups web" in lines


async def test_a_guest_that_does_not_run_shows_the_addresses_of_its_configuration() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        assert "not seen: addresses: it does not run" in await plan_of(client, "DELETE", BUILD)
        r.world.guests[106].config["ipconfig0"] = "ip=192.0.2.6/24,gw=192.0.2.1,ip6=auto"
        lines = await plan_of(client, "DELETE", BUILD)
        assert "addresses: 192.0.2.6/24, auto (configured)" in lines
        assert not any("it does not run" in line for line in lines)
        lines = await plan_of(client, "DELETE", "/nodes/pve1/lxc/109")
        assert "addresses: dhcp (configured)" in lines


@pytest.mark.parametrize(
    ("path", "params", "why"),
    [
        (WEB, {}, "it runs: stop it first"),
        (BUILD, {}, ""),
        ("/nodes/pve1/lxc/102", {"force": 1}, ""),
        (
            "/nodes/pve1/qemu/104",
            {},
            "it runs: stop it first; HA watches it, and there is no purge=1",
        ),
        ("/nodes/pve1/qemu/104", {"purge": 1}, "it runs: stop it first"),
    ],
)
async def test_a_destruction_that_pve_would_refuse_says_so(
    path: str, params: dict[str, Any], why: str
) -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        lines = await plan_of(client, "DELETE", path, **params)
        assert [x for x in lines if x.startswith("PVE refuses: ")] == [f"PVE refuses: {why}"][
            : bool(why)
        ]


async def test_a_disk_that_grows_or_moves_is_named_with_its_size() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        disk = "the disk: scsi0 local-lvm:vm-100-disk-0 32G"
        lines = await plan_of(client, "PUT", f"{WEB}/resize", disk="scsi0", size="+10G")
        assert f"- PUT {WEB}/resize: makes a disk of qemu/100 web01 larger" in lines
        assert disk in lines
        assert "size: 32G -> 32G+10G" in lines
        lines = await plan_of(client, "POST", f"{WEB}/move_disk", disk="scsi0", storage="nas")
        assert f"- POST {WEB}/move_disk: moves a disk of qemu/100 web01" in lines
        assert disk in lines


async def test_a_template_names_the_disks_of_the_guest() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        lines = await plan_of(client, "POST", f"{BUILD}/template")
        assert (
            f"- POST {BUILD}/template: turns qemu/106 build into a template, which never runs again"
            in lines
        )
        assert "disks: scsi0 local-lvm:vm-106-disk-0 32G" in lines
        assert "PVE refuses: it has snapshots" in lines
        lines = await plan_of(client, "POST", f"{WEB}/template")
        assert "PVE refuses: it runs: stop it first; it has snapshots" in lines


@pytest.mark.parametrize(
    ("memory", "params", "then"),
    [
        (False, {}, "it is stopped, and stays so (start=1 would start it)"),
        (False, {"start": 1}, "it is started anew"),
        (True, {}, "it goes on from the memory of the snapshot"),
    ],
)
async def test_a_rollback_says_what_becomes_of_a_guest_that_runs(
    *, memory: bool, params: dict[str, Any], then: str
) -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        r.world.guests[100].snapshots["tested"].vmstate = memory
        path = f"{WEB}/snapshot/tested/rollback"
        lines = await plan_of(client, "POST", path, **params)
        assert f"LOST: what runs in it now: {then}" in lines


async def test_a_migration_shows_the_other_node_and_what_pve_refuses() -> None:
    async with rig("cluster") as r, r.client(policy=Policy()) as client:
        path = f"{WEB}/migrate"
        lines = await plan_of(client, "POST", path, target="pve5")
        assert f"- POST {path}: moves qemu/100 web00000 to another node" in lines
        assert "target: pve5 is offline" in lines
        assert "PVE refuses: it runs, and there is no online=1" in lines
        r.world.guests[100].config["scsi1"] = "local:100/vm-100-disk-1.raw,size=4G"
        lines = await plan_of(client, "POST", path, target="pve2", online=1)
        assert "target: pve2 is online" in lines
        assert "on storages that are not shared: scsi1 local:100/vm-100-disk-1.raw 4G" in lines
        assert not any(line.startswith("PVE refuses") for line in lines)
        assert "target: nowhere is not seen" in await plan_of(
            client, "POST", path, target="nowhere"
        )


async def test_a_deleted_snapshot_shows_its_age_and_what_is_newer() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        lines = await plan_of(client, "DELETE", f"{WEB}/snapshot/before-upgrade")
        (age,) = (x for x in lines if x.startswith("snapshot: before-upgrade of "))
        assert age.endswith(" ago")
        assert "newer snapshots: tested" in lines


async def test_a_restore_over_a_container_shows_the_archive() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        volids = [v.volid for v in r.world.storages["nas"].volumes if "lxc-109-" in v.volid]
        given = {"vmid": 109, "ostemplate": volids[0], "restore": 1, "force": 1}
        lines = await plan_of(client, "POST", "/nodes/pve1/lxc", **given)
        (archive,) = (x for x in lines if x.startswith("from: "))
        assert " old, not verified, " in archive
        assert volids[0] in archive


async def test_whoever_is_asked_about_a_protected_guest_sees_why() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        lines = await plan_of(client, "POST", "/nodes/pve1/qemu/111/status/shutdown")
        assert [x for x in lines if x.startswith("protection: ")] == ["protection: on"]
        assert "tags: lab" in lines
        lines = await plan_of(client, "DELETE", "/nodes/pve1/qemu/111")
        assert [x for x in lines if x.startswith(("protection: ", "tags: "))] == [
            "tags: lab",
            "protection: on: PVE refuses until it is switched off",
        ]
