"""Ways round a rule: other spellings, other methods, other names for the same guest."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from pvemcp.access.policy import Policy
from pvemcp.call import ApiToken, Call, Effect, Intent
from pvemcp.plans.previews import bridges, preview
from pvemcp.settings.policy import rules
from tests.scenarios.rig import Caller, ToolFault, rig
from tests.scenarios.test_approvals import refused
from tests.scenarios.test_attacks import about_a_task
from tests.scenarios.test_guests import a_guest
from tests.scenarios.test_http import web
from tests.scenarios.test_policy import policy

PROD = {"name": "prod", "verdict": "deny", "tag": "prod"}


async def denied(client: Caller, rule: str, tool: str, **arguments: Any) -> None:
    """Call, and require that the rule stands in the way, or that PVE's own rules do before."""
    text = await refused(client, tool, **arguments)
    known = text.startswith(("invalid: ", "not_found: "))
    assert f"rule {rule!r}" in text or known, (tool, arguments, text)


async def test_a_guest_is_protected_whatever_names_it() -> None:
    async with rig() as r, r.client(policy=policy(PROD)) as client:
        change, destroy = "api_change", "api_destroy"
        node, disk = "/nodes/pve1", "local-lvm:vm-100-disk-0"
        backup = {"remove": 0}
        for tool, arguments in (
            (change, {"method": "PUT", "path": "/pools",
                      "params": {"poolid": "lab", "vms": "100", "allow-move": 1}}),
            (change, {"method": "PUT", "path": "/pools/prod",
                      "params": {"vms": "100", "delete": 1}}),
            (change, {"method": "POST", "path": f"{node}/vzdump",
                      "params": backup | {"vmid": "106,100"}}),
            (change, {"method": "POST", "path": f"{node}/vzdump", "params": backup | {"all": 1}}),
            (change, {"method": "POST", "path": f"{node}/vzdump",
                      "params": backup | {"exclude": "106", "mode": "stop"}}),
            (change, {"method": "POST", "path": f"{node}/vzdump",
                      "params": backup | {"pool": "prod", "mode": "stop"}}),
            (change, {"method": "PUT", "path": "/cluster/backup/nightly",
                      "params": {"enabled": 0}}),
            (change, {"method": "PUT", "path": "/cluster/backup/nightly",
                      "params": {"vmid": "106"}}),
            (change, {"method": "POST", "path": "/cluster/ha/rules", "params": {
                "rule": "ours", "type": "node-affinity", "resources": "vm:100", "nodes": "pve1"}}),
            (destroy, {"path": f"{node}/storage/local-lvm/content/{disk}"}),
            (destroy, {"method": "POST", "path": f"{node}/qemu", "params": {
                "vmid": 100, "archive": "local:backup/vzdump-qemu-106-2026_01_01-00_00_00.vma.zst",
                "force": 1}}),
            (destroy, {"method": "PUT", "path": f"{node}/qemu/106/config",
                       "params": {"scsi5": f"{disk},ro=1"}}),
            (destroy, {"method": "POST", "path": f"{node}/qemu/100/move_disk",
                       "params": {"disk": "scsi0", "target-vmid": 106}}),
            ("guest_exec", {"guest": 102, "command": "true"}),
            ("guest_exec", {"guest": "dns", "command": "true"}),
            ("guest_file_write", {"guest": 102, "path": "/tmp/x", "content": "x"}),
        ):  # fmt: skip
            text = await refused(client, tool, **arguments)
            assert "rule 'prod'" in text, (tool, arguments, text)
        assert r.world.guests[100].running
        assert r.running() == []
        await client.call("guest_power", guests=106, action="start")


async def test_a_guest_is_protected_from_losing_its_network_or_its_storage() -> None:
    async with rig() as r, r.client(policy=policy(PROD)) as client:
        r.world.sdn["zones"]["lab"] = {"type": "simple"}
        r.world.sdn["vnets"]["vnet1"] = {"type": "vnet", "zone": "lab"}
        r.world.guests[100].config["net1"] = "virtio=BC:24:11:00:00:01,bridge=vnet1"
        for verb, path in (
            ("PUT", "/nodes/pve1/network"), ("DELETE", "/nodes/pve1/network/vmbr0"),
            ("DELETE", "/nodes/pve1/network/eno1"), ("PUT", "/cluster/sdn"),
            ("DELETE", "/cluster/sdn/vnets/vnet1"), ("DELETE", "/storage/local-lvm"),
        ):  # fmt: skip
            text = await refused(client, "api_destroy", method=verb, path=path)
            assert "rule 'prod'" in text, (path, text)
        assert "vnet1" not in r.world.sdn_running["vnets"]
        assert "local-lvm" in r.world.storages
        plan = await client.call(
            "api_destroy", method="DELETE", path="/nodes/pve1/network", dry_run=True
        )
        assert "rule 'prod'" not in plan, "what is staged concerns nobody yet"


