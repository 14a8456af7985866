"""The whole PVE API through the five generic tools."""

from __future__ import annotations

import pytest

from pvemcp.call import Effect
from tests.scenarios.rig import ToolFault, rig
from tests.scenarios.test_guests import a_guest


async def test_a_method_is_found_by_words_and_says_its_privileges(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        text = await client.call("api_search", query="vm snapshot create")
        line = next(
            li
            for li in text.split("\n")
            if li.startswith("POST /nodes/{node}/qemu/{vmid}/snapshot")
        )
        assert "VM.Snapshot on /vms/{vmid}" in line
        assert "change" in line


async def test_a_method_is_described_as_a_person_reads_it() -> None:
    async with rig() as r, r.client() as client:
        text = await client.call(
            "api_describe", path="/nodes/pve1/qemu/100/snapshot", method="POST"
        )
        assert text.startswith("POST /nodes/{node}/qemu/{vmid}/snapshot\n")
        assert "snapname (required)" in text
        assert "effect: change" in text


async def test_a_path_is_described_with_all_its_methods() -> None:
    async with rig() as r, r.client() as client:
        text = await client.call("api_describe", path="/pools")
        assert text.startswith("GET /pools\n")
        assert "also here:\nPOST: " in text
        only = await client.call("api_describe", path="/nodes/pve1/qemu/100/resize")
        assert only.startswith("PUT /nodes/{node}/qemu/{vmid}/resize\n")


async def test_a_pool_is_read_as_a_list_of_its_members() -> None:
    async with rig() as r, r.client() as client:
        pool = next(iter(r.world.pools))
        text = await client.call("api_read", path=f"/pools/{pool}", limit=1)
        assert "members" not in text
        assert " items\nvmid\t" in text or "1 item\nvmid\t" in text


async def test_any_path_is_read_as_text_and_as_json() -> None:
    async with rig() as r, r.client() as client:
        assert "release: " in await client.call("api_read", path="/version")
        assert "release" in await client.data("api_read", path="version")
        listed = await client.data("api_read", path="/nodes")
        assert listed["items"][0]["node"] == "pve1"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ({"path": "/nodse"}, "invalid", "/nodes"),
        ({"path": "/nodes/pve1/qemu/100/confg"}, "invalid", "config"),
        ({"path": "/nodes/pve1/../../access/users"}, "invalid", ""),
        ({"path": "/nodes/pve1/qemu", "params": {"ful": 1}}, "invalid", "full"),
        ({"path": "/nodes/pve1/qemu", "params": {"full": "TRUE?"}}, "invalid", "full"),
        ({"path": "/nodes/pve1/qemu/999/config"}, "not_found", "999"),
        ({"path": "/nodes/nope/status"}, "not_found", "pve1"),
        ({"path": "/pools/zzz"}, "not_found", "zzz"),
        ({"path": "/version", "where": ["a=b"]}, "invalid", "not a list"),
        ({"path": "/nodes/pve1/qemu/{vmid}/config"}, "invalid", "vmid"),
    ],
)
async def test_a_wrong_read_names_the_remedy(
    arguments: dict[str, object], code: str, says: str
) -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault) as error:
            await client.call("api_read", **arguments)
        text = str(error.value)
        assert text.startswith(f"{code}: ")
        assert says in text
        assert "Traceback" not in text


async def test_a_guest_of_the_other_type_or_node_is_pointed_to() -> None:
    async with rig("cluster") as r, r.client() as client:
        container = next(
            g for g in r.world.guests.values() if g.type == "lxc" and r.world.online(g.node)
        )
        with pytest.raises(ToolFault) as error:
            await client.call(
                "api_read", path=f"/nodes/{container.node}/qemu/{container.vmid}/config"
            )
        assert f"{container.node}/lxc/{container.vmid}" in str(error.value)


async def test_a_change_is_sent_and_followed() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r)
        text = await client.call(
            "api_change",
            method="POST",
            path=f"/nodes/pve1/qemu/{vmid}/snapshot",
            params={"snapname": "fresh-one", "vmstate": True},
        )
        assert ": OK after" in text
        assert "fresh-one" in await client.call("guest_get", guest=vmid)


async def test_a_duplicate_snapshot_is_an_error_though_pve_said_200() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r)
        path = f"/nodes/pve1/qemu/{vmid}/snapshot"
        await client.call("api_change", method="POST", path=path, params={"snapname": "one"})
        with pytest.raises(ToolFault, match="task_failed"):
            await client.call("api_change", method="POST", path=path, params={"snapname": "one"})


async def test_what_destroys_is_not_a_change() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r)
        with pytest.raises(ToolFault, match="api_destroy"):
            await client.call(
                "api_change", method="POST", path=f"/nodes/pve1/qemu/{vmid}/status/stop"
            )
        assert r.world.guests[vmid].running


