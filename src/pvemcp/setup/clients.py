"""Clients: each is a grant here and an API token of its own in PVE, made and ended together.

The token's id is the client's name, with .2, .3 … after rotations. The account that the tokens
belong to has, on /, each role that one of them has somewhere: a token never has more than it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pvemcp.access.grants import Grant
from pvemcp.call import ApiToken, Effect
from pvemcp.errors import Conflict, Fault, Invalid, Missing
from pvemcp.setup.access import PveAccess
from pvemcp.setup.account import USER, Entry, entries
from pvemcp.setup.client_tokens import ClientTokens, belongs, next_id, path_of
from pvemcp.setup.roles import ACCESS, KINDS, NO_ACCESS

NAME = re.compile(r"[a-z][a-z0-9_-]{1,39}")
"""Both a grant's name and a token's id take it; the dot is for rotations."""
GRACE = 600.0
"""Seconds."""


class Book(Protocol):
    """Where grants are kept."""

    def list(self) -> list[Grant]:
        """Return all grants by name."""

    def named(self, name: str) -> Grant:
        """Return one. Raises Missing."""

    def create(
        self, name: str, ceiling: Effect, *, expires: float | None, token: ApiToken | None
    ) -> tuple[Grant, str]:
        """Make one; return it with its secret."""

    def revoke(self, name: str) -> Grant:
        """Delete one. Raises Missing."""

    def rotate(self, name: str, *, grace: float, token: ApiToken | None) -> tuple[Grant, str]:
        """Give one a new secret and token; the old secret holds for `grace` seconds."""

    def end_previous(self, name: str) -> None:
        """End the secret before the last rotation."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new client shall be."""

    name: str
    kind: str = "operator"
    """One of KINDS."""
    expires: float | None = None
    """Seconds from now; None is never."""
    paths: tuple[str, ...] = ("/",)
    """Where in PVE its role holds."""
    guests: bool = False
    """It may run commands inside guests through their agent."""

    def rights(self) -> list[Entry]:
        """Return what its token has in PVE; first what it must not have."""
        token = f"{USER}!{self.name}"
        roles = [KINDS[self.kind].role, *(["MCPGuests"] if self.guests else [])]
        found = [Entry(path, "token", token, role) for path in self.paths for role in roles]
        if self.kind == "admin" and "/" in self.paths:
            found.append(Entry("/", "token", token, "MCPHA", propagate=False))
        return [Entry(ACCESS, "token", token, NO_ACCESS), *found]


@dataclass(frozen=True, slots=True)
class Row:
    """A client as it is: its grant, its rights in PVE, and what is wrong with the pair."""

    name: str
    grant: Grant | None
    token: str
    rights: tuple[str, ...]
    state: str
    """`ok`, or what is missing."""


