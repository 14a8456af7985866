"""Strangers at the approval page, and persons with few rights, who try more than they may."""

from __future__ import annotations

import asyncio

from pvemcp.access.attempts import FAILURES
from pvemcp.access.policy import Judgement, Policy
from pvemcp.audit import Audit
from pvemcp.call import Call, Verdict
from tests.scenarios.browsing import PASSWORD, Site, site

MANY = FAILURES + 10


def noted(s: Site, kind: str) -> int:
    """Return how many events of a kind are in the audit."""
    return sum(one.kind == kind for one in Audit(s.rig.store, None).events(1000))


async def test_a_return_from_a_provider_that_nobody_was_sent_to_leaves_no_trace() -> None:
    async with site() as s:
        person = s.person()
        for query in ("", "?code=x", "?code=x&state=y"):
            person.cookies["pvemcp-openid"] = "e30.00"
            assert (await person.get(f"/page/openid{query}")).status == 401
        assert noted(s, "page login") == 0
        assert (await person.get("/page/login")).status == 200


async def test_logins_as_the_services_own_account_are_slowed_down_as_all_are() -> None:
    async with site() as s:
        person = s.person()
        hidden = (await person.get("/page/login")).hidden
        given = {**hidden, "name": "pvemcp", "password": PASSWORD, "realm": "pve"}
        answers = await asyncio.gather(*(person.post("/page/login", given) for _ in range(MANY)))
        assert {answer.status for answer in answers} == {401, 429}
        assert noted(s, "page login") == FAILURES


async def test_a_person_who_is_refused_again_and_again_must_wait() -> None:
    async with site() as s:
        found = await s.asked()
        nobody, other = await s.entered("dora@pve"), await s.entered("carol@pve", vms="PVEVMAdmin")
        token = (await nobody.get("/page/")).text.split('name="token" value="')[1].split('"')[0]
        tried = ("/page/freeze", {"do": "freeze", "mode": "all"}), (
            f"/page/{found.id}", {"verdict": "approve"},
        )  # fmt: skip
        statuses = [
            (await nobody.post(path, {**given, "token": token})).status
            for _ in range(MANY)
            for path, given in tried
        ]
        assert statuses[:FAILURES] == [403] * FAILURES
        assert set(statuses[FAILURES:]) == {429}
        assert noted(s, "page freeze") + noted(s, "page approve") == FAILURES
        assert (await other.fill(f"/page/{found.id}", verdict="approve")).status == 303
        s.steady[0] += 61
        assert (await nobody.post(tried[0][0], {**tried[0][1], "token": token})).status == 403


class Always(Policy):
    """Asks about every write."""

    def judge(self, call: Call, writes: object) -> Judgement:  # noqa: ARG002
        return Judgement(Verdict.ASK, "all", channel="person")


async def test_who_has_no_space_on_a_storage_approves_no_new_disk_there() -> None:
    async with site(Always()) as s:
        async with s.web.client() as client:
            asked = {"path": "/nodes/pve1/qemu/100/config", "params": {"scsi5": "local-lvm:32"}}
            await client.raw("api_change", method="POST", **asked)
        found = s.approvals.all()[0]
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        shown = await person.get(f"/page/{found.id}")
        assert "Datastore.AllocateSpace on /storage/local-lvm" in shown.said
        token = shown.text.split('name="token" value="')[1].split('"')[0]
        refused = await person.post(f"/page/{found.id}", {"token": token, "verdict": "approve"})
        assert refused.status == 403
        assert s.approvals.get(found.id).state == "waiting"
        s.rig.world.grant("/storage/local-lvm", "carol@pve", "PVEDatastoreUser")
        await person.fill(f"/page/{found.id}", verdict="approve")
        assert s.approvals.get(found.id).state == "approved"


async def test_root_approves_only_while_pve_knows_the_ticket() -> None:
    async with site() as s:
        found = await s.asked()
        s.rig.world.access.users["root@pam"].password = PASSWORD
        person = s.person()
        assert (await person.log_in("root@pam", realm="pam")).status == 303
        hidden = (await person.get(f"/page/{found.id}")).hidden
        s.rig.world.clock.advance(3 * 3600)
        answer = await person.post(f"/page/{found.id}", {**hidden, "verdict": "approve"})
        assert answer.header("location").startswith("/page/login")
        assert s.approvals.get(found.id).state == "waiting"


async def test_a_secret_in_a_reason_is_kept_nowhere() -> None:
    async with site() as s:
        found, reason = await s.asked(), "because cipassword=S3cretReason1"
        person = await s.entered("carol@pve", _="Administrator")
        await person.fill("/page/freeze", do="freeze", mode="all", client="", reason=reason)
        await person.fill(f"/page/{found.id}", verdict="deny", reason=reason)
        assert s.approvals.get(found.id).decisions[0].reason == "because cipassword=[redacted]"
        files = s.rig.store.path.parent.glob("pvemcp.db*")
        assert b"S3cretReason1" not in b"".join(file.read_bytes() for file in files)
