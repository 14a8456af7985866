"""Who sends a request: API tokens, tickets with their CSRF values, second factors."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from urllib.parse import unquote

from pvemcp.sim.permissions import NOBODY, ROOT, Identity, User
from pvemcp.sim.refusal import Refusal
from pvemcp.sim.world import World

TICKET_LIFE = 7200
"""Seconds."""
CHALLENGE_LIFE = 120
"""Seconds."""


def identify(world: World, verb: str, headers: Mapping[str, str]) -> Identity:
    """Return who asks; NOBODY without credentials. Raises 401 when they are wrong."""
    if ticket := _ticket(headers):
        return _by_ticket(world, verb, ticket, headers.get("csrfpreventiontoken", ""))
    value = headers.get("authorization", "")
    if value.startswith("PVEAPIToken="):
        return _by_token(world, unquote(value.removeprefix("PVEAPIToken=")))
    return NOBODY


def _ticket(headers: Mapping[str, str]) -> str:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "PVEAuthCookie":
            return unquote(value)
    value = headers.get("authorization", "")
    return unquote(value.removeprefix("PVEAuthCookie=")) if "PVEAuthCookie=" in value else ""


def _by_token(world: World, value: str) -> Identity:
    full, _, secret = value.partition("=")
    who = world.access.identity(full)
    user, token = world.access.users.get(who.user), world.access.find_token(who)
    now = world.clock.now()
    good = (
        user is not None
        and token is not None
        and hmac.compare_digest(token.secret.encode(), secret.encode())
        and user.valid(now)
        and not (token.expire and token.expire < now)
    )
    if not good:
        raise Refusal(401, "Authentication failed!", body="none")
    return who


def _by_ticket(world: World, verb: str, ticket: str, csrf: str) -> Identity:
    userid = ticket_user(world, ticket)
    if not userid:
        raise Refusal(401, "permission denied - invalid PVE ticket", body="none")
    if verb != "GET" and not _csrf_holds(world, userid, csrf):
        raise Refusal(401, "Permission denied - invalid csrf token", body="none")
    return Identity(userid, userid)


def _sign(world: World, text: str) -> str:
    digest = hmac.digest(world.key, text.encode(), hashlib.sha256)
    return base64.b64encode(digest).decode().rstrip("=")


def make_ticket(world: World, subject: str) -> str:
    """Return a signed ticket for a user, or for the challenge of a second factor."""
    text = f"PVE:{subject}:{world.clock.seconds():08X}"
    return f"{text}::{_sign(world, text)}"


def make_csrf(world: World, userid: str) -> str:
    """Return the value that writes with a ticket must send as CSRFPreventionToken."""
    stamp = f"{world.clock.seconds():08X}"
    return f"{stamp}:{_sign(world, f'{stamp}:{userid}')}"


def _csrf_holds(world: World, userid: str, value: str) -> bool:
    stamp, _, signature = value.partition(":")
    return hmac.compare_digest(signature.encode(), _sign(world, f"{stamp}:{userid}").encode())


def ticket_subject(world: World, ticket: str, life: int) -> str:
    """Return what a ticket was made for; empty when it is forged or too old."""
    text, _, signature = ticket.rpartition("::")
    if not hmac.compare_digest(signature.encode(), _sign(world, text).encode()):
        return ""
    head, _, stamp = text.rpartition(":")
    age = world.clock.now() - int(stamp, 16)
    return head.removeprefix("PVE:") if age <= life else ""


def ticket_user(world: World, ticket: str) -> str:
    """Return the user of a ticket that is good for requests; else an empty string."""
    userid = ticket_subject(world, ticket, TICKET_LIFE)
    user = world.access.users.get(userid)
    return userid if user and user.valid(world.clock.now()) else ""


def totp(secret: str, at: float) -> str:
    """Return the six digits of RFC 6238 (SHA-1, 30 s) for a Base32 secret."""
    padded = secret.upper() + "=" * (-len(secret) % 8)
    key = base64.b32decode(padded)
    digest = hmac.digest(key, struct.pack(">Q", int(at) // 30), hashlib.sha1)
    offset = digest[-1] & 15
    number = struct.unpack(">I", digest[offset : offset + 4])[0] & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def totp_holds(world: World, user: User, code: str) -> bool:
    """Whether the code is the present one, or that of the step before or after."""
    try:
        expected = {totp(user.totp, world.clock.now() + step) for step in (-30, 0, 30)}
    except binascii.Error:
        return False
    return code in expected


def password_holds(user: User, password: str) -> bool:
    """Whether the password is the user's; an account without one cannot log in."""
    return bool(user.password) and hmac.compare_digest(user.password.encode(), password.encode())


def is_root(who: Identity) -> bool:
    """Whether this is root@pam itself."""
    return who.id == ROOT