async def test_a_guest_is_deleted_only_with_a_destroy_grant() -> None:
    async with rig() as r:
        vmid = a_guest(r, running=False)
        path = f"/nodes/pve1/qemu/{vmid}"
        async with r.client(ceiling=Effect.CHANGE) as client:
            with pytest.raises(ToolFault, match="denied"):
                await client.call("api_destroy", path=path)
        assert vmid in r.world.guests
        async with r.client() as client:
            assert ": OK after" in await client.call("api_destroy", path=path)
        assert vmid not in r.world.guests


@pytest.mark.parametrize(
    "path", ["/nodes/pve1/execute", "/access/ticket", "/access/users/root@pam/token/x"]
)
async def test_what_could_raise_rights_is_not_available_to_any_grant(path: str) -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault):
            await client.call("api_destroy", method="POST", path=path, params={})
        assert not [key for key in r.world.requests if key[0] == "POST"]


async def test_a_write_whose_answer_is_lost_is_uncertain_and_not_repeated() -> None:
    async with rig() as r, r.client() as client:
        r.world.faults.answer_596_after_write(times=1)
        with pytest.raises(ToolFault, match="uncertain") as error:
            await client.call("api_change", method="POST", path="/pools", params={"poolid": "new"})
        assert "may" in str(error.value)
        assert r.world.requests["POST", "/pools"] == 1


async def test_a_read_survives_a_dropped_connection() -> None:
    async with rig() as r, r.client() as client:
        await client.call("api_read", path="/version")
        r.world.faults.drop_connections(1)
        assert "release" in await client.call("api_read", path="/version")


async def test_a_missing_privilege_is_named_with_its_path() -> None:
    async with rig() as r:
        token = r.world.token("root@pam", "aud", privsep=True, roles={"/": "PVEAuditor"})
        async with r.client(token=token) as client:
            vmid = a_guest(r)
            with pytest.raises(ToolFault, match="denied") as error:
                await client.call(
                    "api_change", method="POST", path=f"/nodes/pve1/qemu/{vmid}/status/reboot"
                )
            assert "VM.PowerMgmt" in str(error.value)
            assert f"/vms/{vmid}" in str(error.value)
            assert "root@pam!aud" in str(error.value)


async def test_a_wrong_token_is_said_without_its_secret() -> None:
    async with rig() as r:
        wrong = ("root@pam!mcp", "11111111-2222-3333-4444-555555555555")
        async with r.client(token=wrong) as client:
            with pytest.raises(ToolFault, match="unauthenticated") as error:
                await client.call("api_read", path="/version")
            assert "root@pam!mcp" in str(error.value)
            assert wrong[1] not in str(error.value)


async def test_an_empty_list_under_a_weak_token_says_so() -> None:
    async with rig() as r:
        weak = r.world.token("root@pam", "weak", privsep=True)
        async with r.client(token=weak) as client:
            text = await client.call("api_read", path="/nodes/pve1/qemu")
            assert text.startswith("empty list")
            assert "incomplete" in text


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("PUT", "/access/acl", {"path": "/", "roles": "PVEAdmin"}),
        ("POST", "/access/ticket", {"username": "root@pam", "password": "secret"}),
    ],
)
async def test_what_nobody_may_call_is_not_sent_to_another_tool(
    method: str, path: str, params: dict[str, str]
) -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault, match="closed to every client") as error:
            await client.call("api_change", method=method, path=path, params=params)
        assert "api_destroy" not in str(error.value)


async def test_a_field_that_is_not_set_is_named() -> None:
    async with rig() as r, r.client() as client:
        text = await client.call("api_read", path="/version", fields=["version", "nope"])
        assert text.endswith("\nnot set: nope")


async def test_a_guest_that_is_started_with_its_making_says_that_this_is_another_task() -> None:
    async with rig() as r, r.client() as client:
        params = {"vmid": 7001, "memory": 64, "start": True}
        text = await client.call(
            "api_change", method="POST", path="/nodes/pve1/qemu", params=params
        )
        assert "qmcreate 7001 on pve1: OK" in text
        assert "a task of its own" in text


async def test_what_is_made_visible_in_a_text_keeps_its_value_in_json() -> None:
    async with rig() as r, r.client() as client:
        path = f"/nodes/pve1/qemu/{a_guest(r)}/config"
        hidden = "right\u202eleft\u0085 \U000e0041"
        await client.call("api_change", method="PUT", path=path, params={"description": hidden})
        assert "right\\u202eleft" in await client.call("api_read", path=path)
        assert (await client.data("api_read", path=path))["description"] == hidden
