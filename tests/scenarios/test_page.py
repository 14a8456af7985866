"""The approval page: a person logs in with a Proxmox account, sees what waits, and answers."""

from __future__ import annotations

from pvemcp.access.policy import Judgement, Policy
from pvemcp.call import Call, Verdict
from tests.scenarios.browsing import SECRET, site


class Two(Policy):
    """Wants two persons."""

    def judge(self, call: Call, writes: object) -> Judgement:  # noqa: ARG002
        return Judgement(Verdict.ASK, "two", channel="person", persons=2)


async def test_a_person_logs_in_and_approves_and_the_call_goes_through() -> None:
    async with site() as s:
        found = await s.asked()
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        listed = await person.get("/page/")
        assert f"/page/{found.id}" in listed.text
        assert "takes the power of qemu/100 web01" in listed.said
        shown = await person.get(f"/page/{found.id}")
        assert "POST /nodes/pve1/qemu/100/status/stop" in shown.said
        answer = await person.fill(f"/page/{found.id}", verdict="approve", reason="maintenance")
        assert (answer.status, answer.header("location")) == (303, f"/page/{found.id}")
        assert "approved" in (await person.get(f"/page/{found.id}")).said
        async with s.web.client() as client:
            text = await client.call("guest_power", guests=100, action="stop", approval=found.id)
        assert "OK" in text
        assert not s.rig.world.guests[100].running
        used = s.approvals.get(found.id)
        assert (used.state, used.by) == ("used", "carol@pve (page)")
        assert used.decisions[0].reason == "maintenance"
        assert "was used by the call" in (await person.get(f"/page/{found.id}")).said


async def test_a_person_denies_with_a_reason() -> None:
    async with site() as s:
        found = await s.asked()
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        await person.fill(f"/page/{found.id}", verdict="deny", reason="not today")
        assert s.approvals.get(found.id).state == "denied"
        assert "not today" in (await person.get(f"/page/{found.id}")).said


async def test_the_second_factor_is_asked_for() -> None:
    async with site() as s:
        s.account("dora@pve", totp=SECRET, vms="PVEVMAdmin")
        person = s.person()
        answer = await person.log_in("dora@pve")
        assert answer.header("location") == "/page/code"
        assert (await person.get("/page/")).status == 303
        wrong = await person.fill("/page/code", code="000000")
        assert (wrong.status, "not the right code" in wrong.said) == (401, True)
        answer = await person.fill("/page/code", code=s.code())
        assert answer.header("location") == "/page/"
        assert "dora@pve" in (await person.get("/page/")).said


async def test_three_wrong_codes_end_the_login() -> None:
    async with site() as s:
        s.account("dora@pve", totp=SECRET)
        person = s.person()
        await person.log_in("dora@pve")
        for _ in range(3):
            last = await person.fill("/page/code", code="000000")
        assert "Log in again" in last.said
        assert (await person.get("/page/code")).header("location") == "/page/login"


async def test_the_link_from_the_error_leads_to_the_plan_after_the_login() -> None:
    async with site(page_url="http://localhost:8080") as s:
        async with s.web.client() as client:
            result = await client.raw("guest_power", guests=100, action="stop")
        text = result.content[0].text
        found = s.approvals.all()[0]
        assert f"at http://localhost:8080/page/{found.id}" in text
        person = s.person()
        away = (await person.get(f"/page/{found.id}")).header("location")
        assert away == f"/page/login?next=/page/{found.id}"
        s.account("carol@pve", vms_100="PVEVMAdmin")
        answer = await person.fill(
            away, "/page/login", name="carol", password="correct horse battery", realm="pve"
        )
        assert answer.header("location") == f"/page/{found.id}"


async def test_who_lacks_the_privilege_is_told_which_one_and_approves_nothing() -> None:
    async with site() as s:
        found = await s.asked()
        person = await s.entered("bob@pve", vms_100="PVEAuditor")
        page = await person.get(f"/page/{found.id}")
        assert "VM.PowerMgmt on /vms/100" in page.said
        assert found.text not in page.said
        assert 'value="approve"' not in page.text
        token = (await person.get("/page/")).text.split('name="token" value="')[1].split('"')[0]
        answer = await person.post(f"/page/{found.id}", {"token": token, "verdict": "approve"})
        assert (answer.status, "VM.PowerMgmt on /vms/100" in answer.said) == (403, True)
        answer = await person.post(f"/page/{found.id}", {"token": token, "verdict": "deny"})
        assert answer.status == 403
        assert s.approvals.get(found.id).state == "waiting"
        assert "1 more waits" in (await person.get("/page/")).said


