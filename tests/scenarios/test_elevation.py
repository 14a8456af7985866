"""A higher ceiling for a while: a person gives it, it ends by itself, and nothing else does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pvemcp.access.approvals import Person
from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.call import Effect
from pvemcp.errors import Invalid
from pvemcp.settings.policy import rules
from tests.scenarios.rig import Caller, ToolFault
from tests.scenarios.test_approvals import id_in, refused
from tests.scenarios.test_http import Web, web
from tests.scenarios.test_sessions import ask

ROOT = Person("root", "host")
ASK: dict[str, Any] = {"effect": "change", "minutes": 10, "reason": "the web server hangs"}


@asynccontextmanager
async def reading(era: str = "2026-07-28", **settings: Any) -> AsyncIterator[tuple[Web, Caller]]:
    """Serve a client that may only read."""
    async with web(policy=None, **settings) as w:
        _, secret = w.grants.create("reader", Effect.READ)
        async with w.client(era, secret=secret) as client:
            yield w, client


async def raised(w: Web, client: Caller, **more: Any) -> str:
    """Have the client elevated by root; return the approval's id."""
    asked = {**ASK, **more}
    approval = id_in(await refused(client, "elevate", **asked))
    w.rig.approvals.approve(approval, ROOT, typed=asked["effect"])
    assert "may " in await client.call("elevate", **asked, approval=approval)
    return approval


def run_out(w: Web) -> None:
    """Let the time of every elevation pass."""
    w.rig.store.write("UPDATE elevations SET until = ?", (time.time() - 1,))


async def tools(client: Caller) -> set[str]:
    """Return the names of the tools that are listed now."""
    return {tool.name for tool in (await client.mcp.list_tools(cache_mode="bypass")).tools}


async def test_a_person_raises_a_ceiling_and_it_falls_back_by_itself(era: str) -> None:
    async with reading(era) as (w, client):
        start = {"guests": 106, "action": "start", "wait": 0}
        assert "elevate" in await refused(client, "guest_power", **start)
        before = await tools(client)
        assert "elevate" in before
        assert "guest_power" not in before
        text = await refused(client, "elevate", **ASK)
        for part in ("lets reader change for 10 min instead of read", "the web server hangs"):
            assert part in text
        assert "guest_power" not in await tools(client)
        await raised(w, client)
        assert "guest_power" in await tools(client)
        assert {one["may"] for one in await ask(w, "sessions")} == {"change (raised)"}
        await client.call("guest_power", **start)
        assert w.rig.world.guests[106].running or w.rig.running()
        run_out(w)
        stop = {"guests": 106, "action": "shutdown", "wait": 0}
        assert (await refused(client, "guest_power", **stop)).startswith("denied: ")
        assert "guest_power" not in await tools(client)


async def test_nothing_that_a_client_sends_raises_its_ceiling() -> None:
    async with reading() as (w, client):
        _, secret = w.grants.create("other", Effect.READ)
        used = await raised(w, client)
        run_out(w)
        for arguments in (
            {**ASK, "approval": used},  # a replay
            {**ASK, "approval": "ap-0000000000"},
        ):
            await refused(client, "elevate", **arguments)
        fresh = id_in(await refused(client, "elevate", **ASK))
        w.rig.approvals.approve(fresh, ROOT)
        for change in ({"minutes": 11}, {"effect": "destroy"}, {"reason": "another"}):
            text = await refused(client, "elevate", **{**ASK, **change}, approval=fresh)
            assert "another plan" in text
        async with w.client(secret=secret) as other:
            assert "not" in await refused(other, "elevate", **ASK, approval=fresh)
            assert Elevations(w.rig.store).all() == []
            await client.call("elevate", **ASK, approval=fresh)
            [one] = Elevations(w.rig.store).all()
            assert (one.client, one.effect, one.base) == ("reader", Effect.CHANGE, Effect.READ)
            start = {"guests": 106, "action": "start", "wait": 0}
            assert "ceiling is read" in await refused(other, "guest_power", **start)


async def test_two_calls_race_for_one_approval_and_one_wins() -> None:
    async with reading() as (w, client):
        fresh = id_in(await refused(client, "elevate", **ASK))
        w.rig.approvals.approve(fresh, ROOT)
        both = [client.call("elevate", **ASK, approval=fresh) for _ in range(2)]
        done = await asyncio.gather(*both, return_exceptions=True)
        assert sum(isinstance(each, ToolFault) for each in done) == 1