async def test_guests_that_were_not_read_count_as_any_guest() -> None:
    async with rig("cluster") as r, r.client(policy=policy(PROD)) as client:
        for guest in r.world.guests.values():
            guest.config["tags"] = "lab"
        path = "/cluster/sdn"
        r.world.sdn["zones"]["lab"] = {"type": "simple"}
        r.world.sdn["vnets"]["vnet1"] = {"type": "vnet", "zone": "lab"}
        assert len(r.world.guests) > bridges.READ
        text = await refused(client, "api_destroy", method="PUT", path=path)
        assert "rule 'prod'" in text


PATH = {"name": "path", "verdict": "deny", "path": "/nodes/pve1/qemu/100/*"}
NODE = {"name": "node", "verdict": "deny", "node": "pve1"}
VMID = {"name": "vmid", "verdict": "deny", "vmid": 100}


@pytest.mark.parametrize("rule", [PATH, NODE, VMID], ids=lambda rule: str(rule["name"]))
async def test_a_path_cannot_be_spelled_round_a_rule(rule: dict[str, Any]) -> None:
    async with rig() as r, r.client(policy=policy(rule)) as client:
        end = "/status/shutdown"
        for path in (
            f"/nodes/pve1/qemu/100{end}",
            f"/nodes/pve1/qemu/%31%30%30{end}",
            f"//nodes//pve1/qemu/100{end}/",
            f"/nodes/localhost/qemu/100{end}",
            f"/nodes/LOCALHOST/qemu/100{end}",
            f"/nodes/PVE1/qemu/100{end}",
            f"/NODES/pve1/QEMU/100{end}",
            f"/nodes/pve1/qemu/0100{end}",
            f"/nodes/pve1/qemu/+100{end}",
            f"/nodes/pve1/qemu/100.0{end}",
            f"/nodes/pve1/qemu/\uff11\uff10\uff10{end}",
            f"/nodes/pve1/qemu/100%2f..%2f100{end}",
            f"/nodes/pve1/lxc/../qemu/100{end}",
            f"/nodes/pve1%00/qemu/100{end}",
            f"/api2/json/nodes/pve1/qemu/100{end}",
        ):
            with pytest.raises(ToolFault):
                await client.call("api_change", method="POST", path=path)
        await denied(client, str(rule["name"]), "guest_power", guests="web01", action="shutdown")
        assert r.world.guests[100].running
        assert r.running() == []


async def test_a_guest_whose_tags_cannot_be_read_asks() -> None:
    async with rig() as r:
        r.world.add_role("Blind", "VM.PowerMgmt")
        token = r.world.token("blind@pve", "t", roles={"/vms/106": "Blind"})
        lab = policy({"name": "lab", "verdict": "allow", "tag": "lab"})
        async with r.client(policy=lab, token=token) as client:
            start = {"method": "POST", "path": "/nodes/pve1/qemu/106/status/start"}
            text = await refused(client, "api_change", **start)
            assert text.startswith("approval_needed: ")
            assert r.approvals.all()[0].rule.startswith("default: ")
        assert not r.world.guests[106].running
        async with r.client(policy=lab) as client:
            await client.call("api_change", **start)


async def test_a_policy_that_breaks_lets_nothing_through() -> None:
    def breaks(_: Call) -> list[str]:
        raise RuntimeError("gone")

    async with rig() as r, r.client(policy=Policy(tainted=breaks)) as client:
        text = await refused(client, "guest_power", guests=106, action="start")
        assert text.startswith("internal: ")
        assert "gone" not in text
        assert not r.world.guests[106].running


async def test_reads_are_denied_by_tag_for_every_tool() -> None:
    hidden = {"name": "hidden", "verdict": "deny", "effect": "read", "tag": "db"}
    async with web(policy=None, rules=rules("policy", [hidden])) as w, w.client() as client:
        path = "/nodes/pve1/qemu/101"
        for tool, arguments in (
            ("api_read", {"path": f"{path}/config"}),
            ("api_read", {"path": "/nodes/pve1/qemu/%31%30%31/status/current"}),
            ("guest_get", {"guest": "db01"}),
            ("guest_file_read", {"guest": 101, "path": "/etc/passwd"}),
        ):
            assert "rule 'hidden'" in await refused(client, tool, **arguments)
        await client.call("guest_get", guest=100)
        await client.call("api_read", path="/nodes/pve1/qemu/100/config")
        volumes = [v.volid for v in w.rig.world.storages["nas"].volumes if v.content == "backup"]
        for volid in volumes:
            path, hers = f"/nodes/pve1/storage/nas/content/{volid}", "-101-" in volid
            with contextlib.ExitStack() as stack:
                if hers:
                    stack.enter_context(pytest.raises(ToolFault, match="rule 'hidden'"))
                await client.call("api_read", path=path)
        assert any("-101-" in volid for volid in volumes)


