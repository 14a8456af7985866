"""What a client finds in the audit: its own calls, or all where it may change PVE itself."""

from __future__ import annotations

from typing import Any

import pytest

from pvemcp.access.approvals import Person
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Effect
from tests.scenarios.browsing import site
from tests.scenarios.rig import ERAS, rig
from tests.scenarios.test_approvals import refused
from tests.scenarios.test_http import web
from tests.scenarios.test_sessions import listed


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_finds_its_calls_with_what_they_wrote(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        await client.call("guest_power", guests=106, action="start")
        await refused(client, "guest_power", guests=9999, action="start")
        rows = await client.data(
            "audit_search", where="tool=guest_power", fields=["outcome", "writes"]
        )
        text = str(rows)
        assert "POST /nodes/pve1/qemu/106/status/start" in text
        assert "not_found" in text
        assert "1 record" in await client.call(
            "audit_search", where=["outcome=ok", "tool=guest_power"]
        )


@pytest.mark.parametrize(
    ("role", "ceiling"),
    [("PVEAuditor", Effect.DESTROY), ("Administrator", Effect.CHANGE)],
    ids=["token", "ceiling"],
)
async def test_only_who_may_change_pve_sees_calls_of_others(role: str, ceiling: Effect) -> None:
    async with web() as w:
        async with w.client() as admin:
            await admin.call("guest_get", guest=106)
        poor = w.rig.world.token("poor@pve", roles={"/": role})
        _, secret = w.grants.create("poor", ceiling, token=ApiToken(*poor))
        async with w.client(secret=secret) as client:
            await client.call("api_read", path="/version")
            own = await client.call("audit_search")
            assert "laptop" not in own
            assert "api_read" in own
        async with w.client() as admin:
            everyone = await admin.call("audit_search")
            assert "poor" in everyone
            assert "laptop" in everyone


async def test_a_client_without_a_grant_finds_its_own_calls() -> None:
    async with rig() as r:
        r.grant = ""
        poor = r.world.token("poor@pve", roles={"/": "PVEAuditor"})
        async with r.client(token=poor) as client:
            await client.call("api_read", path="/version")
            assert "api_read" in await client.call("audit_search")


@pytest.mark.parametrize("era", ERAS)
async def test_a_row_says_who_what_and_how(era: str) -> None:
    """Of a call over HTTP that a person approved: each field that somebody will look for."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    meta: Any = {"claudecode/toolUseId": "toolu_1", "traceparent": trace}
    async with site() as s:
        asked = await s.asked(100)
        s.approvals.approve(asked.id, Person("alice", "host"))
        async with s.web.client(era=era) as client:
            await client.mcp.call_tool(
                "guest_power",
                {"guests": 100, "action": "stop", "approval": asked.id},
                meta=meta,
            )
            sessions = [session["id"] for session in await listed(s.web)]
        (row,) = [e for e in Audit(s.rig.store, None).rows() if e.outcome == "ok"]
    assert (row.client, row.address, row.tool) == ("laptop", "127.0.0.1", "guest_power")
    assert row.grant
    assert row.mcp_client.startswith("mcp ")
    assert row.about["pve_user"] == "root@pam!mcp"
    assert row.about["session"] in sessions
    assert (row.about["tool_use"], row.about["trace"]) == ("toolu_1", trace)
    assert (row.about["approval"], row.about["approved_by"]) == (asked.id, "alice (host)")
    assert row.about["plan"][0] == "takes the power of qemu/100 web01: unsaved data is lost"
    assert row.about["plan"][1].startswith("LOST (1): what the guest has not written")
    assert row.about["result"] > 0
    assert row.arguments["guests"] == 100
    writes = [step for step in row.steps if step["effect"] != "read"]
    assert [(w["verb"], w["path"], w["status"]) for w in writes] == [
        ("POST", "/nodes/pve1/qemu/100/status/stop", 200)
    ]
    assert writes[0]["upid"].startswith("UPID:pve1:")
    assert row.ms > 0


async def test_what_was_planned_is_in_the_row_of_a_call_that_was_denied() -> None:
    async with site() as s:
        await s.asked(100)
        (row,) = [e for e in Audit(s.rig.store, None).rows() if e.tool == "guest_power"]
    assert row.outcome == "approval_needed"
    assert row.about["plan"][0].startswith("takes the power of qemu/100")
