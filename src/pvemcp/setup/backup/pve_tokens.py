"""The clients' tokens in PVE: what a backup keeps of their rights, and how they are made anew.

PVE shows the secret of a token once, so one that another PVE, or this one after a loss, does not
know cannot be had again: a new one takes its place, with the rights of the old, and the client's
own secret stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvemcp.call import ApiToken
from pvemcp.errors import Fault, Missing
from pvemcp.pve.roles import PRIVILEGES
from pvemcp.setup.access import PveAccess
from pvemcp.setup.account import USER, AccountStep, Entry, entries
from pvemcp.setup.backup import database
from pvemcp.setup.backup.archive import damaged
from pvemcp.setup.client_tokens import ClientTokens, next_id
from pvemcp.setup.door import Door, Target
from pvemcp.setup.roles import ACCESS, NO_ACCESS, RolesStep
from pvemcp.tls import own_certificate

CERTIFICATES = (Path("/etc/pve/local/pveproxy-ssl.pem"), Path("/etc/pve/local/pve-ssl.pem"))
"""What pveproxy shows: the first that is there."""
_PATH = re.compile(r"/(?:[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Held:
    """A token that a backup holds. `owner` is the client's name, or what else uses it."""

    owner: str
    token: ApiToken


@dataclass(frozen=True, slots=True)
class Rights:
    """What a token had in PVE."""

    expire: int
    """In seconds since the epoch; 0 is never."""
    entries: tuple[Entry, ...]


def kept_rights(access: PveAccess) -> bytes:
    """Return what our account's tokens have in PVE, as a backup holds it. Raises a Fault."""
    try:
        there = ClientTokens(access).there()
    except Missing:
        return b""
    found = entries(access)
    kept = {
        f"{USER}!{tokenid}": {
            "expire": int(row.get("expire") or 0),
            "entries": [
                {"path": one.path, "role": one.role, "propagate": one.propagate}
                for one in found
                if one.ugid == f"{USER}!{tokenid}"
            ],
        }
        for tokenid, row in there.items()
    }
    return json.dumps(kept).encode()


