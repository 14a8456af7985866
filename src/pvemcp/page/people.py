"""PVE's login and its word on what a person may do. A ticket never leaves this process."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

from pvemcp.errors import Fault, Rejected, Unauthenticated, Unavailable
from pvemcp.pve.faults import texts
from pvemcp.pve.transport import Reply, Transport

REALMS_KEPT = 60.0
"""Seconds for which the list of realms is kept: anybody may ask for it."""
HOLDER = "the approval page"
"""Whose slots its requests to PVE take."""
_CHALLENGE = "PVE:!tfa!"
_FACTORS = ("totp", "recovery", "yubico")
"""Second factors that are a text; a security key signs for PVE's own address only."""
_URL = re.compile(r"https?://[!-~]+")
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Realm:
    """Where accounts are: `pam`, `pve`, a directory, an OpenID provider."""

    name: str
    type: str
    comment: str
    default: bool

    @property
    def openid(self) -> bool:
        """Whether one logs in at a provider elsewhere."""
        return self.type == "openid"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A person who has logged in: `USER@REALM`, and PVE's proof of it."""

    userid: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Challenge:
    """The password was right; PVE wants a second factor within two minutes."""

    userid: str
    value: str = field(repr=False)
    factors: tuple[str, ...] = ()


class People:
    """The accounts of one PVE."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._realms: tuple[float, list[Realm]] = (float("-inf"), [])
        self._asking = asyncio.Lock()

    async def realms(self) -> list[Realm]:
        """Return the realms, the default one first. Raises Unavailable."""
        async with self._asking:
            asked, found = self._realms
            if time.monotonic() - asked < REALMS_KEPT:
                return found
            rows = _data(await self._send("GET", "/access/domains"))
            found = sorted(map(_realm, rows), key=lambda one: (not one.default, one.name))
            self._realms = (time.monotonic(), found)
            return found

    async def log_in(self, userid: str, password: str) -> Ticket | Challenge:
        """Log in with a password. Raises Unauthenticated when PVE refuses."""
        return await self._ticket({"username": userid, "password": password})

    async def answer(self, challenge: Challenge, code: str) -> Ticket:
        """Answer a challenge with a code. Raises Unauthenticated when PVE refuses."""
        said = f"{_factor(challenge, code)}:{code}"
        given = {
            "username": challenge.userid,
            "password": said,
            "tfa-challenge": challenge.value,
        }
        found = await self._ticket(given)
        if isinstance(found, Challenge):
            raise _refused()
        return found

    async def openid_url(self, realm: str, redirect: str) -> str:
        """Return where an OpenID provider asks the person, who then comes back to `redirect`."""
        given = {"realm": realm, "redirect-url": redirect}
        found = _data(await self._send("POST", "/access/openid/auth-url", given))
        if not isinstance(found, str) or not _URL.fullmatch(found):
            raise Unavailable("PVE gave no address of the OpenID provider")
        return found

    async def openid(self, code: str, state: str, redirect: str) -> Ticket:
        """Log in with what an OpenID provider sent back. Raises Unauthenticated."""
        given = {"code": code, "state": state, "redirect-url": redirect}
        found = _ticket_of(_data(await self._send("POST", "/access/openid/login", given)))
        if isinstance(found, Challenge):
            raise _refused()
        return found

    async def privileges(self, ticket: Ticket, path: str) -> frozenset[str]:
        """Return what the person holds on an ACL path. Raises Unauthenticated for an old ticket."""
        reply = await self._transport.send(
            "GET",
            f"/api2/json/access/permissions?{urlencode({'path': path})}",
            headers={"Cookie": f"PVEAuthCookie={quote(ticket.value)}"},
            holder=HOLDER,
        )
        if reply.status == 400:  # no path of an access list can look like this
            return frozenset()
        found = _data(reply)
        held = found.get(path) if isinstance(found, dict) else None
        return frozenset(held or ())

    async def _ticket(self, given: Mapping[str, str]) -> Ticket | Challenge:
        return _ticket_of(_data(await self._send("POST", "/access/ticket", given)))

    async def _send(self, verb: str, path: str, given: Mapping[str, str] | None = None) -> Reply:
        return await self._transport.send(
            verb,
            f"/api2/json{path}",
            headers=_FORM if given else {},
            body=urlencode(given).encode() if given else None,
            holder=HOLDER,
        )


def _realm(row: Mapping[str, Any]) -> Realm:
    return Realm(
        str(row.get("realm", "")),
        str(row.get("type", "")),
        str(row.get("comment") or ""),
        bool(row.get("default")),
    )


def _data(reply: Reply) -> Any:
    if reply.status == 401:
        raise _refused()
    if reply.status != 200:
        raise _failed(reply)
    try:
        return json.loads(reply.body)["data"]
    except (ValueError, KeyError, TypeError):
        raise Unavailable("PVE's answer cannot be read") from None


def _refused() -> Unauthenticated:
    return Unauthenticated("PVE refused the login.")


def _failed(reply: Reply) -> Fault:
    if reply.status in {400, 403, 500}:
        return Rejected(f"PVE refused: {texts(reply)[0]}")
    return Unavailable(f"PVE did not answer properly ({reply.status})", hint="Try again later.")


def _ticket_of(answer: Any) -> Ticket | Challenge:
    try:
        userid, value = str(answer["username"]), str(answer["ticket"])
        needs = bool(answer.get("NeedTFA")) or value.startswith(_CHALLENGE)
    except (KeyError, TypeError, AttributeError):
        raise Unavailable("PVE's answer to the login cannot be read") from None
    return Challenge(userid, value, _factors(value)) if needs else Ticket(userid, value)


def _factors(challenge: str) -> tuple[str, ...]:
    try:
        said = json.loads(unquote(challenge.removeprefix(_CHALLENGE).split(":")[0]))
        return tuple(
            n for n in _FACTORS if said.get(n, "unavailable") not in ("unavailable", None, False)
        )
    except (ValueError, AttributeError, TypeError):
        return ()


def _factor(challenge: Challenge, code: str) -> str:
    """Tell what kind of code it is: an app's has six to eight digits."""
    if "totp" in challenge.factors and code.isdecimal() and len(code) <= 8:
        return "totp"
    rest = [name for name in challenge.factors if name != "totp"]
    return rest[0] if rest else "totp"
