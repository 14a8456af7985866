"""Logging in: tickets, and the challenge of a second factor."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from pvemcp.sim.declare import EVERYONE, Ask, Endpoint, endpoint, flag, text
from pvemcp.sim.permissions import ROOT, Identity, User
from pvemcp.sim.refusal import Refusal
from pvemcp.sim.tickets import (
    CHALLENGE_LIFE,
    make_csrf,
    make_ticket,
    password_holds,
    ticket_subject,
    ticket_user,
    totp_holds,
)  # fmt: skip
from pvemcp.sim.world import World

_CHALLENGE = "!tfa!"
_AREAS = ("access", "dc", "nodes", "sdn", "storage", "vms")


def _failure() -> Refusal:
    return Refusal(401, "authentication failure")


def _login(ask: Ask) -> dict[str, Any]:
    world, args = ask.world, ask.args
    userid = args["username"]
    if "@" not in userid:
        userid = f"{userid}@{args.get('realm', 'pam')}"
    user = world.access.users.get(userid)
    if user is None or not user.valid(world.clock.now()):
        raise _failure()
    if challenge := args.get("tfa-challenge"):
        _check_challenge(world, user, challenge, args["password"])
        return _granted(world, user)
    if ticket_user(world, args["password"]) == userid:
        return _granted(world, user)
    if not password_holds(user, args["password"]):
        raise _failure()
    if user.totp and not _one_shot(world, user, args.get("otp", "")):
        return _challenged(world, user)
    return _granted(world, user)


def _one_shot(world: World, user: User, otp: str) -> bool:
    if not otp:
        return False
    if not totp_holds(world, user, otp.removeprefix("totp:")):
        raise _failure()
    return True


def _check_challenge(world: World, user: User, challenge: str, answer: str) -> None:
    subject = ticket_subject(world, challenge, CHALLENGE_LIFE)
    code = answer.removeprefix("totp:")
    known = subject.startswith(_CHALLENGE) and subject.endswith(f":{user.userid}")
    if not known or code == answer or not totp_holds(world, user, code):
        raise _failure()


def _challenged(world: World, user: User) -> dict[str, Any]:
    # The host's ticket names no user; ours does, so that a challenge serves one account alone.
    factors = quote(json.dumps({"totp": True, "recovery": "unavailable"}))
    return {
        "username": user.userid,
        "NeedTFA": 1,
        "ticket": make_ticket(world, f"{_CHALLENGE}{factors}:{user.userid}"),
        "CSRFPreventionToken": make_csrf(world, user.userid),
    }


def _granted(world: World, user: User) -> dict[str, Any]:
    # Seen on PVE 9.1: the line is root's whoever logs in; failures stand in the journal alone.
    world.record(ROOT, f"successful auth for user '{user.userid}'")
    who = Identity(user.userid, user.userid)
    held = {"dc": "/", **{area: f"/{area}" for area in _AREAS if area != "dc"}}
    return {
        "username": user.userid,
        "ticket": make_ticket(world, user.userid),
        "CSRFPreventionToken": make_csrf(world, user.userid),
        "clustername": world.name,
        "cap": {
            area: dict.fromkeys(world.access.privileges(who, path), 1)
            for area, path in held.items()
        },
    }


def _form(_ask: Ask) -> None:
    return None


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/access/ticket", _form, about="Answers nothing.", permissions=EVERYONE),
    endpoint(
        "POST", "/access/ticket", _login, about="Log in with a password.", permissions=EVERYONE,
        protected=True, allow_token=False, returns="object",
        parameters=(
            flag("new-format", "New form of the challenge.", default=1),
            text("otp", "Code of the second factor."),
            text("password", "Password, a ticket to renew, or the answer to a challenge.",
                 optional=False),
            text("path", "Check privileges on this path.", requires="privs", max_length=64),
            text("privs", "Privileges to check.", format="pve-priv-list", requires="path",
                 max_length=64),
            text("realm", "Realm, when the name has none.", format="pve-realm", max_length=32),
            text("tfa-challenge", "Ticket of the challenge that is answered."),
            text("username", "User.", optional=False, max_length=64),
        ),
    ),
)  # fmt: skip
