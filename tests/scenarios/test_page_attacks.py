"""Attacks on the approval page. None may end in an approval, a session, or a secret."""

from __future__ import annotations

import asyncio
import socket
import time
from urllib.parse import urlsplit

import pytest

from pvemcp.access.attempts import FAILURES
from pvemcp.audit import Audit
from pvemcp.connections import Connection
from pvemcp.page.visits import IDLE, LIFE
from tests.scenarios.browsing import PASSWORD, SECRET, Person, Site, site
from tests.scenarios.test_http import web


async def ready(s: Site) -> tuple[Person, str, dict[str, str]]:
    """Return somebody who may approve, the path of what waits, and the fields of its form."""
    found = await s.asked()
    person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
    path = f"/page/{found.id}"
    return person, path, (await person.get(path)).hidden


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://127.0.0.1:1", "http://127.0.0.1.evil.example"],
)
async def test_a_form_from_elsewhere_does_nothing(origin: str) -> None:
    async with site() as s:
        person, path, hidden = await ready(s)
        answer = await person.post(path, {**hidden, "verdict": "approve"}, Origin=origin)
        assert answer.status == 403
        assert s.approvals.all()[0].state == "waiting"


async def test_a_form_that_a_browser_calls_foreign_does_nothing() -> None:
    async with site() as s:
        person, path, hidden = await ready(s)
        crossed = {"Sec-Fetch-Site": "same-site"}
        answer = await person.post(path, {**hidden, "verdict": "approve"}, **crossed)
        assert answer.status == 403
        assert s.approvals.all()[0].state == "waiting"


@pytest.mark.parametrize("token", [None, "", "x", "session of another"])
async def test_a_form_without_the_sessions_own_token_does_nothing(token: str | None) -> None:
    async with site() as s:
        person, path, hidden = await ready(s)
        if token == "session of another":
            other = await s.entered("dora@pve", vms_100="PVEVMAdmin")
            token = (await other.get(path)).hidden["token"]
            assert token != hidden["token"]
        given = {"verdict": "approve", **({} if token is None else {"token": token})}
        assert (await person.post(path, given)).status == 403
        assert s.approvals.all()[0].state == "waiting"


async def test_looking_changes_nothing() -> None:
    async with site() as s:
        person, path, hidden = await ready(s)
        query = f"?verdict=approve&token={hidden['token']}"
        await person.get(path + query)
        for verb in ("PUT", "DELETE", "PATCH"):
            assert (await person.send(verb, path + query)).status == 405
        assert s.approvals.all()[0].state == "waiting"


async def test_json_two_values_and_large_forms_are_refused() -> None:
    async with site() as s:
        person, path, hidden = await ready(s)
        json = {"Content-Type": "application/json"}
        assert (await person.send("POST", path, data=b"{}", headers=json)).status == 400
        twice = f"token={hidden['token']}&verdict=deny&verdict=approve".encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await person.send("POST", path, data=twice, headers=kind)).status == 400
        large = b"reason=" + b"x" * 20_000
        assert (await person.send("POST", path, data=large, headers=kind)).status == 400
        assert s.approvals.all()[0].state == "waiting"


async def test_a_session_that_was_planted_is_not_taken_over() -> None:
    async with site() as s:
        s.account("carol@pve", vms_100="PVEVMAdmin")
        victim = s.person()
        victim.cookies["pvemcp-session"] = "planted"
        assert (await victim.get("/page/")).status == 303
        victim.cookies["pvemcp-session"] = "planted"
        await victim.log_in("carol@pve")
        first = victim.cookies["pvemcp-session"]
        assert first != "planted"
        attacker = s.person()
        attacker.cookies["pvemcp-session"] = "planted"
        assert (await attacker.get("/page/")).status == 303
        token = (await victim.get("/page/")).text.split('name="token" value="')[1].split('"')[0]
        await victim.post("/page/logout", {"token": token})
        await victim.log_in("carol@pve")
        assert victim.cookies["pvemcp-session"] != first


async def test_a_login_again_ends_the_session_that_came_with_it() -> None:
    async with site() as s:
        person = await s.entered("carol@pve")
        old, other = person.cookies["pvemcp-session"], s.person()
        hidden = (await other.get("/page/login")).hidden
        other.cookies["pvemcp-session"] = old
        given = {**hidden, "name": "carol", "password": PASSWORD, "realm": "pve"}
        await other.post("/page/login", given)
        assert (await person.get("/page/")).status == 303


