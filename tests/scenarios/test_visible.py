"""What a PVE token cannot do at all is not listed; what it lacks is named, with the role."""

from __future__ import annotations

import pytest

from pvemcp.access.policy import Policy
from pvemcp.settings.policy import rules
from tests.scenarios.rig import ERAS, Caller, ToolFault, rig


async def listed(client: Caller) -> set[str]:
    """Return the names in tools/list."""
    return {tool.name for tool in (await client.mcp.list_tools()).tools}


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_lists_what_it_can_use(era: str) -> None:
    async with rig() as r:
        poor = r.world.token("poor@pve", roles={"/vms": "PVEAuditor"})
        async with r.client(era=era, token=poor) as client:
            names = await listed(client)
        assert {"guest_get", "api_read", "api_destroy", "task_list"} <= names
        assert names.isdisjoint({"guest_power", "guest_exec", "guest_file_write"})
        async with r.client(era=era) as client:
            everything = await listed(client)
        assert {"guest_power", "guest_exec", "host_run", "job_start"} <= everything


async def test_tools_of_the_host_need_a_right_on_some_node() -> None:
    async with rig() as r:
        user = r.world.token("user@pve", roles={"/vms": "PVEVMUser"})
        async with r.client(token=user) as client:
            names = await listed(client)
        assert "guest_power" in names
        assert not {name for name in names if name.startswith(("host_", "shell_", "job_"))}


async def test_a_client_is_told_to_ask_before_what_no_rule_allows() -> None:
    free = {"name": "lab", "verdict": "allow", "tool": "guest_*", "client": "tester", "tag": "lab"}
    async with rig() as r:
        asked = {"api_destroy", "guest_exec", "guest_file_write"}
        for rule, expected in (
            ({}, asked),
            (free, {"api_destroy"}),
            (free | {"effect": "change"}, asked),
            (free | {"client": "other"}, asked),
            (free | {"verdict": "ask"}, asked),
        ):
            given = Policy(rules("policy", [rule] if rule else []))
            async with r.client(policy=given) as client:
                tools = (await client.mcp.list_tools()).tools
            key = "anthropic/requiresUserInteraction"
            assert {t.name for t in tools if (t.meta or {}).get(key)} == expected, rule


async def test_while_pve_does_not_answer_everything_is_listed() -> None:
    async with rig() as r, r.client() as client:
        await r.pve.close()
        assert "guest_power" in await listed(client)


async def test_what_is_missing_is_named_with_path_and_role() -> None:
    async with rig() as r:
        token = r.world.token("poor@pve", roles={"/vms": "PVEAuditor"})
        async with r.client(token=token) as client:
            with pytest.raises(ToolFault) as caught:
                await client.call("guest_power", guests=106, action="start")
        text = str(caught.value)
        assert "lacks VM.PowerMgmt on /vms/106" in text
        assert "--roles MCPOperator" in text
