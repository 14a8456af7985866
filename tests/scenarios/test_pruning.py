"""What goes with a retention or an older method is seen, judged and typed before it goes."""

from __future__ import annotations

from pvemcp.access.policy import Policy
from pvemcp.call import Call, Effect, Intent
from pvemcp.plans.previews import preview
from tests.scenarios.rig import rig
from tests.scenarios.test_approvals import ROOT, id_in, refused
from tests.scenarios.test_policy import policy

PRUNE = {"path": "/nodes/pve1/storage/nas/prunebackups"}


def keep(number: int, **more: int) -> dict[str, object]:
    """Return the arguments of a call that keeps so many backups of each guest."""
    return {**PRUNE, "params": {"prune-backups": f"keep-last={number}", **more}}


async def test_backups_that_a_retention_deletes_are_named_and_typed() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        volumes = r.world.storages["nas"].volumes
        await refused(client, "api_destroy", **keep(1, vmid=106))
        (asked,) = r.approvals.all()
        mine = sorted(v.volid for v in volumes if v.vmid == 106)
        assert [volid in asked.text for volid in mine] == [True] * (len(mine) - 1) + [False]
        assert asked.confirm == "nas"
        r.approvals.approve(asked.id, ROOT, typed="nas")
        await client.call("api_destroy", **keep(1, vmid=106), approval=asked.id)
        assert [v.volid for v in volumes if v.vmid == 106] == mine[-1:]


async def test_an_approval_is_void_once_other_backups_would_go() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        id_ = id_in(await refused(client, "api_destroy", **keep(1)))
        r.approvals.approve(id_, ROOT, typed="nas")
        volumes = r.world.storages["nas"].volumes
        kept = max((v for v in volumes if v.vmid == 106), key=lambda each: each.ctime)
        kept.protected = True
        text = await refused(client, "api_destroy", **keep(1), approval=id_)
        assert "not what they were" in text


async def test_a_rule_about_a_guest_holds_for_its_backups_in_a_retention() -> None:
    prod = {"name": "prod", "verdict": "deny", "tag": "prod"}
    async with rig() as r, r.client(policy=policy(prod)) as client:
        assert "rule 'prod'" in await refused(client, "api_destroy", **keep(1))
        assert "rule 'prod'" not in await refused(client, "api_destroy", **keep(1, vmid=106))


async def test_disks_that_are_unlinked_are_shown_as_lost_and_typed() -> None:
    async with rig() as r:
        pve = r.pve.bind(Call(r.principal(), "test", {}))
        template = "/nodes/{node}/qemu/{vmid}/unlink"
        for force, word in ((0, "detached"), (1, "deleted")):
            found = await preview(pve, Intent(
                "PUT", "/nodes/pve1/qemu/106/unlink", Effect.DESTROY, template,
                {"node": "pve1", "vmid": 106, "idlist": "scsi0", "force": force}, "pve1",
            ))  # fmt: skip
            assert found.lost == (f"scsi0 local-lvm:vm-106-disk-0,size=32G is {word}",)
            assert found.confirm == ("106" if force else "")
            assert found.intent.template == template
