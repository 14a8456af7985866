"""Nothing is lost before a person has said yes: plans, dialogs, approvals, in both eras."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp_types import ElicitRequestParams, ElicitResult

from pvemcp.access.approvals import Approval, Approvals, Person, Question
from pvemcp.access.policy import Judgement, Open, Policy
from pvemcp.call import Call, Effect, Verdict
from pvemcp.errors import Conflict, Denied
from pvemcp.settings.policy import rules
from tests.scenarios.rig import ERAS, Caller, Rig, ToolFault, rig
from tests.scenarios.unboxed import Unboxed

ROOT = Person("root", "host")

Answer = Callable[[Any, ElicitRequestParams], Awaitable[ElicitResult]]


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """Each protocol era."""
    return str(request.param)


def guest(r: Rig, *, running: bool = True) -> int:
    """Return a VM of the world."""
    return next(
        g.vmid
        for g in r.world.guests.values()
        if g.type == "qemu" and g.running is running and not g.config.get("template")
    )


def says(action: str, **content: Any) -> Answer:
    """Return a client's dialog that always answers so."""

    async def answer(_context: Any, _params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action=action, content=content or None)  # type: ignore[arg-type]

    return answer


async def refused(client: Caller, tool: str, **arguments: Any) -> str:
    """Call, and return the text of the error."""
    with pytest.raises(ToolFault) as caught:
        await client.call(tool, **arguments)
    return str(caught.value)


def id_in(text: str) -> str:
    """Return the id of the approval that an answer names."""
    found = re.search(r"approval=(ap-[0-9a-f]+)", text)
    assert found is not None, text
    return found[1]


async def test_a_dry_run_shows_the_request_and_changes_nothing(era: str) -> None:
    async with rig() as r, r.client(era=era, policy=Policy()) as client:
        vmid = guest(r)
        text = await client.call("guest_power", guests=vmid, action="stop", dry_run=True)
        assert f"POST /nodes/pve1/qemu/{vmid}/status/stop" in text
        assert "a person is asked" in text
        assert r.world.guests[vmid].running


async def test_a_change_within_the_ceiling_asks_nobody(era: str) -> None:
    async with rig() as r, r.client(era=era, policy=Policy()) as client:
        vmid = guest(r, running=False)
        assert "OK" in await client.call("guest_power", guests=vmid, action="start")
        assert r.world.guests[vmid].running


async def test_without_a_dialog_the_answer_says_how_a_person_approves(era: str) -> None:
    async with rig() as r, r.client(era=era, policy=Policy()) as client:
        vmid = guest(r)
        text = await refused(client, "guest_power", guests=vmid, action="stop")
        assert text.startswith("approval_needed: ")
        assert "(default: destroy asks)" in text
        assert "pvemcp approvals approve ap-" in text
        assert r.world.guests[vmid].running


async def test_an_approval_on_the_host_lets_the_same_call_through_once(era: str) -> None:
    async with rig() as r, r.client(era=era, policy=Policy()) as client:
        vmid = guest(r)
        call = {"guests": vmid, "action": "stop"}
        id_ = id_in(await refused(client, "guest_power", **call))
        r.approvals.approve(id_, ROOT)
        assert "OK" in await client.call("guest_power", **call, approval=id_)
        assert not r.world.guests[vmid].running
        assert r.approvals.get(id_).state == "used"
        await client.call("guest_power", guests=vmid, action="start")
        assert "was used already" in await refused(client, "guest_power", **call, approval=id_)
        assert r.world.guests[vmid].running


async def test_a_dialog_answered_yes_lets_the_call_through(era: str) -> None:
    yes = says("accept", approve=True)
    async with rig() as r, r.client(era=era, policy=Policy(), elicit=yes) as client:
        vmid = guest(r)
        assert "OK" in await client.call("guest_power", guests=vmid, action="stop")
        assert not r.world.guests[vmid].running


@pytest.mark.parametrize(
    "answer", [says("decline"), says("accept", approve=False), says("accept", approve="true")]
)
async def test_a_dialog_answered_otherwise_does_nothing(era: str, answer: Answer) -> None:
    async with rig() as r, r.client(era=era, policy=Policy(), elicit=answer) as client:
        vmid = guest(r)
        assert "said no" in await refused(client, "guest_power", guests=vmid, action="stop")
        assert r.world.guests[vmid].running
        assert [a.state for a in r.approvals.all(live=False)] == ["denied"]


