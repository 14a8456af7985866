"""Who is not let in stands in the audit, and cannot fill it."""

from __future__ import annotations

from typing import Any

import pytest

from pvemcp.access.refusals import MOST, REFUSED, Refusals
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Effect
from pvemcp.chain import Chain
from pvemcp.errors import Unavailable
from pvemcp.verifying import verify
from tests.scenarios.browsing import Site, site


def refusals(s: Site) -> list[dict[str, Any]]:
    """Return what the audit says of those who were refused."""
    return [dict(one.about) for one in Audit(s.rig.store, None).events(1000) if one.kind == REFUSED]


async def wrong(s: Site, times: int = 1, secret: str = "pvemcp_" + "x" * 43) -> None:
    """Come with a wrong secret."""
    for _ in range(times):
        await s.web.post({"Authorization": f"Bearer {secret}"})


async def test_a_wrong_secret_is_in_the_audit_without_the_secret() -> None:
    async with site() as s:
        await wrong(s, secret="pvemcp_" + "s3cr3t" * 7)
        (found,) = refusals(s)
        assert found == {"reason": "invalid_token", "address": "127.0.0.1", "count": 1}
        assert "s3cr3t" not in str(s.rig.store.rows("SELECT body FROM chain"))
        assert verify(Chain(s.rig.store)) == ""


async def test_who_hammers_at_the_door_is_counted_a_minute_at_a_time() -> None:
    async with site() as s:
        await wrong(s, 50)
        assert [(one["reason"], one["count"]) for one in refusals(s)] == [
            ("invalid_token", 1), ("too_many_attempts", 1),
        ]  # fmt: skip
        s.steady[0] += 61
        await wrong(s)
        counts = [(one["reason"], one["count"]) for one in refusals(s)[2:4]]
        assert counts == [("invalid_token", 9), ("too_many_attempts", 39)]


async def test_a_foreign_name_and_a_malformed_credential_are_in_the_audit() -> None:
    async with site() as s:
        await s.web.post({"Host": "evil.example"})
        await s.web.post({"Origin": "https://evil.example"})
        await s.web.post({"Authorization": "Bearer ()"})
        reasons = [one["reason"] for one in refusals(s)]
        assert reasons == ["foreign_host", "foreign_origin", "invalid_request"]


async def test_a_request_without_a_secret_tried_nothing() -> None:
    async with site() as s:
        status, *_ = await s.web.post({"Authorization": ""})
        assert status == 401
        assert refusals(s) == []


async def test_a_client_whose_pve_token_is_gone_is_named() -> None:
    async with site() as s:
        _, secret = s.web.grants.create(
            "tablet", Effect.READ, token=ApiToken("nobody@pve!gone", "0" * 8)
        )
        status, *_ = await s.web.post({"Authorization": f"Bearer {secret}"})
        assert status == 401
        assert [(one["reason"], one["client"]) for one in refusals(s)] == [
            ("invalid_token", "tablet")
        ]


async def test_a_client_beyond_its_requests_a_minute_is_named() -> None:
    async with site(requests_per_minute=10) as s:
        for _ in range(15):
            await s.web.post()
        assert [(one["reason"], one["client"]) for one in refusals(s)] == [
            ("requests_per_minute", "laptop")
        ]


async def test_who_administers_pve_finds_them() -> None:
    async with site() as s:
        await wrong(s)
        async with s.web.client() as admin:
            text = await admin.call("audit_search", where="tool=refused")
            assert "invalid_token" in text
        poor = s.rig.world.token("poor@pve", roles={"/": "PVEAuditor"})
        _, secret = s.web.grants.create("poor", Effect.READ, token=ApiToken(*poor))
        async with s.web.client(secret=secret) as client:
            assert "invalid_token" not in await client.call("audit_search")


def test_many_addresses_do_not_fill_the_audit() -> None:
    told: list[dict[str, Any]] = []
    now = [0.0]
    door = Refusals(lambda _kind, about: told.append(dict(about)), lambda: now[0])
    for number in range(10_000):
        door.note("invalid_token", f"10.{number // 65536}.{number // 256 % 256}.{number % 256}")
    assert len(told) == MOST + 1
    now[0] += 61
    door.sweep()
    assert len(told) == MOST + 2
    assert sum(one["count"] for one in told) == 10_000
    assert told[-1]["address"] == "others"


def test_an_ipv6_network_is_one_address() -> None:
    told: list[dict[str, Any]] = []
    door = Refusals(lambda _kind, about: told.append(dict(about)), lambda: 0.0)
    for number in range(100):
        door.note("invalid_token", f"2001:db8::{number:x}")
    assert [one["address"] for one in told] == ["2001:db8::/64"]


@pytest.mark.parametrize("reason", ["unauthenticated", "unavailable"])
def test_what_is_no_attempt_is_not_told(reason: str) -> None:
    told: list[object] = []
    Refusals(lambda *said: told.append(said), lambda: 0.0).note(reason, "10.0.0.1")
    assert told == []


def test_an_audit_that_cannot_be_written_lets_nobody_in_and_breaks_nothing() -> None:
    def full(*_: object) -> None:
        raise Unavailable("no room")

    Refusals(full, lambda: 0.0).note("invalid_token", "10.0.0.1")
