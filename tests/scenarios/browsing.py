"""A person at the approval page, without a browser: cookies are kept, forms are read and sent."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from pvemcp.access.approvals import Approval, Approvals
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.access.policy import Policy
from pvemcp.app import compose
from pvemcp.call import ApiToken, Effect
from pvemcp.listener import Running, start
from pvemcp.settings import Settings
from pvemcp.sim.tickets import totp
from pvemcp.watch.clock import Clock
from tests.scenarios.rig import Rig, rig
from tests.scenarios.test_http import Web

PASSWORD = "correct horse battery"
SECRET = "JBSWY3DPEHPK3PXP"
_FIELD = re.compile(r'<input type="hidden" name="([a-z]+)" value="([^"]*)">')


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    text: str

    def header(self, name: str) -> str:
        """Return a header, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def cookies(self) -> list[str]:
        """Return every Set-Cookie."""
        return [value for key, value in self.headers if key.lower() == "set-cookie"]

    @property
    def hidden(self) -> dict[str, str]:
        """Return the hidden fields of the last form, which is the page's own."""
        main = self.text[self.text.index("<main") :] if "<main" in self.text else ""
        return {name: unescape(value) for name, value in _FIELD.findall(main)}

    @property
    def said(self) -> str:
        """Return the text alone."""
        return unescape(re.sub(r"<[^>]+>", " ", self.text))


@dataclass
class Person:
    """Somebody with a browser."""

    origin: str
    cookies: dict[str, str] = field(default_factory=dict)
    verify: ssl.SSLContext | bool = True

    async def send(
        self,
        verb: str,
        path: str,
        *,
        data: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request; redirects are not followed."""
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        merged = {"Cookie": cookie, **(headers or {})}
        if verb == "POST":
            merged = {"Origin": self.origin, **merged}
        merged = {name: value for name, value in merged.items() if value}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                verb, f"{self.origin}{path}", data=data, headers=merged, allow_redirects=False,
                ssl=self.verify,
            ) as answer,
        ):  # fmt: skip
            text = await answer.text()
            found = Answer(answer.status, list(answer.headers.items()), text)
        for each in found.cookies:
            name, _, value = each.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
            if not self.cookies[name]:
                del self.cookies[name]
        return found

    async def get(self, path: str, **headers: str) -> Answer:
        """Open a page."""
        return await self.send("GET", path, headers=headers)

    async def post(self, path: str, data: dict[str, str] | None = None, **headers: str) -> Answer:
        """Send a form as it is."""
        return await self.send("POST", path, data=data or {}, headers=headers)

    async def fill(self, path: str, to: str = "", **fields: str) -> Answer:
        """Open a page, fill in its form, and send it."""
        hidden = (await self.get(path)).hidden
        return await self.post(to or path, {**hidden, **fields})

    async def log_in(self, user: str, password: str = PASSWORD, realm: str = "pve") -> Answer:
        """Log in with name and password."""
        return await self.fill("/page/login", name=user, password=password, realm=realm)


@dataclass
class Site:
    """A service with its page."""

    web: Web
    steady: list[float]
    """The clock of its sessions, in seconds."""
    default: Person

    @property
    def rig(self) -> Rig:
        """The world and the store."""
        return self.web.rig

    @property
    def approvals(self) -> Approvals:
        """The questions."""
        return self.rig.approvals

    def person(self) -> Person:
        """Return somebody with a browser of their own."""
        return replace(self.default, cookies={})

    def account(self, name: str, *, totp: str = "", **roles: str) -> None:
        """Make an account in PVE; `vms_100="PVEVMUser"` is that role on /vms/100."""
        self.rig.world.add_user(name, password=PASSWORD, totp=totp)
        for path, role in roles.items():
            self.rig.world.grant("/" + path.strip("_").replace("_", "/"), name, role)

    async def entered(self, name: str, **roles: str) -> Person:
        """Return a person who has an account and has logged in."""
        self.account(name, **roles)
        person = self.person()
        answer = await person.log_in(name)
        assert answer.status == 303, answer.said
        return person

    def code(self, secret: str = SECRET) -> str:
        """Return what an app shows now."""
        return totp(secret, self.rig.world.clock.now())

    async def asked(self, vmid: int = 100, action: str = "stop") -> Approval:
        """Have a client ask for something that waits for a person."""
        async with self.web.client(verify=self.default.verify) as client:
            result = await client.raw("guest_power", guests=vmid, action=action)
        assert "approval_needed" in result.content[0].text
        return self.approvals.all()[0]


@asynccontextmanager
async def site(
    policy: Policy | None = None, verify: ssl.SSLContext | bool = True, **changes: Any
) -> AsyncIterator[Site]:
    """Start a service with its page on loopback."""
    async with rig("homelab") as r:
        settings = Settings(listen="127.0.0.1:0", state_dir=r.store.path.parent, page="on")
        settings = replace(settings, **changes)
        steady, grants = [0.0], Grants(r.store)
        _, secret = grants.create("laptop", Effect.DESTROY)
        app = compose(
            settings, store=r.store, grants=grants, pve=r.pve, executor=r.executor,
            default=ApiToken(*r.world.token()), policy=policy or Policy(freezes=Freezes(r.store)),
            clock=Clock(steady=lambda: steady[0]),
        )  # fmt: skip
        async with start(app, settings) as running:
            yield _site(r, grants, running, secret, steady=steady, verify=verify)


def _site(
    r: Rig, grants: Grants, running: Running, secret: str, *, steady: list[float],
    verify: ssl.SSLContext | bool,
) -> Site:  # fmt: skip
    web = Web(r, grants, [0.0], running, running.url, secret)
    parts = urlsplit(running.url)
    return Site(web, steady, Person(f"{parts.scheme}://{parts.netloc}", verify=verify))