def parse_rights(content: bytes) -> dict[str, Rights]:
    """Read them. Raises Invalid for rights that pvemcp never gives."""
    try:
        given: dict[str, Any] = json.loads(content) if content else {}
        return {
            str(token): Rights(
                int(row["expire"]), tuple(_entry(str(token), each) for each in row["entries"])
            )
            for token, row in given.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged("the rights of its clients in PVE cannot be read") from None


def _entry(token: str, given: Mapping[str, Any]) -> Entry:
    made = Entry(str(given["path"]), "token", token, str(given["role"]), bool(given["propagate"]))
    below = made.path == ACCESS or made.path.startswith(f"{ACCESS}/")
    ours = made.role == NO_ACCESS if below else made.role in {*PRIVILEGES, NO_ACCESS}
    if not ours or not _PATH.fullmatch(made.path):
        raise damaged(f"it gives {made.role!r} on {made.path!r}")
    return made


def held(content: bytes, configured: ApiToken | None) -> list[Held]:
    """Return the PVE tokens of a database, and that of the settings."""
    with database.opened(content) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute(
            "SELECT name, token_id, token_secret FROM grants WHERE token_id IS NOT NULL"
        ).fetchall()
    found = [Held(str(row[0]), ApiToken(str(row[1]), str(row[2] or ""))) for row in rows]
    return [*found, *([Held("the settings", configured)] if configured else [])]


class PveTokens:
    """Makes anew what PVE does not accept. `works` tells whether it accepts a token."""

    def __init__(
        self,
        access: PveAccess,
        tokens: Iterable[Held],
        rights: Mapping[str, Rights],
        works: Callable[[ApiToken], bool],
    ) -> None:
        self._access = access
        self._refused = [each for each in tokens if not works(each.token)]
        self._rights = rights
        self._steps = (RolesStep(access), AccountStep(access))
        self._undo: list[Callable[[], list[str]]] = []

    def plan(self) -> list[str]:
        """Say what is made anew, and what remains to be done by hand."""
        if not self._refused:
            return ["PVE accepts all tokens of the backup"]
        lines = [self._judged(each) for each in self._refused]
        if self._makes():
            lines += [line for step in self._steps for line in step.plan()]
        return lines

    def _judged(self, each: Held) -> str:
        said = f"PVE does not accept {each.token.id}, the token of {each.owner}"
        if each.token.id.partition("!")[0] != USER:
            return f"{said}: it is not one of ours; make it in PVE, then correct it here"
        rights = self._rights.get(each.token.id)
        if rights is None:
            return (
                f"{said}, and the backup does not know its rights: afterwards pvemcp client "
                f"revoke {each.owner}, pvemcp client add {each.owner}"
            )
        if 0 < rights.expire < time.time():
            return f"{said}: it has expired"
        shown = ", ".join(
            f"{one.role} on {one.path}" for one in rights.entries if one.role != NO_ACCESS
        )
        return f"{said}: a new one is made, with {shown or 'no rights'}"

    def _makes(self) -> list[tuple[Held, Rights]]:
        found = [(each, self._rights.get(each.token.id)) for each in self._refused]
        return [
            (each, rights)
            for each, rights in found
            if rights is not None
            and each.token.id.partition("!")[0] == USER
            and not 0 < rights.expire < time.time()
        ]

    def apply(self, makes: Callable[[str], None]) -> Mapping[str, ApiToken]:
        """Make roles, account and tokens, as far as they are not there."""
        wanted = self._makes()
        if not wanted:
            return {}
        for step in self._steps:
            record = step.apply()
            self._undo.append(lambda step=step, record=record: step.undo(record))  # type: ignore[misc]
        tokens, made = ClientTokens(self._access), {}
        for each, rights in wanted:
            tokenid = _free(each.token.id.partition("!")[2], set(tokens.there()))
            makes(f"{USER}!{tokenid}")
            own = [
                Entry(one.path, "token", f"{USER}!{tokenid}", one.role, one.propagate)
                for one in sorted(rights.entries, key=lambda one: one.role != NO_ACCESS)
            ]
            made[each.token.id] = tokens.make(tokenid, rights.expire or None, own)
        return made

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove tokens that were made, and what was made for them."""
        left, tokens = [], ClientTokens(self._access)
        for each in ids:
            try:
                tokens.remove(each)
            except Missing:
                pass
            except Fault as fault:
                left.append(f"The PVE token {each} may be left over: {fault.message}")
        for undo in reversed(self._undo):
            try:
                undo()
            except Fault as fault:
                left.append(fault.message)
        self._undo = []
        return left


def _free(tokenid: str, taken: set[str]) -> str:
    """Return the id, or the next one of its name: PVE may know it from elsewhere."""
    name = re.sub(r"\.\d+$", "", tokenid)
    while tokenid in taken:
        tokenid = next_id(name, f"{USER}!{tokenid}")
    return tokenid


def accepted_by(target: Target) -> Callable[[ApiToken], bool]:
    """Return what asks a PVE whether it accepts a token. Raises Unavailable when PVE is silent."""
    door = Door(target)

    def works(token: ApiToken) -> bool:
        answer = door.send("GET", "/api2/json/version", {"Authorization": token.header}, None)
        return answer.status != 401

    return works


def local_target() -> Target:
    """Return this host's own PVE, known by the certificate that lies here."""
    found = next((path for path in CERTIFICATES if path.exists()), None)
    if found is None:
        raise Missing(
            "This node has no certificate in /etc/pve/local.",
            hint="Is PVE running here? pvecm updatecerts. Or leave PVE out: --without-pve",
        )
    pin = hashlib.sha256(own_certificate(found)).digest().hex(":")
    return Target("https://localhost:8006", fingerprint=pin)