async def test_a_dismissed_dialog_leaves_the_question_to_the_host(era: str) -> None:
    """A headless client declares dialogs and dismisses each at once."""
    async with rig() as r, r.client(era=era, policy=Policy(), elicit=says("cancel")) as client:
        vmid = guest(r)
        call = {"guests": vmid, "action": "stop"}
        id_ = id_in(await refused(client, "guest_power", **call))
        r.approvals.approve(id_, ROOT)
        assert "OK" in await client.call("guest_power", **call, approval=id_)


async def test_a_call_with_a_waiting_approval_waits_for_the_person(era: str) -> None:
    async with rig() as r, r.client(era=era, policy=Policy()) as client:
        vmid = guest(r)
        call = {"guests": vmid, "action": "stop"}
        id_ = id_in(await refused(client, "guest_power", **call))
        waiting = asyncio.create_task(client.call("guest_power", **call, approval=id_))
        await asyncio.sleep(0)
        r.approvals.approve(id_, ROOT)
        assert "OK" in await waiting


async def test_arguments_altered_after_the_approval_void_nothing_and_do_nothing(era: str) -> None:
    async with rig() as r, r.client(era=era, policy=Policy()) as client:
        one, other = [g.vmid for g in r.world.guests.values() if g.running][:2]
        id_ = id_in(await refused(client, "guest_power", guests=one, action="stop"))
        r.approvals.approve(id_, ROOT)
        text = await refused(client, "guest_power", guests=other, action="stop", approval=id_)
        assert "another plan" in text
        assert r.world.guests[one].running
        assert r.world.guests[other].running


async def test_another_grant_cannot_use_an_approval() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        vmid = guest(r)
        id_ = id_in(await refused(client, "guest_power", guests=vmid, action="stop"))
        r.approvals.approve(id_, ROOT)
        found = r.approvals.get(id_)
        with pytest.raises(Denied, match="not given to this client"):
            r.approvals.take(id_, grant="g2", digest=found.digest, call="c")
        assert r.approvals.get(id_).state == "approved"


async def test_two_calls_race_for_one_approval_and_one_wins() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        vmid = guest(r)
        call = {"guests": vmid, "action": "reset"}
        id_ = id_in(await refused(client, "guest_power", **call))
        r.approvals.approve(id_, ROOT)
        ended = await asyncio.gather(
            *(client.call("guest_power", **call, approval=id_) for _ in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, str) for each in ended) == 1
        assert len([t for t in r.world.tasks if t.type == "qmreset"]) == 1


async def test_an_expired_approval_is_of_no_use() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        vmid = guest(r)
        id_ = id_in(await refused(client, "guest_power", guests=vmid, action="stop"))
        r.approvals.approve(id_, ROOT)
        found = r.approvals.get(id_)
        later = Approvals(r.store, now=lambda: found.expires + 1)
        assert later.get(id_).state == "expired"
        with pytest.raises(Denied, match="is expired"):
            later.take(id_, grant=found.grant, digest=found.digest, call="c")
        with pytest.raises(Conflict):
            later.approve(id_, ROOT)


async def test_the_same_question_is_asked_once_and_many_are_refused() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        vmid = guest(r)
        first = id_in(await refused(client, "guest_power", guests=vmid, action="stop"))
        again = id_in(await refused(client, "guest_power", guests=vmid, action="stop"))
        assert first == again
        texts = [
            await refused(client, "guest_power", guests=vmid, action="stop", wait=wait)
            for wait in range(30)
        ]
        assert texts[-1].startswith("limited: ")
        assert "or the approval page" in texts[-1]
        assert len(r.approvals.all()) == 20


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("api_destroy", {"path": "/nodes/pve1/qemu/{vmid}"}),
        ("api_destroy", {"path": "/nodes/pve1/qemu/{vmid}/status/stop", "method": "POST"}),
        ("guest_exec", {"guest": "{vmid}", "command": "rm -rf /"}),
        ("api_destroy", {
            "path": "/nodes/pve1/qemu/{vmid}/config", "method": "PUT",
            "params": {"delete": "scsi0", "force": 1},
        }),
    ],
)  # fmt: skip
async def test_no_other_way_leads_round_the_question(tool: str, arguments: dict[str, Any]) -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        vmid = guest(r)
        filled = {
            name: value.replace("{vmid}", str(vmid)) if isinstance(value, str) else value
            for name, value in arguments.items()
        }
        before = r.world.guests[vmid]
        assert (await refused(client, tool, **filled)).startswith("approval_needed: ")
        assert r.world.guests[vmid] is before
        assert before.running


