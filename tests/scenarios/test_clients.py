"""A client has two halves, a grant and a PVE token: ending either ends it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from pvemcp.call import ApiToken, Effect
from pvemcp.errors import Unavailable
from pvemcp.pve.alive import FRESH, UNKNOWN, Alive
from pvemcp.pve.transport import Address, Reply, Transport
from tests.scenarios.rig import rig
from tests.scenarios.test_http import Web, web

SECONDS = 5.0
"""Within which a revoked client must be out."""


def with_token(w: Web, name: str = "ci") -> tuple[dict[str, str], ApiToken]:
    token = ApiToken(
        *w.rig.world.token("pvemcp@pve", name, privsep=True, roles={"/": "PVEAuditor"})
    )
    _, secret = w.grants.create(name, Effect.READ, token=token)
    return {"Authorization": f"Bearer {secret}"}, token


async def until_refused(w: Web, header: dict[str, str]) -> tuple[float, str]:
    started = time.monotonic()
    while (answer := await w.post(header))[0] == 200:
        assert time.monotonic() - started < 2 * SECONDS
    assert answer[0] == 401
    return time.monotonic() - started, answer[2]


async def test_a_token_that_is_removed_in_pve_ends_its_client_and_no_other() -> None:
    async with web() as w:
        (header, token), (other, _) = with_token(w), with_token(w, "other")
        assert (await w.post(header))[0] == 200
        del w.rig.world.access.users["pvemcp@pve"].tokens["ci"]
        took, body = await until_refused(w, header)
        assert took < SECONDS
        assert "pvemcp@pve!ci" in body
        assert "pvemcp client" in body
        assert token.secret not in body
        assert (await w.post(other))[0] == 200


async def test_a_disabled_account_ends_all_its_clients() -> None:
    async with web() as w:
        header, _ = with_token(w)
        w.rig.world.access.users["pvemcp@pve"].enable = False
        took, _ = await until_refused(w, header)
        assert took < SECONDS
        assert (await w.post())[0] == 200


async def test_what_a_client_has_under_way_ends_with_its_token_in_pve(tmp_path: Path) -> None:
    async with web() as w:
        header, _ = with_token(w)
        secret = header["Authorization"].removeprefix("Bearer ")
        async with w.client(secret=secret) as client:
            command = f"touch {tmp_path}/begun; sleep 60"
            call = asyncio.create_task(client.call("host_run", command=command))
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
            del w.rig.world.access.users["pvemcp@pve"].tokens["ci"]
            async with asyncio.timeout(3 * SECONDS):
                while w.rig.audit()[0].outcome != "cancelled":
                    await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)


async def test_the_old_secret_works_until_its_grace_is_over_and_the_new_one_at_once() -> None:
    async with web() as w:
        old, _ = with_token(w)
        fresh = ApiToken(*w.rig.world.token("pvemcp@pve", "ci.2", roles={"/": "PVEAuditor"}))
        _, secret = w.grants.rotate("ci", grace=60, token=fresh)
        new = {"Authorization": f"Bearer {secret}"}
        assert (await w.post(old))[0] == 200
        assert (await w.post(new))[0] == 200
        w.now[0] += 60
        assert (await w.post(old))[0] == 401
        assert (await w.post(new))[0] == 200


async def test_a_grant_without_any_pve_token_is_told_so() -> None:
    async with web(default=None) as w:
        status, _, body = await w.post()
        assert status == 403
        assert "pvemcp client add" in body
        header, _ = with_token(w)
        assert (await w.post(header))[0] == 200


class Counting(Transport):
    """Counts what is sent, and has no connection while `down`."""

    sent = 0
    down = False

    async def send(self, *words: Any, **named: Any) -> Reply:
        if self.down:
            raise Unavailable("PVE is down")
        self.sent += 1
        return await super().send(*words, **named)


async def test_pve_is_asked_once_in_a_while_and_a_pve_that_is_down_refuses_nobody() -> None:
    async with rig() as r:
        transport = Counting(
            Address.parse("https://localhost:8006", r.pve.transport.address.socket)
        )
        now = [0.0]
        alive = Alive(transport, clock=lambda: now[0])
        token = ApiToken(*r.world.token())
        for _ in range(10):
            assert not await alive.refused(token)
        assert transport.sent == 1
        del r.world.access.users["root@pam"].tokens["mcp"]
        transport.down, now[0] = True, now[0] + FRESH
        assert not await alive.refused(token)
        transport.down, now[0] = False, now[0] + UNKNOWN
        assert await alive.refused(token)
        assert transport.sent == 2
        await transport.close()
