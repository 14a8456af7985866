"""PVE's API from anywhere, with the login of an administrator that is forgotten afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlencode

from pvemcp.errors import Denied, Fault, Invalid, Unauthenticated, Unavailable
from pvemcp.pve.faults import texts
from pvemcp.pve.transport import Reply
from pvemcp.setup.access import refusal, wire
from pvemcp.setup.door import Door, Target

Ask = Callable[[str], str]
"""Asks a person for one line, without showing it."""
_CHALLENGE = "PVE:!tfa!"


@dataclass(frozen=True, slots=True)
class Admin:
    """Who logs in: `USER@REALM`."""

    userid: str
    password: str = field(repr=False)


class Login:
    """The API of one PVE as a person with a ticket: kept in memory, for this one command.

    Raises Invalid for a user that is none, Unauthenticated when PVE refuses the login.
    """

    def __init__(self, target: Target, admin: Admin, ask_code: Ask) -> None:
        if "@" not in admin.userid or "!" in admin.userid:
            raise Invalid(
                f"{admin.userid!r} is not USER@REALM.",
                hint="For example root@pam, or an administrator of your own realm; no API token: "
                "a token cannot give rights to others.",
            )
        self.who = f"{admin.userid} at {target.url}"
        self._door = Door(target)
        self._headers: dict[str, str] = {}
        self._log_in(admin, ask_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the ticket."""
        self._headers = {}

    def get(self, path: str, /, **params: Any) -> Any:
        """Read."""
        return self._ask("GET", path, params)

    def post(self, path: str, /, **params: Any) -> Any:
        """Make something new."""
        return self._ask("POST", path, params)

    def put(self, path: str, /, **params: Any) -> Any:
        """Change something."""
        return self._ask("PUT", path, params)

    def delete(self, path: str, /, **params: Any) -> Any:
        """Remove something."""
        return self._ask("DELETE", path, params)

    def _log_in(self, admin: Admin, ask_code: Ask) -> None:
        given = {"username": admin.userid, "password": admin.password}
        answer = self._ticket(given)
        if answer.get("NeedTFA") or answer["ticket"].startswith(_CHALLENGE):
            challenge = answer["ticket"]
            code = _answered(challenge, ask_code)
            answer = self._ticket(
                {"username": admin.userid, "password": code, "tfa-challenge": challenge}
            )
        self._headers = {
            "Cookie": f"PVEAuthCookie={quote(answer['ticket'])}",
            "CSRFPreventionToken": answer["CSRFPreventionToken"],
        }

    def _ticket(self, given: dict[str, str]) -> dict[str, Any]:
        reply = self._send("POST", "/access/ticket", given)
        if reply.status == 401:
            raise Unauthenticated(
                f"PVE refused the login of {given['username']}.",
                hint="The user with its realm (root@pam), the password and the code must be right; "
                "a code of an app is good for 30 s. PVE's journal has the reason: journalctl -u "
                "pvedaemon.",
            )
        answer: dict[str, Any] = _data("the login", reply)
        return answer

    def _ask(self, verb: str, path: str, params: dict[str, Any]) -> Any:
        return _data(f"{verb} {path}", self._send(verb, path, wire(params)))

    def _send(self, verb: str, path: str, params: dict[str, str]) -> Reply:
        target, form = f"/api2/json{quote(path, safe='/:@!')}", urlencode(params)
        headers, body = dict(self._headers), None
        if verb in {"GET", "DELETE"}:
            target += f"?{form}" if form else ""
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = form.encode()
        return self._door.send(verb, target, headers, body)


def _answered(challenge: str, ask_code: Ask) -> str:
    """Ask for what answers the challenge of a second factor."""
    factors = json.loads(unquote(challenge.removeprefix(_CHALLENGE).split(":")[0]))
    known = ("totp", "recovery", "yubico")
    usable = [name for name in known if factors.get(name, "unavailable") != "unavailable"]
    if not usable:
        raise Invalid(
            "This account's second factor works in a browser only.",
            hint="Use an account with a TOTP or recovery code, or run it as root on the PVE host.",
        )
    code = ask_code(f"Second factor ({' or '.join(usable)})").strip()
    if "totp" in usable and code.isdecimal() and len(code) <= 8:
        return f"totp:{code}"
    kind = "recovery" if "recovery" in usable else usable[0]
    return f"{kind}:{code}"


def _data(asked: str, reply: Reply) -> Any:
    if reply.status == 200:
        try:
            return json.loads(reply.body)["data"]
        except (ValueError, KeyError, TypeError):
            raise Unavailable(
                f"The answer to {asked} is not that of a PVE.",
                hint="--pve-url must name a PVE host, normally with port 8006.",
            ) from None
    text, errors = texts(reply)
    raise _fault(asked, reply.status, text, errors)


def _fault(asked: str, status: int, text: str, errors: dict[str, str]) -> Fault:
    if status == 403:
        return Denied(
            f"PVE refused {asked}: {text}",
            hint="Set-up needs an administrator: User.Modify on /access/groups, Sys.Modify on "
            "/access and Permissions.Modify on /, as root@pam or the role Administrator has them.",
        )
    if status == 401:
        return Unauthenticated(f"PVE refused {asked}: {text}", hint="Log in again.")
    return refusal(asked, text, errors)
