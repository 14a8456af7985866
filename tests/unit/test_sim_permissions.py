"""Who may do what on the simulated cluster."""

from __future__ import annotations

from pvemcp.sim.world import make_world
from tests.unit.sim_rig import Caller, caller, failure, root, token_headers

STATUS = "/nodes/pve1/qemu/100/status/current"


async def test_a_list_shows_only_what_the_caller_may_see() -> None:
    bob = caller(make_world("homelab"), vms_100="PVEVMUser")
    rows = await bob.data("GET", "/cluster/resources", type="vm")
    assert [row["vmid"] for row in rows] == [100]
    assert "pool" not in rows[0]


async def test_without_rights_a_missing_guest_is_forbidden_not_missing() -> None:
    bob = caller(make_world("homelab"), vms_100="PVEVMUser")
    reply = await bob.ask("GET", "/nodes/pve1/qemu/999/config")
    assert failure(reply) == (403, "Permission check failed (/vms/999, VM.Audit)")


async def test_the_permission_check_comes_before_the_parameters() -> None:
    bob = caller(make_world("homelab"), vms_100="PVEVMUser")
    reply = await bob.ask("POST", "/nodes/pve1/qemu/101/status/start", nonsense=1)
    assert failure(reply) == (403, "Permission check failed (/vms/101, VM.PowerMgmt)")


async def test_a_deeper_entry_replaces_the_inherited_role() -> None:
    world = make_world("homelab")
    bob = caller(world, vms="PVEVMAdmin", vms_101="NoAccess")
    assert (await bob.ask("GET", STATUS)).status == 200
    assert (await bob.ask("GET", STATUS.replace("100", "101"))).status == 403


async def test_an_entry_that_does_not_propagate_holds_on_its_own_path_alone() -> None:
    world = make_world("homelab")
    bob = caller(world)
    world.grant("/vms", "bob@pve", "PVEVMAdmin", propagate=False)
    assert (await bob.ask("GET", STATUS)).status == 403
    world.grant("/vms", "bob@pve", "PVEVMAdmin", propagate=True)
    assert (await bob.ask("GET", STATUS)).status == 200


async def test_a_privilege_separated_token_has_what_it_shares_with_its_user() -> None:
    world = make_world("homelab")
    world.add_user("bob@pve")
    world.grant("/vms", "bob@pve", "PVEAuditor")
    token = world.token("bob@pve", privsep=True)
    world.grant("/vms/100", token[0], "PVEVMAdmin")
    bob = Caller(world, token_headers(token))
    assert (await bob.ask("GET", STATUS)).status == 200
    started = await bob.ask("POST", "/nodes/pve1/qemu/100/status/start")
    assert failure(started) == (403, "Permission check failed (/vms/100, VM.PowerMgmt)")
    assert (await bob.ask("GET", STATUS.replace("100", "101"))).status == 403


async def test_the_rights_on_a_pool_hold_for_its_guests() -> None:
    bob = caller(make_world("homelab"), pool_lab="PVEVMUser")
    rows = await bob.data("GET", "/cluster/resources", type="vm")
    assert {row["vmid"] for row in rows} == {106, 108, 109, 111}


async def test_rights_of_a_group_are_those_of_its_members() -> None:
    world = make_world("homelab")
    bob = caller(world)
    world.access.groups["ops"] = ""
    world.access.users["bob@pve"].groups.add("ops")
    world.grant("/vms", "ops", "PVEVMUser")
    assert (await bob.ask("GET", STATUS)).status == 200


async def test_a_token_of_root_is_not_root() -> None:
    reply = await root().ask("PUT", "/nodes/pve1/qemu/100/config", args="-s")
    assert failure(reply) == (500, "only root can set 'args' config")


async def test_a_token_sees_the_tasks_of_others_only_with_an_audit_right() -> None:
    world = make_world("homelab")
    upid = await root(world).data("POST", "/nodes/pve1/qemu/106/status/start")
    bob = caller(world, vms="PVEVMAdmin")
    assert await bob.data("GET", "/cluster/tasks") == []
    reply = await bob.ask("GET", f"/nodes/pve1/tasks/{upid}/status")
    assert failure(reply) == (403, "Permission check failed (/nodes/pve1, Sys.Audit)")
    world.grant("/nodes", "bob@pve", "PVEAuditor")
    assert upid in {row["upid"] for row in await bob.data("GET", "/cluster/tasks")}


async def test_permissions_show_what_a_token_holds() -> None:
    bob = caller(make_world("homelab"), vms_100="PVETemplateUser")
    assert await bob.data("GET", "/access/permissions") == {
        "/vms/100": {"VM.Audit": 1, "VM.Clone": 1}
    }


async def test_who_may_rewrite_roles_can_raise_himself() -> None:
    world = make_world("homelab")
    world.add_role("Small", "Sys.Modify")
    bob = caller(world, _="Small")
    await bob.data("PUT", "/access/roles/Small", privs="Permissions.Modify", append=1)
    await bob.data("PUT", "/access/acl", path="/", roles="Administrator", users="bob@pve")
    assert (await bob.ask("GET", STATUS)).status == 200


async def test_no_access_on_access_stops_that() -> None:
    world = make_world("homelab")
    world.add_role("Small", "Sys.Modify")
    bob = caller(world, _="Small", access="NoAccess")
    reply = await bob.ask("PUT", "/access/roles/Small", privs="Permissions.Modify", append=1)
    assert failure(reply) == (403, "Permission check failed (/access, Sys.Modify)")


async def test_a_new_token_works_at_once_and_its_secret_is_shown_once() -> None:
    world = make_world("homelab")
    made = await root(world).data("POST", "/access/users/alice@pve/token/new", privsep=0)
    assert made["full-tokenid"] == "alice@pve!new"
    assert made["info"]["privsep"] == "0"
    alice = Caller(world, token_headers((made["full-tokenid"], made["value"])))
    assert (await alice.ask("GET", "/version")).status == 200
    shown = await root(world).data("GET", "/access/users/alice@pve/token/new")
    assert "value" not in shown


async def test_creating_a_guest_needs_the_pool_the_space_and_the_bridge() -> None:
    bob = caller(make_world("homelab"), pool_lab="PVEVMAdmin")
    wanted = {"vmid": 300, "scsi0": "local-lvm:8", "net0": "virtio,bridge=vmbr0", "cores": 2}
    path = "/nodes/pve1/qemu"
    assert failure(await bob.ask("POST", path, **wanted)) == (403, "Permission check failed")
    refused = await bob.ask("POST", path, **wanted, pool="lab")
    needed = "(/storage/local-lvm, Datastore.AllocateSpace)"
    assert failure(refused) == (403, f"Permission check failed {needed}")
    bob.world.grant("/storage", "bob@pve", "PVEDatastoreUser")
    refused = await bob.ask("POST", path, **wanted, pool="lab")
    needed = "(/sdn/zones/localnetwork/vmbr0, SDN.Use)"
    assert failure(refused) == (403, f"Permission check failed {needed}")
    bob.world.grant("/sdn", "bob@pve", "PVESDNUser")
    assert await bob.task("POST", path, **wanted, pool="lab") == "OK"
    assert (await bob.ask("GET", f"{path}/300/config")).status == 200