class Clients:
    """Makes, shows, renews and ends clients. Raises Faults."""

    def __init__(self, access: PveAccess, book: Book) -> None:
        self._access = access
        self._book = book
        self._tokens = ClientTokens(access)

    def add(self, wanted: Wanted) -> tuple[Grant, str]:
        """Make a client and return its grant with its secret, which cannot be had again."""
        refuse_bad(wanted)
        if wanted.name in {grant.name for grant in self._book.list()}:
            raise Conflict(
                f"A grant named {wanted.name} exists.",
                hint=f"Choose another name, or first: pvemcp client revoke {wanted.name}",
            )
        until = None if wanted.expires is None else time.time() + wanted.expires
        token = self._tokens.make(wanted.name, until, wanted.rights())
        try:
            ceiling = KINDS[wanted.kind].ceiling
            return self._book.create(wanted.name, ceiling, expires=wanted.expires, token=token)
        except Fault:
            self._tokens.remove(token.id)
            raise

    def revoke(self, name: str) -> list[str]:
        """End a client: its grant first, which counts at once, then its tokens in PVE."""
        said = []
        tokens = self._tokens.of(name)
        try:
            grant = self._book.revoke(name)
        except Missing:
            if not tokens:
                raise
        else:
            said.append(f"the grant {name} is revoked: its secret is refused from now on")
            if grant.token and grant.token.id not in tokens:
                said.append(f"its PVE token {grant.token.id} was not made or is gone already")
        for token in tokens:
            self._tokens.remove(token)
            said.append(f"the PVE token {token} is removed")
        self._tokens.drop_unused()
        return said

    def rotate(self, name: str, *, grace: float = GRACE) -> tuple[Grant, str]:
        """Give a client a new secret and a new PVE token; the old ones hold for `grace` seconds."""
        grant = self._book.named(name)
        if grant.token is None or grant.token.id.partition("!")[0] != USER:
            return self._book.rotate(name, grace=grace, token=None)
        old, there = grant.token.id, self._tokens.of(name)
        if old not in there:
            raise Missing(
                f"PVE has no token {old} any more.",
                hint=f"Make the client anew: pvemcp client revoke {name}, then pvemcp client add.",
            )
        for left in there - {old}:  # of an earlier rotation, or of one that was interrupted
            self._tokens.remove(left)
        fresh = next_id(name, old)
        rights = [
            Entry(one.path, "token", f"{USER}!{fresh}", one.role, one.propagate)
            for one in sorted(entries(self._access, old), key=lambda one: one.role != NO_ACCESS)
        ]
        token = self._tokens.make(fresh, grant.expires, rights)
        renewed, secret = self._book.rotate(name, grace=grace, token=token)
        if grace:
            ends = min(time.time() + grace, grant.expires or math.inf)
            self._access.put(path_of(old), expire=int(ends))
        else:
            self._tokens.remove(old)
        return renewed, secret

    def finish(self, name: str) -> list[str]:
        """End what a rotation left over: the former secret, and the former token."""
        grant = self._book.named(name)
        self._book.end_previous(name)
        left = self._tokens.of(name) - {grant.token_id}
        for token in left:
            self._tokens.remove(token)
        return [f"the PVE token {token} is removed" for token in sorted(left)]

    def rows(self) -> list[Row]:
        """Return all clients, and what only one of the halves knows."""
        there, rights = self._tokens.there(), entries(self._access)
        rows, known = [], set()
        for grant in self._book.list():
            token = grant.token_id
            known |= {f"{USER}!{one}" for one in there if belongs(one, grant.name)}
            shown = tuple(_short(one) for one in rights if one.ugid == token and _matters(one))
            rows.append(Row(grant.name, grant, token, shown, _state(grant, there)))
        for tokenid in sorted(there):
            token = f"{USER}!{tokenid}"
            if token not in known:
                shown = tuple(_short(one) for one in rights if one.ugid == token and _matters(one))
                rows.append(Row(tokenid, None, token, shown, "no grant here"))
        return rows


def refuse_bad(wanted: Wanted) -> None:
    """Refuse a client that cannot be. Raises Invalid."""
    if not NAME.fullmatch(wanted.name):
        raise Invalid(
            f"{wanted.name!r} cannot name a client.",
            hint="2 to 40 of a-z, 0-9, underscore and hyphen; the first a letter.",
        )
    for path in wanted.paths:
        if not re.fullmatch(r"/(?:[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*)?", path, re.ASCII):
            raise Invalid(
                f"{path!r} is no path of PVE's permissions.",
                hint="Like /, /vms/100, /pool/lab, /storage/local, /nodes/pve1.",
            )
        if path == ACCESS or path.startswith(f"{ACCESS}/"):
            raise Invalid("No client gets rights on /access: they lead to all others.")


def _matters(entry: Entry) -> bool:
    return entry.role != NO_ACCESS


def _short(entry: Entry) -> str:
    return f"{entry.role} on {entry.path}"


def _state(grant: Grant, there: Mapping[str, dict[str, Any]]) -> str:
    if grant.has_expired(time.time()):
        return "expired"
    if grant.token is None:
        return "ok (the configured PVE token)"
    user, _, tokenid = grant.token.id.partition("!")
    if user != USER:
        return "ok (a PVE token of another user)"
    if tokenid not in there:
        return "missing in PVE"
    ends = int(there[tokenid].get("expire") or 0)
    return "expired in PVE" if 0 < ends < time.time() else "ok"


def entry_lines(rights: Sequence[Entry]) -> list[str]:
    """Return the entries of a plan, a line each."""
    return [f"give {one}" for one in rights]
