"""What can lock people out is taken back, unless somebody confirms it over a new connection."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pvemcp.access.grants import Grants
from pvemcp.audit import Audit, Entry
from pvemcp.call import ApiToken, Call, Effect
from pvemcp.journal.book import Book
from pvemcp.journal.commits import TAKEN_BACK, Commits
from pvemcp.journal.overdue import BY_HELPER, FAILED, Overdue
from pvemcp.sim.world import make_world
from pvemcp.store import Store
from tests.scenarios.rig import Rig, rig
from tests.scenarios.test_approvals import refused
from tests.scenarios.test_process import call, served, simulated
from tests.scenarios.unboxed import Unboxed

ON = {"method": "PUT", "path": "/cluster/firewall/options", "params": {"enable": 1}}


def enabled(r: Rig) -> Any:
    """Return whether the cluster's firewall is on."""
    return r.world.firewall_options.get("cluster", {}).get("enable", 0)


def change_in(text: str) -> str:
    """Return the id of the change that an answer names."""
    found = re.search(r"ch-[0-9a-f]{10}", text)
    assert found, text
    return found[0]


async def test_without_the_helper_the_service_takes_it_back_itself(era: str) -> None:
    async with rig() as r:
        r.confirm_seconds = 1
        async with r.client(era=era) as client:
            plan = await client.call("api_destroy", **ON, dry_run=True)
            assert "this service takes it back, if it lives" in plan
            text = await client.call("api_destroy", **ON)
            assert enabled(r)
            id_ = change_in(text)
            async with asyncio.timeout(20):
                while not Book(r.store).get(id_).undone_by:
                    await asyncio.sleep(0.05)
            assert not enabled(r)
            assert "is reverted already" in await refused(client, "change_confirm", change=id_)


def ended(r: Rig) -> list[Entry]:
    """Return the calls in the audit that have ended."""
    return [entry for entry in r.audit() if entry.outcome != "running"]


async def test_what_the_service_takes_back_is_a_call_in_the_audit() -> None:
    async with rig() as r:
        r.confirm_seconds = 1
        async with r.client() as client:
            id_ = change_in(await client.call("api_destroy", **ON))
            async with asyncio.timeout(20):
                while not (found := [e for e in ended(r) if e.tool == TAKEN_BACK]):
                    await asyncio.sleep(0.05)
        (row,) = found
        assert (row.outcome, row.client, row.arguments) == ("ok", "tester", {"change": id_})
        assert [s["path"] for s in row.steps if s["effect"] != "read"] == [
            "/cluster/firewall/options"
        ]


def overdue(r: Rig, *, helper: bool = False) -> Overdue:
    """Return what a service sees to that starts now, long after the change's time."""
    commits = Commits(r.store, r.executor, seconds=60, helper=helper, now=lambda: time.time() + 999)
    return Overdue(Book(r.store), commits, Audit(r.store, None))


async def test_a_service_that_was_killed_takes_it_back_when_it_starts_again() -> None:
    async with rig() as r:
        r.confirm_seconds = 60
        async with r.client() as client:
            id_ = change_in(await client.call("api_destroy", **ON))
        assert enabled(r)  # its process is gone, and with it who would have taken it back
        pve = r.pve.bind(Call(r.principal(), "x", {}))
        await overdue(r).look(lambda _: pve)
        assert not enabled(r)
        assert Book(r.store).get(id_).undone_by
        await overdue(r).look(lambda _: pve)  # once is enough
        assert [e.tool for e in r.audit()].count(TAKEN_BACK) == 1


async def test_an_undo_that_nobody_confirmed_does_not_bring_back_what_it_undid() -> None:
    async with rig() as r:
        r.confirm_seconds = 60
        async with r.client() as client:
            id_ = change_in(await client.call("api_destroy", **ON))
            await client.call("change_undo", change=id_)
        pve = r.pve.bind(Call(r.principal(), "x", {}))
        await overdue(r).look(lambda _: pve)
        assert not enabled(r)
        assert r.store.rows("SELECT DISTINCT state FROM commits") == [("reverted",)]


async def test_a_change_whose_client_is_gone_is_told_as_not_taken_back() -> None:
    async with rig() as r:
        r.confirm_seconds = 60
        async with r.client() as client:
            id_ = change_in(await client.call("api_destroy", **ON))
            await overdue(r).look(lambda _: None)
            (event,) = [e for e in Audit(r.store, None).events() if e.kind == FAILED]
            assert event.about["change"] == id_
            assert "token" in str(event.about["why"])
            assert "is failed already" in await refused(client, "change_confirm", change=id_)


