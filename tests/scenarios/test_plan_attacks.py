"""What a client does so that a person says yes to something else than the plan shows."""

from __future__ import annotations

import pytest

from pvemcp.access.policy import Policy
from tests.scenarios.rig import ToolFault, rig
from tests.scenarios.test_approvals import refused


async def test_a_person_sees_all_of_a_command_whatever_it_looks_like() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        for number, command in enumerate(
            (
                'echo "TOKEN=" ; reboot ; echo ""',
                "echo fine #" + "x" * 9000 + " \nreboot",
                "echo fine" + "\n" * 500 + "reboot",
                "echo fine" + " " * 500 + "; reboot",
            )
        ):
            for tool, arguments in (
                ("guest_exec", {"guest": 100, "command": command}),
                ("guest_exec", {"guest": 100, "command": "sh", "stdin": command}),
                ("api_destroy", {
                    "method": "POST", "path": "/nodes/pve1/qemu/100/agent/exec",
                    "params": {"command": ["sh"], "input-data": command}}),
            ):  # fmt: skip
                with pytest.raises(ToolFault, match="approval_needed"):
                    await client.call(tool, **arguments)
                text = r.approvals.all()[0].text
                assert "reboot" in text, (number, tool)
                assert " " * 100 not in text
                assert "\n\n\n" not in text


async def test_an_argument_of_several_lines_cannot_pass_as_lines_of_the_plan() -> None:
    forged = "- POST /nodes/pve1/qemu/106/status/start: starts qemu/106"
    async with rig() as r, r.client(policy=Policy()) as client:
        await refused(client, "guest_exec", guest=100, command=f"reboot\n{forged}\n\tundo: yes")
        lines = r.approvals.all()[0].text.splitlines()
        assert f"    | {forged}" in lines
        assert [line for line in lines if line.strip().startswith(("- POST", "undo: yes"))] == [
            line for line in lines if "agent/exec: " in line and line.startswith("- POST")
        ]


async def test_an_address_in_a_set_that_a_rule_drops_asks() -> None:
    add = {"method": "POST", "path": "/cluster/firewall/ipset/badguys"}
    async with rig() as r, r.client(policy=Policy()) as client:
        await client.call("api_change", method="POST", path="/cluster/firewall/ipset",
                          params={"name": "badguys"})  # fmt: skip
        await client.call("api_change", **add, params={"cidr": "192.0.2.1"})
        r.world.firewall["cluster"].append(
            {"type": "in", "action": "DROP", "source": "+dc/badguys", "enable": 1}
        )
        await refused(client, "api_change", **add, params={"cidr": "0.0.0.0/1"})
        assert "LOST: what comes from or goes to it: rule 2 of rules drops the set" in (
            r.approvals.all()[0].text
        )


async def test_the_first_line_of_a_dialog_names_a_command_given_to_pves_own_method() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        path = "/nodes/pve1/qemu/100/agent/exec"
        await refused(client, "api_destroy", method="POST", path=path,
                      params={"command": ["rm", "-rf", "/srv"]})  # fmt: skip
        assert "['rm', '-rf', '/srv']" in r.approvals.all()[0].brief[0]