async def test_a_right_taken_away_counts_for_the_next_answer() -> None:
    async with site() as s:
        found = await s.asked()
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        hidden = (await person.get(f"/page/{found.id}")).hidden
        s.rig.world.access.revoke("/vms/100", "carol@pve", "PVEVMAdmin", kind="user")
        answer = await person.post(f"/page/{found.id}", {**hidden, "verdict": "approve"})
        assert answer.status == 403
        assert s.approvals.get(found.id).state == "waiting"


async def test_what_is_lost_for_ever_is_typed() -> None:
    async with site() as s:
        s.rig.world.guests[106].running = False
        async with s.web.client() as client:
            await client.raw("api_destroy", path="/nodes/pve1/qemu/106")
        found = s.approvals.all()[0]
        assert found.confirm
        person = await s.entered("carol@pve", vms_106="PVEVMAdmin")
        wrong = await person.fill(f"/page/{found.id}", verdict="approve", reason="r", confirm="7")
        assert (wrong.status, f"type {found.confirm}" in wrong.said) == (400, True)
        assert s.approvals.get(found.id).state == "waiting"
        await person.fill(f"/page/{found.id}", verdict="approve", confirm=found.confirm)
        assert s.approvals.get(found.id).state == "approved"


async def test_two_persons_must_say_yes() -> None:
    async with site(Two()) as s:
        found = await s.asked()
        first = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        second = await s.entered("dora@pve", vms_100="PVEVMAdmin")
        hidden = (await first.get(f"/page/{found.id}")).hidden
        await first.post(f"/page/{found.id}", {**hidden, "verdict": "approve"})
        again = await first.post(f"/page/{found.id}", {**hidden, "verdict": "approve"})
        assert (again.status, "approved" in again.said) == (409, True)
        assert "another person must" in (await first.get(f"/page/{found.id}")).said
        assert s.approvals.get(found.id).state == "waiting"
        await second.fill(f"/page/{found.id}", verdict="approve")
        assert s.approvals.get(found.id).state == "approved"


async def test_a_second_tab_that_is_late_is_told_so() -> None:
    async with site() as s:
        found = await s.asked()
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        hidden = (await person.get(f"/page/{found.id}")).hidden
        await person.post(f"/page/{found.id}", {**hidden, "verdict": "deny"})
        late = await person.post(f"/page/{found.id}", {**hidden, "verdict": "approve"})
        assert (late.status, "is denied" in late.said) == (409, True)
        assert s.approvals.get(found.id).state == "denied"


async def test_an_expired_plan_is_shown_as_expired() -> None:
    async with site() as s:
        found = await s.asked()
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        hidden = (await person.get(f"/page/{found.id}")).hidden
        s.rig.store.write("UPDATE approvals SET expires = 1.0", ())
        late = await person.post(f"/page/{found.id}", {**hidden, "verdict": "approve"})
        assert (late.status, "is expired" in late.said) == (409, True)
        page = await person.get(f"/page/{found.id}")
        assert "Nobody used it in time" in page.said
        assert 'value="approve"' not in page.text


async def test_clients_audit_and_changes_are_for_who_may_audit_all_of_pve() -> None:
    async with site() as s:
        async with s.web.client() as client:
            await client.call("guest_power", guests=106, action="start")
        small = await s.entered("bob@pve", vms="PVEVMAdmin")
        for path in ("/page/clients", "/page/audit", "/page/changes"):
            refused = await small.get(path)
            assert (refused.status, "lacks Sys.Audit on /" in refused.said) == (403, True)
        auditor = await s.entered("eve@pve", _="PVEAuditor")
        assert "laptop" in (await auditor.get("/page/clients")).said
        audit = (await auditor.get("/page/audit")).said
        assert "guest_power" in audit
        assert "page login" in audit
        assert "/qemu/106/status/start" in (await auditor.get("/page/changes")).said


async def test_a_command_as_root_is_shown_and_left_to_the_host() -> None:
    async with site() as s:
        s.rig.executor.allow_root()  # type: ignore[attr-defined]
        async with s.web.client() as client:
            await client.raw("host_run", command="id -u", effect="destroy")
        found = s.approvals.all()[0]
        person = await s.entered("carol@pve", _="Administrator")
        page = await person.get(f"/page/{found.id}")
        assert f"pvemcp approvals approve {found.id}" in page.said
        assert 'value="approve"' not in page.text
        answer = await person.post(f"/page/{found.id}", {**page.hidden, "verdict": "approve"})
        assert answer.status == 403
        assert s.approvals.get(found.id).state == "waiting"