async def test_a_client_with_the_same_pve_token_stops_no_task_of_another_without_a_person() -> None:
    async with web(policy=None) as w:
        _, secret = w.grants.create("other", Effect.DESTROY)
        vmid = a_guest(w.rig, running=False)
        async with w.client() as client:
            await client.call("guest_power", guests=vmid, action="start", wait=0)
            (upid,) = w.rig.running()
            async with w.client(secret=secret) as other:
                assert "pvemcp approvals" in await refused(other, "task_stop", upid=upid)
            assert w.rig.running() == [upid]
            await client.call("task_stop", upid=upid)
            assert w.rig.running() == []


async def test_a_rule_of_the_policy_holds_for_tasks_cancel_too() -> None:
    tasks = {"name": "tasks", "verdict": "deny", "path": "/nodes/*/tasks/*"}
    async with web(policy=policy(tasks)) as w:
        vmid = a_guest(w.rig, running=False)
        async with w.client() as client:
            await client.call("guest_power", guests=vmid, action="start", wait=0)
        (upid,) = w.rig.running()
        status, text = await about_a_task(w, "tasks/cancel", upid, w.secret)
        assert (status, "rule 'tasks'" in text) == (400, True)
        assert w.rig.running() == [upid]


PROD_ASKS = {"name": "prod", "verdict": "ask", "tag": "prod", "effect": "destroy", "persons": 2}
LAB_IS_FREE = {"name": "lab", "verdict": "allow", "pool": "lab", "tag": "scratch"}
VAULT = {"name": "vault", "verdict": "deny", "effect": "read", "tag": "prod"}
THERE = {"name": "there", "verdict": "allow", "node": "pve2", "effect": "destroy"}


def tags(vmid: int, **params: Any) -> dict[str, Any]:
    """Return a change of a guest's tags."""
    return {"method": "PUT", "path": f"/nodes/pve1/qemu/{vmid}/config", "params": params}


async def test_a_guest_leaves_no_rule_and_comes_under_none_without_a_yes() -> None:
    async with rig() as r, r.client(policy=policy(PROD_ASKS, VAULT, LAB_IS_FREE)) as client:
        for rule, change in (
            ("prod", tags(100, tags="web")),
            ("prod", tags(100, tags="")),
            ("prod", tags(100, delete="tags")),
            ("lab", tags(106, tags="lab;Scratch")),
        ):
            text = await refused(client, "api_change", **change)
            denied = text.startswith("denied: ") and "rule 'vault'" in text
            assert denied or r.approvals.all()[0].rule.startswith(f"rule '{rule}'"), text
        await client.call("api_change", **tags(100, tags="web;prod;more"))
        await client.call("api_change", **tags(106, tags="lab;other"))


async def test_a_guest_that_leaves_a_rule_of_two_persons_needs_two() -> None:
    async with rig() as r, r.client(policy=policy(PROD_ASKS)) as client:
        await refused(client, "api_change", **tags(100, tags="web"))
        (asked,) = r.approvals.all()
        assert asked.persons == 2
        await client.call("api_change", **tags(106, tags="scratch"))


async def test_a_pool_is_neither_left_nor_joined_without_a_yes() -> None:
    prod = {"name": "prod", "verdict": "deny", "pool": "prod", "effect": "destroy"}
    free = {"name": "free", "verdict": "allow", "pool": "lab"}
    moves = {"method": "PUT", "path": "/pools", "params": {
        "poolid": "lab", "vms": "100", "allow-move": 1}}  # fmt: skip
    out = {"method": "PUT", "path": "/pools/prod", "params": {"vms": "100", "delete": 1}}
    joins = {"method": "PUT", "path": "/pools/lab", "params": {"vms": "107"}}
    async with rig() as r:
        for rule, change in ((prod, moves), (prod, out), (free, moves), (free, joins)):
            async with r.client(policy=policy(rule)) as client:
                text = await refused(client, "api_change", **change)
                said = r.approvals.all()[0].rule if rule is free else text
                assert f"rule '{rule['name']}'" in said
        assert 100 in r.world.pools["prod"].vms
        assert not r.world.pools["lab"].vms & {100, 107}