async def test_a_login_form_of_another_browser_is_refused() -> None:
    async with site() as s:
        s.account("mallory@pve")
        attacker, victim = s.person(), s.person()
        hidden = (await attacker.get("/page/login")).hidden
        await victim.get("/page/login")
        given = {**hidden, "name": "mallory", "password": PASSWORD, "realm": "pve"}
        assert (await victim.post("/page/login", given)).status == 403
        victim.cookies.clear()
        assert (await victim.post("/page/login", given)).status == 403
        assert not any("session" in name for name in victim.cookies)


async def test_a_challenge_cannot_be_answered_from_another_browser() -> None:
    async with site() as s:
        s.account("dora@pve", totp=SECRET)
        victim, attacker = s.person(), s.person()
        await victim.log_in("dora@pve")
        await attacker.get("/page/login")
        hidden = (await victim.get("/page/code")).hidden
        answer = await attacker.post("/page/code", {**hidden, "code": s.code()})
        assert answer.status == 403


@pytest.mark.parametrize("secure", [False, True])
async def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(secure: bool) -> None:
    async with site(page_url="https://pve1.example.org" if secure else "") as s:
        s.account("carol@pve")
        person = s.person()
        form, entered = await person.get("/page/login"), await person.log_in("carol@pve")
        for cookie in (*form.cookies, *entered.cookies):
            flags = {part.strip().lower() for part in cookie.split(";")[1:]}
            assert {"httponly", "samesite=lax", "path=/"} <= flags
            assert not any(flag.startswith("domain") for flag in flags)
            assert ("secure" in flags) == secure
            assert cookie.startswith("__Host-pvemcp-") == secure


async def test_guessing_is_slowed_down_however_many_try_at_once() -> None:
    async with site() as s:
        s.account("carol@pve")
        person = s.person()
        hidden = (await person.get("/page/login")).hidden
        given = {**hidden, "name": "carol", "password": "wrong", "realm": "pve"}
        answers = await asyncio.gather(*(person.post("/page/login", given) for _ in range(40)))
        answers += [await person.post("/page/login", given) for _ in range(5)]
        assert [answer.status for answer in answers].count(401) == FAILURES
        assert {answer.status for answer in answers} == {401, 429}
        right = await person.post("/page/login", {**given, "password": PASSWORD})
        assert right.status == 429
        assert int(right.header("retry-after")) <= 61
        s.steady[0] += 61
        assert (await person.post("/page/login", {**given, "password": PASSWORD})).status == 303


async def test_a_failed_login_names_the_address_and_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with site() as s:
        s.account("dora@pve", totp=SECRET)
        person = s.person()
        await person.log_in("dora@pve", "hunter2-is-my-guess")
        await person.log_in("dora@pve")
        await person.fill("/page/code", code="314159")
        await person.fill("/page/code", code=s.code())
        rows = [row for row in Audit(s.rig.store, None).events() if "page" in row.kind]
        assert [(row.kind, row.about["person"], "refused" in row.about) for row in rows] == [
            ("page login", "dora@pve", True),
            ("page login", "dora@pve", True),
            ("page login", "dora@pve", False),
        ]
        assert {row.about["address"] for row in rows} == {"127.0.0.1"}
        for secret in ("hunter2", "314159", PASSWORD, "PVE:"):
            assert secret not in str(rows) + caplog.text


async def test_nobody_learns_the_ticket_or_is_named_to_pve() -> None:
    async with site() as s:
        person, path, _ = await ready(s)
        pages = [await person.get(each) for each in ("/page/", path, "/page/clients")]
        for page in pages:
            assert "PVE:" not in page.text + str(page.headers)
            assert "PVEAuthCookie" not in page.text + str(page.headers)
        assert not any("PVE" in value for value in person.cookies.values())


