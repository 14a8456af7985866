"""The API tokens of our account in PVE, and what they may there.

The token's id is the client's name, with .2, .3 … after rotations. The account that the tokens
belong to has, on /, each role that one of them has somewhere: a token never has more than it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from pvemcp.call import ApiToken
from pvemcp.errors import Conflict, Fault, Missing
from pvemcp.pve.roles import PRIVILEGES
from pvemcp.setup.access import PveAccess
from pvemcp.setup.account import USER, USER_PATH, Entry, entries, exists, write
from pvemcp.setup.roles import ACCESS, NO_ACCESS


class ClientTokens:
    """Makes and removes tokens. Raises Faults."""

    def __init__(self, access: PveAccess) -> None:
        self._access = access

    def make(self, tokenid: str, until: float | None, rights: Iterable[Entry]) -> ApiToken:
        """Make a token with these rights. Raises Conflict for an id that is taken."""
        there = self.there()
        if tokenid in there:
            raise Conflict(
                f"PVE has a token {USER}!{tokenid} already, of which no grant here knows.",
                hint="It may belong to another installation: choose another name. If it is a "
                f"left-over: pvemcp client revoke {tokenid}",
            )
        rights = list(rights)
        self._allow_account({one.role for one in rights} - {NO_ACCESS})
        made = self._access.post(
            path_of(f"{USER}!{tokenid}"),
            privsep=True,
            comment=f"MCP client, by pvemcp on {socket.gethostname()}",
            expire=0 if until is None else int(until),
        )
        token = ApiToken(f"{USER}!{tokenid}", str(made["value"]))
        try:
            for entry in rights:
                write(self._access, entry)
        except Fault:
            self.remove(token.id)
            raise
        return token

    def _allow_account(self, roles: set[str]) -> None:
        there = {(one.path, one.role) for one in entries(self._access, USER)}
        if (ACCESS, NO_ACCESS) not in there:
            raise Missing(
                f"The account {USER} is not closed off from accounts and rights in PVE.",
                hint="Repair it first: pvemcp setup",
            )
        for role in sorted(roles):
            if ("/", role) not in there:
                write(self._access, Entry("/", "user", USER, role, propagate=role != "MCPHA"))

    def drop_unused(self) -> None:
        """Take from the account the roles that no token of it has any more."""
        found = entries(self._access)
        used = {one.role for one in found if one.type == "token"}
        for one in found:
            if one.type == "user" and one.path == "/" and one.role in PRIVILEGES.keys() - used:
                write(self._access, one, delete=True)

    def remove(self, token: str) -> None:
        """Remove a token, given as USER!ID, and its rights."""
        for entry in entries(self._access, token):
            write(self._access, entry, delete=True)
        if token.partition("!")[2] in self.there():
            self._access.delete(path_of(token))

    def there(self) -> Mapping[str, dict[str, Any]]:
        """Return the tokens of our account by id. Raises Missing without the account."""
        try:
            rows = self._access.get(f"{USER_PATH}/token")
        except Missing:
            if exists(self._access):
                raise
            raise Missing(
                f"PVE has no user {USER}.", hint="Run first, once: pvemcp setup"
            ) from None
        return {str(row["tokenid"]): row for row in rows}

    def of(self, name: str) -> set[str]:
        """Return the tokens, as USER!ID, of the client of that name."""
        try:
            return {f"{USER}!{one}" for one in self.there() if belongs(one, name)}
        except Missing:
            return set()


def belongs(tokenid: str, name: str) -> bool:
    """Whether a token is of the client of that name."""
    return bool(re.fullmatch(rf"{re.escape(name)}(\.\d+)?", tokenid))


def next_id(name: str, token: str) -> str:
    """Return the id that follows that of a token in rotations."""
    number = token.rpartition("!")[2].removeprefix(name).removeprefix(".")
    return f"{name}.{int(number or 1) + 1}"


def path_of(token: str) -> str:
    """Return the path of a token in the API."""
    return f"{USER_PATH}/token/{token.partition('!')[2]}"
