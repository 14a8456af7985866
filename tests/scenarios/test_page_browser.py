"""The approval page in a real browser: Debian's chromium, with a phone's window too."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

from pvemcp.access.approvals import Person
from pvemcp.access.freeze import Freezes
from pvemcp.sim.tls import make_certificates
from tests.scenarios.browsing import PASSWORD, SECRET, Site, site
from tests.scenarios.test_page import Two

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = files("axe_playwright_python").joinpath("axe.min.js")
PHONE = {"width": 360, "height": 640}
DESK = {"width": 1280, "height": 800}
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
HOST = Person("root", "host")
ADMIN = {"vms": "PVEVMAdmin"}

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium"),
    pytest.mark.timeout(120),
]


@dataclass
class Tab:
    """A tab, and what went wrong in it."""

    page: Page
    trouble: list[str] = field(default_factory=list)
    expected: str = ""
    """Status of an answer that the test provokes."""

    def foresaw(self, trouble: str) -> bool:
        """Whether the browser only says that an answer had the expected status."""
        return bool(self.expected) and f"with a status of {self.expected}" in trouble

    async def open(self, url: str) -> None:
        """Go to a page."""
        await self.page.goto(url)

    async def log_in(self, name: str, *, code: str = "") -> None:
        """Fill in the forms of the login, as a person does: by their labels."""
        await self.page.get_by_label("User name").fill(name)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_label("Realm").select_option("pve")
        await self.page.get_by_role("button", name="Log in", exact=True).click()
        if code:
            await self.page.get_by_label("Code of your app").fill(code)
            await self.page.get_by_role("button", name="Continue").click()

    async def says(self, text: str) -> None:
        """Wait until the page shows a text."""
        await self.page.get_by_text(text).first.wait_for(timeout=15_000)

    def may_fail(self, status: str) -> None:
        """Let the next page be an error, which chromium notes as if it were trouble."""
        self.expected = status

    async def is_accessible(self) -> None:
        """Have axe-core look at it, and hold it to the width of the window."""
        await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate("axe.run()")
        told = [f"{each['id']}: {each['nodes'][0]['html']}" for each in found["violations"]]
        assert told == [], self.page.url
        assert found["passes"]
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert await self.page.evaluate(fits), f"{self.page.url} is wider than the window"


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(browser: Browser, *, size: dict[str, int], **more: Any) -> AsyncIterator[Tab]:
    """Open a window of its own; what fails in it fails the test."""
    context = await browser.new_context(viewport=size, ignore_https_errors=True, **more)  # type: ignore[arg-type]
    context.set_default_timeout(15_000)
    opened = await context.new_page()
    found = Tab(opened)
    watch(opened, found.trouble)
    try:
        yield found
    finally:
        await context.close()
    assert [each for each in found.trouble if not found.foresaw(each)] == []


def watch(page: Page, trouble: list[str]) -> None:
    """Note script errors and whatever the browser complains of."""
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)


def link(s: Site, id_: str = "") -> str:
    return f"{s.default.origin}/page/{id_}"


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Any]:
    """The settings of a service with a certificate, and what verifies it."""
    made = make_certificates(tmp_path, names=("127.0.0.1", "localhost"))
    verify = ssl.create_default_context(cafile=made.ca_file)
    return {"tls_cert": made.chain_file, "tls_key": made.key_file, "page": "auto", "verify": verify}


async def test_a_person_approves_on_a_phone_with_a_second_factor(tls: dict[str, Any]) -> None:
    async with browsing() as browser, site(**tls) as s, tab(browser, size=PHONE) as t:
        s.account("dora@pve", totp=SECRET, **ADMIN)
        found = await s.asked()
        await t.open(link(s, found.id))
        await t.is_accessible()
        await t.log_in("dora@pve", code=s.code())
        await t.says("The plan")
        assert t.page.url == link(s, found.id)
        await t.is_accessible()
        await t.page.get_by_label("Reason").fill("it hangs")
        await t.page.get_by_role("button", name="Approve").click()
        await t.says("The client may use it once")
        decided = s.approvals.get(found.id)
        assert (decided.state, decided.by) == ("approved", "dora@pve (page)")
        assert decided.decisions[0].reason == "it hangs"
        (cookie,) = [c for c in await t.page.context.cookies() if "session" in c.get("name", "")]
        assert (cookie.get("name"), cookie.get("secure")) == ("__Host-pvemcp-session", True)
        async with s.web.client(verify=tls["verify"]) as client:
            call = {"guests": 100, "action": "stop", "approval": found.id}
            assert "OK" in await client.call("guest_power", **call)


async def test_a_wrong_password_and_a_wrong_code_are_told() -> None:
    async with browsing() as browser, site() as s, tab(browser, size=PHONE) as t:
        s.account("dora@pve", totp=SECRET)
        await t.open(link(s))
        t.may_fail("401")
        await t.page.get_by_label("User name").fill("dora")
        await t.page.get_by_label("Password").fill("wrong")
        await t.page.get_by_label("Realm").select_option("pve")
        await t.page.get_by_role("button", name="Log in", exact=True).click()
        await t.says("The login was refused")
        await t.is_accessible()
        await t.log_in("dora", code="000000")
        await t.says("not the right code")
        await t.is_accessible()


async def test_a_second_tab_sees_the_answer_and_cannot_give_another() -> None:
    async with browsing() as browser, site() as s, tab(browser, size=DESK) as t:
        s.account("carol@pve", **ADMIN)
        found = await s.asked()
        await t.open(link(s, found.id))
        await t.log_in("carol@pve")
        await t.says("The plan")
        second = Tab(await t.page.context.new_page(), t.trouble)
        await second.open(link(s, found.id))
        await second.page.get_by_role("button", name="Deny").click()
        await second.says("Nothing was done")
        t.may_fail("409")
        await t.page.get_by_role("button", name="Approve").click()
        await t.says("is denied")
        await t.is_accessible()
        assert s.approvals.get(found.id).state == "denied"


async def test_an_expired_plan_cannot_be_approved_in_an_open_tab() -> None:
    async with browsing() as browser, site() as s, tab(browser, size=PHONE) as t:
        s.account("carol@pve", **ADMIN)
        found = await s.asked()
        await t.open(link(s, found.id))
        await t.log_in("carol@pve")
        await t.says("The plan")
        s.rig.store.write("UPDATE approvals SET expires = 1.0", ())
        t.may_fail("409")
        await t.page.get_by_role("button", name="Approve").click()
        await t.says("Nobody used it in time")
        await t.is_accessible()
        assert await t.page.get_by_role("button", name="Approve").count() == 0


async def test_who_lacks_the_role_sees_what_is_missing_and_no_button() -> None:
    async with browsing() as browser, site() as s, tab(browser, size=PHONE) as t:
        s.account("bob@pve", vms="PVEAuditor")
        found = await s.asked()
        await t.open(link(s, found.id))
        await t.log_in("bob@pve")
        await t.says("VM.PowerMgmt on /vms/100")
        await t.is_accessible()
        assert await t.page.get_by_role("button", name="Approve").count() == 0


async def test_what_is_typed_decides_and_two_persons_are_two() -> None:
    async with browsing() as browser, site(Two()) as s:
        found = await s.asked(106, "start")
        for name in ("carol@pve", "dora@pve"):
            s.account(name, **ADMIN)
            async with tab(browser, size=PHONE) as t:
                await t.open(link(s, found.id))
                await t.log_in(name)
                await t.page.get_by_role("button", name="Approve").click()
                await t.says("another person must" if name == "carol@pve" else "may use it once")
                await t.is_accessible()


async def test_everything_is_frozen_and_thawed_from_a_phone() -> None:
    async with browsing() as browser, site() as s, tab(browser, size=PHONE) as t:
        s.account("eve@pve", _="Administrator")
        await t.open(link(s, "freeze"))
        await t.log_in("eve@pve")
        await t.page.get_by_label("What").select_option("all")
        await t.page.get_by_label("Reason").fill("look first")
        await t.page.get_by_role("button", name="Freeze").click()
        await t.says("everything of every client is frozen")
        assert [one.by for one in Freezes(s.rig.store).all()] == ["eve@pve"]
        await t.is_accessible()
        await t.page.get_by_role("button", name="Thaw every client").click()
        await t.says("Nothing.")
        assert Freezes(s.rig.store).all() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_accessible_in_light_and_dark(scheme: str) -> None:
    async with (
        browsing() as browser,
        site() as s,
        tab(browser, size=PHONE, color_scheme=scheme, java_script_enabled=True) as t,
    ):
        s.account("eve@pve", _="Administrator")
        for vmid in (100, 101):
            await s.asked(vmid)
        s.approvals.deny(s.approvals.all()[0].id, HOST)
        async with s.web.client() as client:
            await client.call("guest_power", guests=106, action="start")
        await t.open(link(s))
        await t.is_accessible()
        await t.log_in("eve@pve")
        await t.says("Waiting")
        Freezes(s.rig.store).freeze("read-only", client="laptop", by="root", reason="odd")
        for path in ("", "clients", "audit", "changes", "freeze"):
            await t.open(link(s, path))
            await t.is_accessible()
        t.may_fail("404")
        await t.open(link(s, "ap-0"))
        await t.is_accessible()


async def test_the_list_keeps_itself_up_to_date_without_scripts() -> None:
    async with (
        browsing() as browser,
        site() as s,
        tab(browser, size=DESK, java_script_enabled=False) as t,
    ):
        s.account("carol@pve", **ADMIN)
        await t.open(link(s))
        await t.log_in("carol@pve")
        await t.says("Nothing waits for you")
        found = await s.asked()
        await t.page.get_by_role("link", name="guest_power").wait_for(timeout=20_000)
        await t.page.get_by_role("link", name="guest_power").click()
        await t.page.get_by_role("button", name="Deny").click()
        await t.says("Nothing was done")
        assert s.approvals.get(found.id).state == "denied"


async def test_names_and_notes_of_guests_run_nothing() -> None:
    evil = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
    async with browsing() as browser, site() as s, tab(browser, size=PHONE) as t:
        s.account("carol@pve", _="Administrator")
        found = await s.asked()
        s.rig.store.write("UPDATE approvals SET client = ?, tool = ?", (evil, evil))
        await t.open(link(s, found.id))
        await t.log_in("carol@pve")
        await t.says("The plan")
        assert await t.page.title() != "owned"
        assert await t.page.locator("script, img").count() == 0
        await t.is_accessible()


EVERY = {
    "approvals": ("client", "tool", "address", "mcp_client", "rule", "confirm"),
    "calls": ("client", "tool", "address", "mcp_client", "error", "outcome"),
    "changes": ("client", "tool", "verb", "path", "target", "outcome", "error", "undo"),
    "grants": ("name",),
}
"""Columns that the page shows."""


async def test_no_string_that_any_page_shows_runs_loads_or_ends_its_element() -> None:
    run, load = "<script>document.title='owned'</script>", "<img src=//evil.example/x>"
    evil = f"{run}{load}\"'></pre></option><b>x\u202e"
    async with browsing() as browser, site() as s, tab(browser, size=PHONE) as t:
        s.account("carol@pve", _="Administrator")
        found = await s.asked()
        async with s.web.client() as client:
            await client.raw("guest_power", guests=106, action="start", wait=0)
        foreign: list[str] = []
        t.page.on("request", lambda asked: foreign.append(asked.url))
        await t.open(link(s, found.id))
        await t.log_in("carol@pve")
        for table, columns in EVERY.items():
            for column in columns:
                s.rig.store.write(f"UPDATE {table} SET {column} = ?", (evil,))  # noqa: S608
        plan = json.dumps({"text": evil, "writes": [{"kind": evil, "id": evil}], "brief": []})
        s.rig.store.write("UPDATE approvals SET plan = ?", (plan,))
        for path in (f"/page/{found.id}", "/page/", "/page/audit", "/page/changes",
                     "/page/clients", "/page/freeze"):  # fmt: skip
            await t.page.goto(f"{s.default.origin}{path}")
            assert await t.page.title() != "owned", path
            assert await t.page.locator("script, img, b").count() == 0, path
            shown = await t.page.locator("main").inner_text()
            assert ("<img" in shown, "\u202e" in shown) == (True, False), path
        assert not [url for url in foreign if "evil" in url]