async def test_what_the_model_sends_is_never_an_approval() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        vmid = guest(r)
        call = {"guests": vmid, "action": "stop"}
        id_ = id_in(await refused(client, "guest_power", **call))
        r.patience = 0.0
        for extra in ({"approve": True}, {"confirm": str(vmid)}, {"approved_by": "root"}):
            assert "unknown argument" in await refused(client, "guest_power", **call, **extra)
        async with r.client(policy=Policy()) as impatient:
            text = await refused(impatient, "guest_power", **call, approval=id_)
        assert text.startswith("approval_needed: ")
        assert r.world.guests[vmid].running


async def test_two_persons_are_two_different_persons() -> None:
    async with rig() as r:
        found = asked(r, persons=2)
        assert r.approvals.approve(found.id, ROOT).state == "waiting"
        with pytest.raises(Conflict, match="2 different persons"):
            r.approvals.approve(found.id, ROOT)
        assert r.approvals.approve(found.id, Person("alice@pve", "page")).state == "approved"


async def test_a_client_cannot_answer_what_the_policy_wants_from_a_person() -> None:
    async with rig() as r:
        found = asked(r, channel="person")
        with pytest.raises(Denied):
            r.approvals.approve(found.id, Person("the user of laptop", "client"))
        assert r.approvals.get(found.id).state == "waiting"


def asked(r: Rig, *, persons: int = 1, channel: str = "any") -> Approval:
    """Put a question that needs so many persons, through that channel."""
    call = Call(r.principal(Effect.DESTROY), "guest_power", {})
    judgement = Judgement(Verdict.ASK, "test", channel=channel, persons=persons)
    return r.approvals.ask(call, Question("guest_power", {}, b"d", "plan"), judgement)


async def test_a_command_as_root_waits_for_root_on_the_host_alone() -> None:
    yes = says("accept", approve=True)
    async with rig() as r, r.client(policy=Open(), elicit=yes) as client:
        assert isinstance(r.executor, Unboxed)
        r.executor.allow_root()
        text = await refused(client, "host_run", command="id -u; echo $SSH", effect="destroy")
        id_ = id_in(text)
        assert "command: id -u; echo $SSH" in text
        found = r.approvals.get(id_)
        assert (found.channel, found.state) == ("host", "waiting")
        with pytest.raises(Denied, match="only root can approve it"):
            r.approvals.approve(id_, Person("alice@pam", "page"))
        r.approvals.approve(id_, ROOT)
        call = {"command": "id -u; echo $SSH", "effect": "destroy"}
        await client.call("host_run", **call, approval=id_)
        asked = [ask for ask in r.executor.asked if ask.get("name") == "root-run"]
        assert [ask["params"] for ask in asked] == [{"approval": id_}]
        assert "was used already" in await refused(client, "host_run", **call, approval=id_)


async def test_an_approval_covers_no_more_than_the_policy_wanted_when_it_was_asked() -> None:
    two = {"name": "two", "verdict": "ask", "pool": "prod", "persons": 2}
    outside = {"name": "outside", "verdict": "ask", "pool": "prod", "channel": "person"}
    stop = {"guests": 100, "action": "stop"}
    for rule in (two, outside):
        async with rig() as r:
            r.world.leave_pool(100)
            async with r.client(policy=Policy(rules("policy", [rule]))) as client:
                id_ = id_in(await refused(client, "guest_power", **stop))
                r.approvals.approve(id_, ROOT)
                r.world.join_pool("prod", 100)
                r.pve.resources.forget()
                text = await refused(client, "guest_power", **stop, approval=id_)
                assert "the policy wants more" in text
                assert r.world.guests[100].running
                assert id_in(await refused(client, "guest_power", **stop)) != id_


async def test_nobody_is_asked_about_a_guest_that_is_not_there() -> None:
    async with rig("cluster") as r, r.client(policy=Policy()) as client:
        one = next(g for g in r.world.guests.values() if g.type == "qemu" and g.node == "pve1")
        for path in ("/nodes/pve1/qemu/999", f"/nodes/pve1/lxc/{one.vmid}"):
            text = await refused(client, "api_destroy", path=path)
            assert text.startswith("not_found: "), (path, text)
        await refused(client, "api_destroy", path=f"/nodes/pve2/qemu/{one.vmid}")
        assert r.approvals.all() == []


async def test_a_client_reads_why_a_person_said_no() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        call = {"path": "/nodes/pve1/qemu/106"}
        id_ = id_in(await refused(client, "api_destroy", **call))
        r.approvals.deny(id_, ROOT, reason="take 109, its password=hunter2hunter2 is known")
        text = await refused(client, "api_destroy", **call, approval=id_)
        assert "was refused by a person, who says: take 109" in text
        assert "hunter2" not in text
        assert 106 in r.world.guests