async def test_a_guest_does_not_move_to_where_more_is_allowed_without_a_yes() -> None:
    async with rig("cluster") as r, r.client(policy=policy(THERE)) as client:
        vmid = next(
            g.vmid for g in r.world.guests.values() if g.type == "qemu" and g.node == "pve1"
        )
        move = {"method": "POST", "path": f"/nodes/pve1/qemu/{vmid}/migrate",
                "params": {"target": "pve2", "online": 1, "with-local-disks": 1}}  # fmt: skip
        await refused(client, "api_change", **move)
        assert "rule 'there'" in r.approvals.all()[0].rule


async def test_a_rule_about_a_pool_holds_for_a_token_that_may_not_see_pools() -> None:
    prod = {"name": "prod", "verdict": "deny", "pool": "prod", "effect": ["read", "change"]}
    lab = {"name": "lab", "verdict": "allow", "pool": "lab"}
    async with rig() as r:
        r.world.add_role("Operator", "VM.Audit", "VM.PowerMgmt", "VM.Config.Options")
        blind = r.world.token("blind@pve", "t", roles={"/vms": "Operator"})
        change = {"method": "PUT", "path": "/nodes/pve1/qemu/106/config",
                  "params": {"description": "mine"}}  # fmt: skip
        async with r.client(policy=policy(prod, lab), token=blind) as client:
            assert "rule 'prod'" in await refused(
                client, "guest_power", guests=100, action="shutdown"
            )
            assert "rule 'prod'" in await refused(client, "api_change", **change)
        async with r.client(policy=policy(prod, lab)) as client:
            await client.call("api_change", **change)


async def test_a_read_of_a_pool_is_denied_to_a_token_that_may_not_see_pools() -> None:
    prod = {"name": "prod", "verdict": "deny", "pool": "prod", "effect": "read"}
    async with web(policy=None, rules=rules("policy", [prod])) as w:
        w.rig.world.add_role("Looker", "VM.Audit")
        token = w.rig.world.token("blind@pve", "t", roles={"/vms": "Looker"})
        _, secret = w.grants.create("blind", Effect.READ, token=ApiToken(*token))
        async with w.client(secret=secret) as client:
            assert "rule 'prod'" in await refused(client, "guest_get", guest=100)
        async with w.client() as client:
            assert "rule 'prod'" in await refused(client, "guest_get", guest=100)
            await client.call("guest_get", guest=106)


async def test_a_free_node_is_no_way_to_the_volumes_of_guests_on_others() -> None:
    free = {"name": "free", "verdict": "allow", "node": "pve2", "effect": "destroy"}
    async with rig("cluster") as r, r.client(policy=policy(free)) as client:
        shared = next(s for s in r.world.storages.values() if s.shared and s.volumes)
        volume = next(v for v in shared.volumes if v.vmid and r.world.guests[v.vmid].node != "pve2")
        path = f"/nodes/pve2/storage/{shared.storage}/content/{volume.volid}"
        assert "pvemcp approvals" in await refused(client, "api_destroy", path=path)
        assert volume in shared.volumes


async def test_a_storage_that_each_node_has_concerns_the_guests_of_all() -> None:
    async with rig("cluster") as r, r.client(policy=policy(PROD)) as client:
        local = next(s for s in r.world.storages.values() if "rootdir" in s.content)
        local.shared = False
        path = f"/storage/{local.storage}"
        there = [
            g for g in r.world.guests.values()
            if any(str(v).startswith(f"{local.storage}:") for v in g.config.values())
        ]  # fmt: skip
        assert len({g.node for g in there}) > 1
        for guest in there:
            guest.config["tags"] = "lab"
        last = max(there, key=lambda g: g.node)
        last.config["tags"] = "prod"
        assert "rule 'prod'" in await refused(client, "api_destroy", path=path)


@pytest.mark.parametrize(
    ("kind", "name", "more", "meant"),
    [
        ("lvm", "pve", {}, True),
        ("lvmthin", "data", {"volume-group": "pve"}, True),
        ("lvmthin", "data", {"volume-group": "other"}, False),
        ("zfs", "tank", {}, False),
        ("directory", "usb", {}, False),
    ],
)
async def test_what_a_node_stores_guests_on_is_not_removed_past_the_rules_about_them(
    kind: str, name: str, more: dict[str, str], meant: bool
) -> None:
    async with rig() as r:
        pve = r.pve.bind(Call(r.principal(), "test", {}))
        template = f"/nodes/{{node}}/disks/{kind}/{{name}}"
        write = Intent("DELETE", f"/nodes/pve1/disks/{kind}/{name}", Effect.DESTROY, template,
                       {"node": "pve1", "name": name, **more}, "pve1")  # fmt: skip
        found = await preview(pve, write)
        assert found.confirm == name
        assert (100 in {target.vmid for target in found.users}) is meant
        assert ("guests with volumes there", "none seen") in found.facts or meant