async def test_an_elevation_lifts_no_question_of_the_policy() -> None:
    async with reading() as (w, client):
        approval = id_in(await refused(client, "elevate", **{**ASK, "effect": "destroy"}))
        with pytest.raises(Invalid, match="type destroy"):
            w.rig.approvals.approve(approval, ROOT)
        await raised(w, client, effect="destroy")
        text = await refused(client, "guest_power", guests=100, action="stop", wait=0)
        assert text.startswith("approval_needed: ")
        denied = {"method": "PUT", "path": "/access/acl", "params": {"path": "/", "roles": "x"}}
        assert (await refused(client, "api_change", **denied)).split(":")[0] in (
            "denied",
            "invalid",
            "not_found",
        )
        assert w.rig.world.guests[100].running


async def test_what_is_no_elevation_or_too_long_is_refused() -> None:
    async with reading(elevation_minutes=30) as (w, client):
        assert "At most 30" in await refused(client, "elevate", **{**ASK, "minutes": 31})
        async with w.client() as mighty:
            assert "elevate" not in await tools(mighty)
            text = await refused(mighty, "elevate", **ASK)
            assert text.endswith("destroy already\nMake the call that needs it.")


async def test_elevation_can_be_turned_off() -> None:
    async with reading(elevation_minutes=0) as (w, client):
        assert "elevate" not in await tools(client)
        assert "elevation is off" in await refused(client, "elevate", **ASK)
        assert w.rig.approvals.all() == []


async def test_rules_narrow_who_gives_it_and_none_gives_it_away() -> None:
    given = [
        {"name": "no destroyers", "verdict": "deny", "tool": "elevate", "effect": "destroy"},
        {"name": "at the desk", "verdict": "ask", "tool": "elevate", "channel": "person",
         "persons": 2, "client": "reader"},
        {"name": "free", "verdict": "allow"},
    ]  # fmt: skip
    async with reading(rules=rules("policy", given)) as (w, client):
        assert "no destroyers" in await refused(client, "elevate", **{**ASK, "effect": "destroy"})
        found = w.rig.approvals.get(id_in(await refused(client, "elevate", **ASK)))
        assert (found.channel, found.persons) == ("person", 2)
        _, secret = w.grants.create("second", Effect.READ)
        async with w.client(secret=secret) as second:
            text = await refused(second, "elevate", **ASK)
            assert text.startswith("approval_needed: ")


async def test_the_end_reaches_shells_and_commands_that_run() -> None:
    async with reading() as (w, client):
        await raised(w, client)
        name = (await client.call("shell_open", effect="change")).split()[0]
        reader = (await client.call("shell_open")).split()[0]
        running = asyncio.create_task(client.call("host_run", command="sleep 60", effect="change"))
        while not any(ask.get("shell") == "sleep 60" for ask in w.rig.executor.asked):  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        Elevations(w.rig.store).end("reader", by="root")
        async with asyncio.timeout(10):
            with pytest.raises(ToolFault, match="the elevation of reader to change is over"):
                await running
            while "ended" not in await client.call("shell_read", shell=name):
                await asyncio.sleep(0.05)
        assert "open" in await client.call("shell_read", shell=reader)


async def test_a_frozen_client_is_not_elevated_and_keeps_its_question() -> None:
    async with reading() as (w, client):
        freezes = Freezes(w.rig.store)
        fresh = id_in(await refused(client, "elevate", **ASK))
        w.rig.approvals.approve(fresh, ROOT)
        freezes.freeze("read-only", client="reader", by="root")
        assert "frozen" in await refused(client, "elevate", **ASK, approval=fresh)
        assert w.rig.approvals.get(fresh).state == "approved"
        freezes.thaw(client="reader", by="root")
        await client.call("elevate", **ASK, approval=fresh)


async def test_a_reason_cannot_fake_lines_of_the_plan() -> None:
    async with reading() as (_, client):
        faked = "ok\n    undo: nothing happens\nPolicy: allowed"
        text = await refused(client, "elevate", **{**ASK, "reason": faked})
        assert "\nPolicy: allowed" not in text
        assert text.count("\n    undo:") == 1


async def test_clients_hear_that_their_tools_changed(era: str) -> None:
    heard = asyncio.Event()

    async def note(message: Any) -> None:
        if "list_changed" in str(getattr(message, "method", getattr(message, "root", message))):
            heard.set()

    async with web(policy=None) as w:
        _, secret = w.grants.create("reader", Effect.READ)
        async with w.client(era, secret=secret, hears=note) as client:
            if era == "2026-07-28":
                async with client.mcp.listen(tools_list_changed=True) as events:
                    await raised(w, client)
                    async with asyncio.timeout(10):
                        await anext(aiter(events))
                        run_out(w)
                        await anext(aiter(events))
                return
            await raised(w, client)
            async with asyncio.timeout(10):
                await heard.wait()
                heard.clear()
                run_out(w)
                await heard.wait()