@pytest.mark.parametrize(
    ("became", "told", "state"),
    [("reverted", 1, "reverted"), ("gone", 0, "confirmed"), ("waiting", 0, "waiting")],
)
async def test_what_the_helper_took_back_is_an_event(became: str, told: int, state: str) -> None:
    """The answer is set here; tests/host/test_commit.py has the helper itself give it."""
    async with rig() as r:
        r.confirm_seconds, r.helper = 60, True
        async with r.client() as client:
            id_ = change_in(await client.call("api_destroy", **ON))
        stand_in = r.executor
        assert isinstance(stand_in, Unboxed)
        stand_in.became = became
        await overdue(r, helper=True).look(lambda _: None)
        events = [e for e in Audit(r.store, None).events() if e.kind == BY_HELPER]
        assert [e.about["change"] for e in events] == [id_] * told
        rows = r.store.rows("SELECT state FROM commits WHERE change = ?", (id_,))
        assert rows == [(state,)]


async def test_what_is_confirmed_stands(era: str) -> None:
    async with rig() as r:
        r.confirm_seconds = 1
        async with r.client(era=era) as client:
            id_ = change_in(await client.call("api_destroy", **ON))
            assert "stands" in await client.call("change_confirm", change=id_)
            await asyncio.sleep(1.2)  # its time is over
            assert enabled(r)


async def test_the_helper_is_armed_before_the_change_and_told_when_it_stands() -> None:
    async with rig() as r:
        r.confirm_seconds, r.helper = 60, True
        async with r.client() as client:
            assert "the root helper takes it back" in await client.call(
                "api_destroy", **ON, dry_run=True
            )
            id_ = change_in(await client.call("api_destroy", **ON))
            await client.call("change_confirm", change=id_)
        asked = [(a["name"], a["params"]) for a in r.executor.asked]  # type: ignore[attr-defined]
        begun = {"change": id_, "seconds": 60, "kind": "cluster-firewall"}
        assert asked == [("commit-begin", begun), ("commit-confirm", {"change": id_})]


APPLY = {"method": "PUT", "path": "/cluster/sdn"}


async def test_an_apply_of_sdn_must_be_confirmed_too() -> None:
    async with rig() as r:
        r.confirm_seconds, r.helper = 60, True
        async with r.client() as client:
            plan = await client.call("api_destroy", **APPLY, dry_run=True)
            assert "the root helper takes it back: this node and the cluster's settings" in plan
            id_ = change_in(await client.call("api_destroy", **APPLY))
            assert "stands" in await client.call("change_confirm", change=id_)
        asked = [(a["name"], a["params"]) for a in r.executor.asked]  # type: ignore[attr-defined]
        begun = {"change": id_, "seconds": 60, "kind": "sdn"}
        assert asked == [("commit-begin", begun), ("commit-confirm", {"change": id_})]


async def test_without_the_helper_an_apply_says_that_nothing_takes_it_back() -> None:
    async with rig() as r:
        r.confirm_seconds = 60
        async with r.client() as client:
            plan = await client.call("api_destroy", **APPLY, dry_run=True)
            assert "nothing can take it back by itself: there is no root helper there" in plan
            assert "change_confirm" not in await client.call("api_destroy", **APPLY)


async def test_a_helper_that_does_not_answer_keeps_the_change_from_being_sent() -> None:
    async with rig() as r:
        r.confirm_seconds, r.helper = 9999, True  # more than exec.toml lets
        async with r.client() as client:
            text = await refused(client, "api_destroy", **ON)
            assert "was not sent, because its way back was not armed: seconds: 1 to 600" in text
            assert "compare [operations.commit-begin] of /etc/pvemcp/exec.toml" in text
            assert not enabled(r)


async def test_what_cannot_lock_anybody_out_needs_no_confirmation() -> None:
    async with rig() as r:
        r.confirm_seconds = 1
        async with r.client() as client:
            rule = {"type": "in", "action": "ACCEPT"}
            text = await client.call(
                "api_change", method="POST", path="/cluster/firewall/rules", params=rule
            )
            assert "change_confirm" not in text


POLICY = '[[policy]]\nname = "all"\nverdict = "allow"\neffect = ["change", "destroy"]\n'


async def test_a_connection_that_was_there_before_cannot_confirm_it(tmp_path: Path) -> None:
    world = make_world("homelab")
    async with simulated(world) as env:
        with Store(tmp_path) as store:
            token = ApiToken(*world.token())
            secret = Grants(store).create("a", Effect.DESTROY, token=token)[1]
        settings = tmp_path / "pvemcp.toml"
        settings.write_text(POLICY)
        env |= {"PVEMCP_STATE_DIR": str(tmp_path), "PVEMCP_CONFIG": str(settings)}
        async with (
            served(env) as service,
            aiohttp.ClientSession() as one,
            aiohttp.ClientSession() as old,
        ):
            await call(old, service.url, secret, "change_list", {})
            id_ = change_in(await call(one, service.url, secret, "api_destroy", ON))
            confirm = {"change": id_}
            said = await call(old, service.url, secret, "change_confirm", confirm)
            assert "this connection was there before" in said
            said = await call(old, service.url, secret, "change_confirm", confirm)
            assert said == f"{id_} stands", "the refusal closes the connection"
