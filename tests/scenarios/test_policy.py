"""Rules and freezes as a client meets them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pvemcp.access.freeze import Freezes
from pvemcp.access.policy import Policy
from pvemcp.settings.policy import rules
from tests.scenarios.rig import ToolFault, rig
from tests.scenarios.test_approvals import refused
from tests.scenarios.test_http import web


def policy(*given: dict[str, Any]) -> Policy:
    """Return a policy of these rules."""
    return Policy(rules("policy", list(given)))


async def test_a_tag_asks_whatever_way_leads_to_the_guest() -> None:
    prod = policy({"name": "prod", "verdict": "deny", "tag": "prod"})
    async with rig() as r, r.client(policy=prod) as client:
        path, coded = "/nodes/pve1/qemu/100", "/nodes/pve1/qemu/%31%30%30"
        ways: list[tuple[str, dict[str, Any]]] = [
            ("guest_power", {"guests": 100, "action": "shutdown"}),
            ("guest_power", {"guests": "WEB01", "action": "shutdown"}),
            ("guest_power", {"guests": [111, 100], "action": "shutdown"}),
            ("api_change", {"method": "POST", "path": f"{path}/status/shutdown"}),
            ("api_change", {"method": "POST", "path": f"{coded}/status/shutdown"}),
            ("api_change", {"method": "POST", "path": "//nodes//pve1/qemu/100/status/shutdown/"}),
            ("api_change", {"method": "POST", "path": "/nodes/{node}/qemu/{vmid}/status/shutdown",
                            "params": {"node": "pve1", "vmid": 100}}),
            ("api_change", {"method": "PUT", "path": f"{path}/config", "params": {"tags": "lab"}}),
            ("api_destroy", {"path": f"{path}/snapshot/tested"}),
            ("guest_exec", {"guest": 100, "command": "true"}),
        ]  # fmt: skip
        for tool, arguments in ways:
            text = await refused(client, tool, **arguments)
            assert "rule 'prod'" in text or text.startswith("invalid: ")
        assert r.world.guests[100].running
        assert r.world.guests[111].running
        assert r.world.guests[100].config["tags"] == "prod;web"


async def test_a_denied_read_is_denied_for_every_tool() -> None:
    hidden = policy({"name": "hidden", "verdict": "deny", "effect": "read", "vmid": 101})
    async with rig() as r, r.client(policy=hidden) as client:
        r.pve.permit = hidden.permit
        path = "/nodes/pve1/qemu/101/config"
        for tool, arguments in (
            ("api_read", {"path": path}),
            ("guest_get", {"guest": 101}),
            ("guest_get", {"guest": "db01"}),
        ):
            assert "rule 'hidden'" in await refused(client, tool, **arguments)
        await client.call("guest_get", guest=100)


async def test_a_protected_guest_asks_for_what_is_a_mere_change() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        r.world.guests[106].config["protection"] = 1
        assert (await refused(client, "guest_power", guests=106, action="start")).startswith(
            "approval_needed"
        )
        r.world.guests[106].config["protection"] = 0
        assert "OK" in await client.call("guest_power", guests=106, action="start")


async def test_a_freeze_stops_changes_of_a_running_service_at_once_and_thaw_ends_it() -> None:
    async with web(policy=None) as w, w.client() as client:
        freezes = Freezes(w.rig.store)
        freezes.freeze("read-only", by="root", reason="too eager")
        text = await refused(client, "guest_power", guests=106, action="start")
        for part in ("frozen since", "by root: too eager", "pvemcp thaw"):
            assert part in text
        await client.call("guest_get", guest=106)
        freezes.freeze("all", by="root")
        assert "everything of every client is frozen" in await refused(
            client, "guest_get", guest=106
        )
        freezes.thaw(by="root")
        await client.call("guest_get", guest=106)


async def test_a_frozen_client_is_stopped_alone() -> None:
    async with web(policy=None) as w, w.client() as client:
        Freezes(w.rig.store).freeze("all", client="another", by="root")
        await client.call("guest_get", guest=106)
        Freezes(w.rig.store).freeze("all", client="laptop", by="root")
        assert "frozen" in await refused(client, "guest_get", guest=106)


async def test_a_freeze_ends_shells_and_commands_that_may_change() -> None:
    async with web(policy=None) as w, w.client() as client:
        opened = await client.call("shell_open", effect="change")
        name = opened.split()[0]
        reader = (await client.call("shell_open")).split()[0]
        running = asyncio.create_task(client.call("host_run", command="sleep 60", effect="change"))
        while not any(ask.get("shell") == "sleep 60" for ask in w.rig.executor.asked):  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        Freezes(w.rig.store).freeze("read-only", by="root")
        async with asyncio.timeout(10):
            with pytest.raises(ToolFault):
                await running
            while "ended" not in await client.call("shell_read", shell=name):
                await asyncio.sleep(0.05)
        assert "frozen" in await client.call("shell_read", shell=name)
        assert "open" in await client.call("shell_read", shell=reader)
