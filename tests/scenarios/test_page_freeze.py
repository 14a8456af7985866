"""The page's buttons that freeze and thaw, and attacks on them."""

from __future__ import annotations

import pytest

from pvemcp.access.freeze import Freeze, Freezes
from pvemcp.audit import Audit
from tests.scenarios.browsing import Person, Site, site
from tests.scenarios.clustered import nodes
from tests.scenarios.rig import ToolFault

PATH = "/page/freeze"


def frozen(s: Site) -> list[tuple[str, str, str, str]]:
    """Return what is frozen: client, mode, by whom, why."""
    return [(f.client, f.mode, f.by, f.reason) for f in Freezes(s.rig.store).all()]


async def admin(s: Site) -> Person:
    """Return somebody who has logged in and may freeze."""
    return await s.entered("carol@pve", _="Administrator")


async def test_a_person_freezes_and_thaws_and_it_counts_at_once() -> None:
    async with site() as s, s.web.client() as client:
        person = await admin(s)
        assert "Nothing." in (await person.get(PATH)).said
        given = {"do": "freeze", "client": "", "mode": "all", "reason": "look first"}
        answer = await person.fill(PATH, **given)
        assert (answer.status, answer.header("location")) == (303, PATH)
        assert frozen(s) == [("", "all", "carol@pve", "look first")]
        with pytest.raises(ToolFault, match="by carol@pve: look first"):
            await client.call("guest_get", guest=106)
        page = await person.get(PATH)
        assert "everything of every client is frozen" in page.said
        await person.post(PATH, {**thawing(page.text), "do": "thaw"})
        assert frozen(s) == []
        await client.call("guest_get", guest=106)
        kinds = [one.kind for one in Audit(s.rig.store, None).events()]
        assert [kind for kind in kinds if "freeze" in kind or "thaw" in kind] == [
            "freeze", "page freeze", "thaw", "page thaw",
        ]  # fmt: skip


def thawing(text: str) -> dict[str, str]:
    """Return the hidden fields of the first form that thaws."""
    form = text[text.index("<main") :].split("<form", 1)[1].split("</form>", maxsplit=1)[0]
    parts = (each.split('"') for each in form.split('<input type="hidden" name=')[1:])
    return {part[1]: part[3] for part in parts}


async def test_one_client_is_frozen_and_the_others_go_on() -> None:
    async with site() as s:
        person = await admin(s)
        given = {"do": "freeze", "client": "laptop", "mode": "read-only", "reason": ""}
        await person.fill(PATH, **given)
        assert frozen(s) == [("laptop", "read-only", "carol@pve", "")]
        assert (await person.fill(PATH, **{**given, "client": "nobody"})).status == 404
        assert (await person.fill(PATH, **{**given, "mode": "thaw"})).status == 400
        assert (await person.fill(PATH, **{**given, "do": "burn"})).status == 400
        assert len(frozen(s)) == 1


async def test_what_another_node_froze_is_shown_and_thawed_there_alone() -> None:
    async with site() as s:
        Freezes(s.rig.store).take("pve2", [Freeze("", "all", "bob", "<b>odd</b>", 1.0)])
        person = await admin(s)
        page = await person.get(PATH)
        assert "by bob on pve2" in page.said
        assert "pvemcp thaw, on pve2" in page.said
        assert "<b>odd" not in page.text
        token = page.hidden["token"]
        answer = await person.post(PATH, {"token": token, "do": "thaw", "client": ""})
        assert (answer.status, "but on pve2" in answer.said) == (404, True)
        assert len(frozen(s)) == 1


async def test_the_page_says_which_nodes_know_and_which_do_not() -> None:
    async with nodes() as n:
        await n["pve1"].stop()
        async with site(mirror_dir=n["pve1"].mirror, peer_port=n.port) as s:
            person = await admin(s)
            given = {"do": "freeze", "client": "", "mode": "all", "reason": ""}
            await person.fill(PATH, **given)
            assert [one.origin for one in n["pve2"].freezes.all()] == ["pve1"]
            assert "frozen on pve2, too" in (await person.get(PATH)).said
            await n["pve2"].stop()
            await person.post(PATH, {**thawing((await person.get(PATH)).text), "do": "thaw"})
            assert "pve2 does not know the freezes" in (await person.get(PATH)).said


async def test_a_thaw_is_of_the_freeze_that_the_person_has_seen() -> None:
    async with site() as s:
        freezes = Freezes(s.rig.store)
        freezes.freeze("read-only", by="pvemcp itself")
        person = await admin(s)
        given = thawing((await person.get(PATH)).text)
        freezes.freeze("all", by="root", reason="an intruder")
        answer = await person.post(PATH, {**given, "do": "thaw"})
        assert (answer.status, "frozen anew" in answer.said) == (409, True)
        assert frozen(s) == [("", "all", "root", "an intruder")]


@pytest.mark.parametrize("do", ["freeze", "thaw"])
async def test_who_may_not_change_all_of_pve_neither_freezes_nor_thaws(do: str) -> None:
    async with site() as s:
        Freezes(s.rig.store).freeze("read-only", by="root")
        before = frozen(s)
        eve = await s.entered("eve@pve", _="PVEAuditor", vms="PVEVMAdmin")
        page = await eve.get(PATH)
        assert "no Sys.Modify on /" in page.said
        assert "<form" not in page.text[page.text.index("<main") :]
        token = (await eve.get("/page/")).text.split('name="token" value="')[1].split('"')[0]
        given = {"token": token, "do": do, "client": "", "mode": "all"}
        answer = await eve.post(PATH, given)
        assert (answer.status, "lacks Sys.Modify on /" in answer.said) == (403, True)
        assert frozen(s) == before
        refused = [e for e in Audit(s.rig.store, None).events() if e.kind == f"page {do}"]
        assert "lacks Sys.Modify" in refused[-1].about["refused"]
        bob = await s.entered("bob@pve", vms="PVEVMAdmin")
        assert (await bob.get(PATH)).status == 403
        assert (await s.person().get(PATH)).status == 303


async def test_a_right_taken_away_counts_for_the_next_thaw() -> None:
    async with site() as s:
        person = await admin(s)
        Freezes(s.rig.store).freeze("all", by="root")
        given = thawing((await person.get(PATH)).text)
        s.rig.world.access.revoke("/", "carol@pve", "Administrator", kind="user")
        assert (await person.post(PATH, {**given, "do": "thaw"})).status == 403
        assert len(frozen(s)) == 1


async def test_a_thaw_from_elsewhere_or_without_the_sessions_token_does_nothing() -> None:
    async with site() as s:
        person = await admin(s)
        Freezes(s.rig.store).freeze("all", by="root")
        given = thawing((await person.get(PATH)).text) | {"do": "thaw"}
        evil = await person.post(PATH, given, Origin="https://evil.example")
        other = await s.entered("dora@pve", _="Administrator")
        stolen = await other.post(PATH, given)
        none = await person.post(PATH, {**given, "token": ""})
        linked = await person.get(f"{PATH}?do=thaw&client=&token={given['token']}")
        assert [one.status for one in (evil, stolen, none, linked)] == [403, 403, 403, 200]
        assert len(frozen(s)) == 1
