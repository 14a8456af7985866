"""What a client finds in the audit: its own calls, or all where it may change PVE itself."""

from __future__ import annotations

import pytest

from pvemcp.call import ApiToken, Effect
from tests.scenarios.rig import ERAS, rig
from tests.scenarios.test_approvals import refused
from tests.scenarios.test_http import web


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


async def test_only_who_may_change_pve_sees_calls_of_others() -> None:
    async with web() as w:
        async with w.client() as admin:
            await admin.call("guest_get", guest=106)
        poor = w.rig.world.token("poor@pve", roles={"/": "PVEAuditor"})
        _, secret = w.grants.create("poor", Effect.READ, token=ApiToken(*poor))
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
