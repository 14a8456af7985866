"""What a freeze stops, by a person or by the service itself, and who hears of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.approvals import Person
from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.access.trouble import BY
from pvemcp.audit import Audit
from pvemcp.call import Effect
from pvemcp.chain import Chain
from pvemcp.host.frames import Frame
from pvemcp.journal.book import Book
from pvemcp.settings.policy import rules
from pvemcp.store import Store
from tests.scenarios.rig import Caller, ToolFault
from tests.scenarios.test_approvals import id_in, refused
from tests.scenarios.test_confirm import ON, change_in, enabled
from tests.scenarios.test_host import until
from tests.scenarios.test_http import Web, web
from tests.scenarios.test_monitoring import checks, figures
from tests.scenarios.test_resilience import watched
from tests.scenarios.test_sessions import ask
from tests.scenarios.unboxed import Unboxed

FREE = rules("policy", [{"name": "free", "verdict": "allow", "effect": ["change", "destroy"]}])
ROOT = Person("root", "host")


def frozen(w: Web) -> list[tuple[str, str, str]]:
    """Return what is frozen: client, mode, by whom."""
    return [(one.client, one.mode, one.by) for one in Freezes(w.rig.store).all()]


def guests(w: Web, count: int) -> list[int]:
    """Return running VMs."""
    found = [g.vmid for g in w.rig.world.guests.values() if g.type == "qemu" and g.running]
    return found[:count]


async def stop(client: Caller, vmids: list[int], **more: Any) -> str:
    """Stop guests in one call."""
    return await client.call("guest_power", guests=vmids, action="stop", wait=0, **more)


async def test_the_destroy_that_is_too_many_is_not_sent_and_the_client_is_frozen() -> None:
    async with web(policy=None, rules=FREE, freeze_after_destroys=2) as w, w.client() as client:
        some = guests(w, 4)
        assert len(some) == 4
        for _ in range(5):  # plans destroy nothing
            await stop(client, some, dry_run=True)
        assert frozen(w) == []
        with pytest.raises(ToolFault, match="frozen"):
            await stop(client, some)
        assert len(w.rig.running()) == 2
        assert frozen(w) == [("laptop", "read-only", BY)]
        assert "more than 2 steps that destroy in a minute" in await refused(
            client, "guest_power", guests=some[0], action="stop"
        )
        await client.call("guest_get", guest=some[0])


async def test_what_a_person_has_approved_counts_once() -> None:
    async with web(policy=None, freeze_after_destroys=2) as w, w.client() as client:
        some = guests(w, 4)
        with pytest.raises(ToolFault) as caught:
            await stop(client, some)
        approval = id_in(str(caught.value))
        confirm = w.rig.approvals.get(approval).confirm
        w.rig.approvals.approve(approval, ROOT, typed=confirm)
        await stop(client, some, approval=approval)
        assert len(w.rig.running()) == 4
        assert frozen(w) == []


async def test_denials_freeze_the_client_that_collects_them_and_no_other(era: str) -> None:
    async with web(policy=None, freeze_after_denials=3) as w:
        _, secret = w.grants.create("reader", Effect.READ)
        async with w.client(era, secret=secret) as reader, w.client(era) as other:
            for _ in range(4):
                await refused(reader, "guest_power", guests=106, action="start")
            assert frozen(w) == [("reader", "read-only", BY)]
            await reader.call("guest_get", guest=106)
            await other.call("guest_power", guests=106, action="start", wait=0)


async def test_guessed_and_refused_approvals_freeze_a_client() -> None:
    async with web(policy=None, freeze_after_approvals=3) as w, w.client() as client:
        with pytest.raises(ToolFault) as caught:
            await stop(client, [100])
        id_ = id_in(str(caught.value))
        w.rig.approvals.deny(id_, ROOT)
        for guess in (id_, "ap-0000000000", "ap-1111111111", "ap-2222222222"):
            with pytest.raises(ToolFault):
                await stop(client, [100], approval=guess)
        assert frozen(w) == [("laptop", "read-only", BY)]


async def test_by_itself_nothing_is_frozen_where_that_is_off() -> None:
    off: dict[str, Any] = {
        f"freeze_after_{sign}": 0 for sign in ("destroys", "denials", "approvals")
    }
    async with web(policy=None, rules=FREE, **off) as w, w.client() as client:
        await stop(client, guests(w, 4))
        _, secret = w.grants.create("reader", Effect.READ)
        async with w.client(secret=secret) as reader:
            for _ in range(70):
                await refused(
                    reader, "elevate", effect="change", minutes=1, reason="x", approval="ap-0"
                )
        assert frozen(w) == []


async def test_an_approval_waits_while_its_client_is_frozen_and_holds_after_it() -> None:
    async with web(policy=None) as w, w.client() as client:
        with pytest.raises(ToolFault) as caught:
            await stop(client, [100])
        id_ = id_in(str(caught.value))
        w.rig.approvals.approve(id_, ROOT, typed=w.rig.approvals.get(id_).confirm)
        freezes = Freezes(w.rig.store)
        freezes.freeze("read-only", by="root")
        with pytest.raises(ToolFault, match="frozen"):
            await stop(client, [100], approval=id_)
        assert w.rig.approvals.get(id_).state == "approved"
        assert w.rig.running() == []
        freezes.thaw(by="root")
        await stop(client, [100], approval=id_)
        assert len(w.rig.running()) == 1


async def test_a_call_that_waits_for_a_task_ends_when_everything_is_frozen() -> None:
    async with web(policy=None, rules=FREE) as w, w.client() as client:
        waiting = asyncio.create_task(
            client.call("guest_power", guests=guests(w, 1), action="stop", wait=60)
        )
        await w.rig.until_running()
        Freezes(w.rig.store).freeze("all", by="root", reason="look first")
        async with asyncio.timeout(20):
            with pytest.raises(ToolFault, match="look first"):
                await waiting
        assert len(w.rig.running()) == 1, "PVE's task goes on, as the how-to says"


class WithJobs(Unboxed):
    """A host on which jobs run."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.jobs: dict[str, tuple[str, str]] = {}
        """Name → owner, profile."""

    def _spec(self, config: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("name")
        if name == "job-stop":
            self.jobs.pop(request["params"]["job"])
        if request["do"] == "job":
            self.jobs[f"{len(self.jobs)}"] = (request["owner"], request["profile"])
        if name not in ("job-list", "job-stop"):
            return super()._spec(config, request)
        told = [
            {"job": job, "owner": owner, "title": "t", "profile": profile, "running": True}
            for job, (owner, profile) in self.jobs.items()
        ]
        return {"timeout": 10, "output": 1 << 20, "env": {}, "argv": ["echo", json.dumps(told)]}


async def test_a_freeze_and_the_end_of_an_elevation_end_jobs_that_may_change() -> None:
    host = WithJobs("pve1")
    async with web(policy=None, executor=host) as w:
        ids = {grant.name: grant.id for grant in w.grants.list()}
        reader = w.grants.create("reader", Effect.READ)[0].id
        host.jobs = {
            "a": (ids["laptop"], "change"), "b": (ids["laptop"], "read"), "c": (reader, "change"),
        }  # fmt: skip
        w.rig.store.insert(
            "INSERT INTO elevations VALUES (?, 'reader', 'read', 'change', 0, 9e9, 'r', '', 'a')",
            (reader,),
        )
        Freezes(w.rig.store).freeze("read-only", client="laptop", by="root")
        await until(lambda: "a" not in host.jobs)
        assert set(host.jobs) == {"b", "c"}
        w.rig.store.write("UPDATE elevations SET until = 1")
        await until(lambda: "c" not in host.jobs)
        assert set(host.jobs) == {"b"}
    await host.close()


async def test_jobs_end_whose_elevation_or_grant_was_over_before_the_service_started() -> None:
    host = WithJobs("pve1")
    async with web(policy=None, executor=host) as w, w.client() as client:
        await client.call("host_run", command="true", effect="change")
        ids = {grant.name: grant.id for grant in w.grants.list()}
        reader = w.grants.create("reader", Effect.READ)[0].id
        host.jobs = {
            "a": (reader, "change"), "b": (reader, "read"), "c": (ids["laptop"], "change"),
            "d": ("0123456789abcdef", "change"),
        }  # fmt: skip
        await until(lambda: "a" not in host.jobs)
        assert set(host.jobs) == {"b", "c", "d"}, "d is of another pvemcp with the same helper"
        w.grants.revoke("laptop")
        await until(lambda: "c" not in host.jobs)
        assert set(host.jobs) == {"b", "d"}
    await host.close()


@pytest.mark.parametrize("gone", ["revoked", "expired"])
async def test_what_runs_ends_when_its_grant_is_gone(gone: str) -> None:
    async with web(policy=None) as w:
        _, secret = w.grants.create("second", Effect.DESTROY, expires=60)
        async with w.client(secret=secret) as second:
            await second.call("shell_open", effect="change")
            await second.call("shell_open")
            running = [each for each in w.rig.executor.running if each.returncode is None]  # type: ignore[attr-defined]
            assert len(running) == 2
            if gone == "revoked":
                w.grants.revoke("second")
            else:
                w.now[0] += 100
            await until(lambda: all(each.returncode is not None for each in running))


async def test_a_freeze_of_everything_lets_nothing_through_that_takes_no_step() -> None:
    async with web(policy=None) as w, w.client() as client:
        await client.call("guest_get", guest=106)
        calls: dict[str, dict[str, Any]] = {
            "audit_search": {}, "change_list": {}, "command_explain": {"command": "ls"},
            "job_read": {"job": "out-1"}, "shell_read": {"shell": "shell-1"},
            "api_search": {"query": "x"},
        }  # fmt: skip
        Freezes(w.rig.store).freeze("all", client="laptop", by="root")
        for tool, arguments in calls.items():
            assert "client laptop is frozen" in await refused(client, tool, **arguments)


async def test_a_frozen_client_lets_no_change_stand() -> None:
    async with web(policy=None, rules=FREE, confirm_seconds=600) as w:
        async with w.client() as client:
            id_ = change_in(await client.call("api_destroy", **ON))
        Freezes(w.rig.store).freeze("read-only", client="laptop", by="root")
        async with w.client() as fresh:
            assert "frozen" in await refused(fresh, "change_confirm", change=id_)
            Freezes(w.rig.store).thaw(client="laptop", by="root")
            assert "stands" in await fresh.call("change_confirm", change=id_)


async def test_what_nobody_confirmed_is_taken_back_in_spite_of_a_freeze() -> None:
    async with web(policy=None, rules=FREE, confirm_seconds=1) as w, w.client() as client:
        id_ = change_in(await client.call("api_destroy", **ON))
        Freezes(w.rig.store).freeze("all", by="root")
        async with asyncio.timeout(20):
            while not Book(w.rig.store).get(id_).undone_by:
                await asyncio.sleep(0.05)
        assert not enabled(w.rig)


async def test_everybody_who_watches_sees_a_freeze(tmp_path: Path) -> None:
    async with watched(tmp_path, policy=None) as (w, told), w.client() as client:
        await client.call("guest_get", guest=106)
        assert (await checks(w))["freezes"]["state"] == "ok"
        assert (await figures(w))["pvemcp_frozen{}"] == 0
        Freezes(w.rig.store).freeze("read-only", client="laptop", by="alice@pve", reason="odd")
        said = await told.until("raised", "freeze:laptop")
        for part in ("alice@pve", "odd", "pvemcp thaw --client laptop"):
            assert part in said["text"]
        assert {one["may"] for one in await ask(w, "sessions")} == {"frozen: read-only"}
        assert (await figures(w))["pvemcp_frozen{}"] == 1

        async def warns() -> bool:
            return (await checks(w))["freezes"]["state"] == "warn"

        async with asyncio.timeout(20):
            while not await warns():
                await asyncio.sleep(0.1)


async def test_a_freeze_by_another_process_counts_at_once() -> None:
    async with web(policy=None) as w, w.client() as client:
        await client.call("guest_get", guest=106)
        with Store(w.rig.store.path.parent) as other:
            Freezes(other).freeze("all", client="laptop", by="root")
        assert "frozen" in await refused(client, "guest_get", guest=106)
        with Store(w.rig.store.path.parent) as other:
            Freezes(other).thaw(client="laptop", by="root")
        await client.call("guest_get", guest=106)


def test_a_secret_in_the_reason_of_a_freeze_is_kept_nowhere(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        audit = Audit(store, None)
        Freezes(store, event=audit.event).freeze("all", by="root", reason="cipassword=hunter22")
        assert Freezes(store).all()[0].reason == "cipassword=[redacted]"
        [event] = Chain(store).told("freeze")
        assert event.about["reason"] == "cipassword=[redacted]"


class Started:
    """The link of a job that was started."""

    async def receive(self) -> Frame:
        return Frame("A", b'{"job": "pvemcp-job-0123456789abcdef"}')

    def close(self) -> None:
        """There is nothing to close."""


class Late(WithJobs):
    """A host on which something happens just while a job is started, which no list shows yet."""

    meanwhile: Callable[[], object]

    async def open(self, request: Mapping[str, Any]) -> Any:
        if request["do"] != "job":
            return await super().open(request)
        self.meanwhile()
        self.jobs["pvemcp-job-0123456789abcdef"] = ("nobody's yet", "read")
        return Started()


@pytest.mark.parametrize("what", ["freeze", "elevation"])
async def test_a_job_that_begins_just_when_it_may_no_longer_is_ended(what: str) -> None:
    host = Late("pve1")
    async with web(policy=None, executor=host) as w:
        grant, secret = w.grants.create("reader", Effect.READ)
        w.rig.store.insert(
            "INSERT INTO elevations VALUES (?, 'reader', 'read', 'change', 0, 9e9, 'r', '', 'a')",
            (grant.id,),
        )
        host.meanwhile = {
            "freeze": lambda: Freezes(w.rig.store).freeze("all", client="reader", by="root"),
            "elevation": lambda: Elevations(w.rig.store).end("reader", by="root"),
        }[what]
        async with w.client(secret=secret) as client:
            said = await refused(client, "job_start", command="true", effect="change")
        assert "the job was ended" in said
        assert host.jobs == {}
    await host.close()


async def test_many_jobs_at_once_are_no_more_than_a_grant_may_have() -> None:
    host = WithJobs("pve1")
    async with web(executor=host) as w, w.client() as client:
        asked = [client.call("job_start", command="true") for _ in range(30)]
        await asyncio.gather(*asked, return_exceptions=True)
        assert sum(each["do"] == "job" for each in host.asked) == 10
    await host.close()
