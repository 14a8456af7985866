"""A client's dialog can lead a person to the approval page; opening it approves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from mcp_types import (
    ElicitCompleteNotification,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
)

from pvemcp.access.policy import Judgement, Policy
from pvemcp.call import Call, Verdict
from tests.scenarios.browsing import site
from tests.scenarios.rig import ERAS, rig
from tests.scenarios.test_approvals import ROOT, guest, id_in, refused

PAGE = "https://pve.example:8080/page"


class Outside(Policy):
    """Wants everything answered by a person outside the client."""

    def __init__(self, channel: str = "person", persons: int = 1) -> None:
        super().__init__()
        self._channel, self._persons = channel, persons

    def judge(self, call: Call, writes: object) -> Judgement:  # noqa: ARG002
        return Judgement(Verdict.ASK, "outside", channel=self._channel, persons=self._persons)


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """Each protocol era."""
    return str(request.param)


class Dialogs:
    """Answers every dialog so, and keeps what was asked."""

    def __init__(self, action: str, content: Mapping[str, Any] | None = None) -> None:
        self.asked: list[ElicitRequestParams] = []
        self._answer = ElicitResult.model_validate({"action": action, "content": content})

    async def __call__(self, _context: Any, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append(params)
        return self._answer


async def test_the_link_leads_to_the_page_and_the_yes_there_lets_the_call_through(
    era: str,
) -> None:
    heard: list[object] = []

    async def hears(message: object) -> None:
        heard.append(message)

    async with site(Outside()) as s:
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")

        async def opens(_context: Any, params: ElicitRequestParams) -> ElicitResult:
            assert isinstance(params, ElicitRequestURLParams)
            assert "/status/stop" in params.message
            path = f"/page/{s.approvals.all()[0].id}"
            assert params.url.endswith(path)
            await person.fill(path, verdict="approve")
            return ElicitResult(action="accept")

        async with s.web.client(era=era, elicit=opens, hears=hears) as client:
            assert "OK" in await client.call("guest_power", guests=100, action="stop")
        assert not s.rig.world.guests[100].running
        used = s.approvals.all(live=False)[0]
        assert (used.state, used.by) == ("used", "carol@pve (page)")
    told = [each for each in heard if isinstance(each, ElicitCompleteNotification)]
    assert [each.params.elicitation_id for each in told] == ([used.id] if era == ERAS[0] else [])


async def test_a_call_waits_for_the_person_who_has_opened_the_page(era: str) -> None:
    async with rig() as r:
        r.page = PAGE
        opened = asyncio.Event()

        async def opens(_context: Any, _params: ElicitRequestParams) -> ElicitResult:
            opened.set()
            return ElicitResult(action="accept")

        async with r.client(era=era, policy=Outside(), elicit=opens) as client:
            vmid = guest(r)
            waiting = asyncio.create_task(client.call("guest_power", guests=vmid, action="stop"))
            await opened.wait()
            assert r.world.guests[vmid].running
            r.approvals.approve(r.approvals.all()[0].id, ROOT)
            assert "OK" in await waiting


@pytest.mark.parametrize("content", [None, {"approve": True}, {"approve": True, "confirm": "100"}])
async def test_opening_the_page_is_no_approval(era: str, content: Mapping[str, Any] | None) -> None:
    async with rig() as r:
        r.page, r.patience = PAGE, 0.0
        dialogs = Dialogs("accept", content)
        async with r.client(era=era, policy=Outside(persons=2), elicit=dialogs) as client:
            text = await refused(client, "guest_power", guests=100, action="stop")
        assert "(outside). 2 persons must say yes." in dialogs.asked[0].message
        assert f"at {PAGE}/{id_in(text)}" in text
        assert r.world.guests[100].running
        assert [a.state for a in r.approvals.all(live=False)] == ["waiting"]
        assert len(dialogs.asked) == 1


async def test_who_declines_to_open_the_page_says_no(era: str) -> None:
    async with rig() as r:
        r.page = PAGE
        async with r.client(era=era, policy=Outside(), elicit=Dialogs("decline")) as client:
            text = await refused(client, "guest_power", guests=100, action="stop")
        assert "said no" in text
        assert "Ask what they want instead" in text
        assert [a.state for a in r.approvals.all(live=False)] == ["denied"]


async def test_a_dismissed_link_leaves_the_question_to_others(era: str) -> None:
    async with rig() as r:
        r.page = PAGE
        async with r.client(era=era, policy=Outside(), elicit=Dialogs("cancel")) as client:
            call = {"guests": 100, "action": "stop"}
            id_ = id_in(await refused(client, "guest_power", **call))
            r.approvals.approve(id_, ROOT)
            assert "OK" in await client.call("guest_power", **call, approval=id_)


async def test_a_form_is_put_where_the_client_may_answer_by_itself(era: str) -> None:
    async with rig() as r:
        r.page = PAGE
        dialogs = Dialogs("accept", {"approve": True})
        async with r.client(era=era, policy=Policy(), elicit=dialogs) as client:
            assert "OK" in await client.call("guest_power", guests=100, action="stop")
        assert [type(each) for each in dialogs.asked] == [ElicitRequestFormParams]


@pytest.mark.parametrize(("channel", "page"), [("host", PAGE), ("person", "")])
async def test_no_dialog_is_put_that_cannot_lead_to_an_answer(
    era: str, channel: str, page: str
) -> None:
    async with rig() as r:
        r.page = page
        dialogs = Dialogs("accept", {"approve": True})
        async with r.client(era=era, policy=Outside(channel), elicit=dialogs) as client:
            text = await refused(client, "guest_power", guests=100, action="stop")
        assert "pvemcp approvals approve ap-" in text
        assert PAGE not in text  # root on the host alone, or no page
        assert dialogs.asked == []


async def test_the_first_lines_of_a_dialog_say_what_is_lost(era: str) -> None:
    """Claude Code shows three lines of a message, each cut at the width of the terminal."""
    async with rig() as r:
        r.page = PAGE
        dialogs = Dialogs("decline")
        async with r.client(era=era, policy=Policy(), elicit=dialogs) as client:
            await refused(client, "api_destroy", path="/nodes/pve1/qemu/106")
        (waits,) = r.approvals.all(live=False)
    (asked,) = dialogs.asked
    assert isinstance(asked, ElicitRequestFormParams)
    first, second, third, *rest = (line[:75] for line in asked.message.splitlines())
    assert first == "destroys qemu/106 build and its disks"
    assert second.startswith("LOST (2): the disk scsi0 local-lvm:vm-106-disk-0 32G; the snapshot")
    assert third.startswith("state: stopped; tags: lab; last backup: ")
    assert "not verified" in third
    assert "- DELETE /nodes/pve1/qemu/106: destroys qemu/106 build and its disks" in rest
    (field,) = asked.requested_schema["properties"].values()
    assert field["title"] == "Type 106 to confirm"
    assert field["description"] == f"Within 10 min. All of the plan: {PAGE}/{waits.id}"
    assert "tester asks to run api_destroy (default: destroy asks)." in rest


async def test_many_writes_are_counted_in_the_first_line(era: str) -> None:
    async with rig() as r:
        dialogs = Dialogs("decline")
        async with r.client(era=era, policy=Policy(), elicit=dialogs) as client:
            await refused(client, "guest_power", guests=[100, 101], action="stop")
    (asked,) = dialogs.asked
    assert asked.message.startswith("2 writes: takes the power of qemu/100 web01")