async def test_the_services_own_account_and_tokens_cannot_log_in() -> None:
    async with site() as s:
        s.account("pvemcp@pve", _="Administrator")
        token, secret = s.rig.world.token()
        person = s.person()
        assert (await person.log_in("pvemcp@pve")).status == 401
        assert (await person.log_in(token, secret, realm="pam")).status == 400
        assert (await person.log_in("pvemcp")).status == 401
        bearer = await s.person().get("/page/", Authorization=f"Bearer {s.web.secret}")
        assert bearer.status == 303
        assert not any("session" in name for name in person.cookies)


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "/page/../mcp", "javascript:1",
     "/page/ap-0%0d%0aX:1", "/page//evil.example", "/page/logout"],
)  # fmt: skip
async def test_the_login_leads_nowhere_else(target: str) -> None:
    async with site() as s:
        s.account("carol@pve")
        person = s.person()
        hidden = (await person.get(f"/page/login?next={target}")).hidden
        assert hidden["next"] == "/page/"
        given = {"name": "carol", "password": PASSWORD, "realm": "pve"}
        answer = await person.post("/page/login", {**hidden, "next": target, **given})
        assert answer.header("location") == "/page/"


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202egnp.exe\x1b[2J"


async def test_text_from_guests_clients_and_persons_stays_text() -> None:
    async with site() as s:
        guest = s.rig.world.guests[100]
        guest.config["name"] = guest.config["description"] = EVIL
        guest.config["tags"] = "<b>x</b>"
        found = await s.asked()
        s.rig.store.write("UPDATE approvals SET client = ?, mcp_client = ?", (EVIL, EVIL))
        s.rig.store.write(
            "UPDATE approvals SET plan = replace(plan, ?, ?)", ("Plan of", "<script>Plan of")
        )
        person = await s.entered("carol@pve", _="Administrator")
        await person.fill(f"/page/{found.id}", verdict="deny", reason=EVIL)
        for path in ("/page/", f"/page/{found.id}", "/page/audit", "/page/clients"):
            page = (await person.get(path)).text
            assert "<script" not in page
            assert "<img" not in page
            assert "<b>x" not in page
            assert "\u202e" not in page
            assert "\x1b" not in page
        shown = await person.get(f"/page/{found.id}")
        assert "&lt;script&gt;alert(1)" in shown.text
        assert "\u27e8U+202E\u27e9" in shown.text


@pytest.mark.parametrize(
    "path", ["/page/", "/page/login", "/page/nothing", "/page/static/page.css"]
)
async def test_every_answer_forbids_frames_scripts_and_keeping(path: str) -> None:
    async with site() as s:
        answer = await (await s.entered("carol@pve")).get(path)
        policy = answer.header("content-security-policy")
        for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'",
                     "form-action 'self'", "style-src 'self'"):  # fmt: skip
            assert rule in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert answer.header("x-frame-options") == "DENY"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("referrer-policy") == "same-origin"
        assert answer.header("cache-control") in {"no-store", "no-cache"}
        assert "<script" not in answer.text
        assert "style=" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/page/static/../templates/base.html", "/page/static/..%2f..%2fapp.py", "/page/static/",
     "/page/static/%2e%2e/site.py", "/page/static//etc/passwd", "/page/ap-../../x"],
)  # fmt: skip
async def test_only_the_pages_own_files_are_served(path: str) -> None:
    async with site() as s:
        parts = urlsplit(s.default.origin)
        with socket.create_connection((parts.hostname, parts.port or 0)) as raw:
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(raw, request.encode())
            answer = b""
            while piece := await loop.sock_recv(raw, 65536):
                answer += piece
        assert answer.split()[1] in {b"404", b"303", b"401"}
        assert b"root:" not in answer
        assert b"{%" not in answer


async def test_a_session_ends_when_idle_when_old_and_when_pve_forgets_the_ticket() -> None:
    async with site() as s:
        person = await s.entered("carol@pve", vms_100="PVEVMAdmin")
        s.steady[0] += IDLE - 1
        assert (await person.get("/page/?auto=1")).status == 200
        s.steady[0] += 2
        assert (await person.get("/page/")).status == 303
        await person.log_in("carol@pve")
        for _ in range(int(LIFE / IDLE) + 1):
            s.steady[0] += IDLE - 10
            await person.get("/page/")
        assert (await person.get("/page/")).status == 303
        await person.log_in("carol@pve")
        found = await s.asked()
        hidden = (await person.get(f"/page/{found.id}")).hidden
        s.rig.world.access.users["carol@pve"].enable = False
        answer = await person.post(f"/page/{found.id}", {**hidden, "verdict": "approve"})
        assert answer.status == 303
        assert answer.header("location").startswith("/page/login")
        assert s.approvals.get(found.id).state == "waiting"


async def test_a_logout_ends_the_session_on_the_server() -> None:
    async with site() as s:
        person, _, hidden = await ready(s)
        stolen = person.cookies["pvemcp-session"]
        await person.post("/page/logout", {"token": hidden["token"]})
        person.cookies["pvemcp-session"] = stolen
        assert (await person.get("/page/")).status == 303


async def test_a_login_that_never_ends_is_cut_off() -> None:
    class Hasty(Connection):
        patience = 0.3

    async with web(Hasty, page="on") as w:
        parts = urlsplit(w.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            "POST /page/login HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nname="
        )
        writer.write(head.encode())
        started = time.monotonic()
        await reader.read()
        assert time.monotonic() - started < 10
        writer.close()


async def test_the_page_is_off_unless_it_is_asked_for_or_tls_is_on() -> None:
    async with site(page="auto") as s:
        assert (await s.person().get("/page/login")).status == 401


async def test_a_foreign_host_name_is_refused_before_the_page() -> None:
    async with site() as s:
        answer = await s.person().get("/page/login", Host="evil.example")
        assert answer.status == 421
