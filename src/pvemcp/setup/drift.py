"""Whether PVE still is as set-up left it: roles, account, rights, tokens."""

from __future__ import annotations

from collections.abc import Iterator

from pvemcp.errors import Fault, Missing
from pvemcp.health.check import Check, bad, good, warning
from pvemcp.setup.access import PveAccess
from pvemcp.setup.account import USER, USER_PATH, AccountStep, Entry, entries
from pvemcp.setup.clients import Book, Clients, Row
from pvemcp.setup.roles import ACCESS, RolesStep

REPAIR = "Run: pvemcp setup"


def drift(access: PveAccess, book: Book) -> list[Check]:
    """Compare PVE with what set-up made. Changes nothing."""
    try:
        return [*_roles(access), *_account(access), *_below_access(access), *_tokens(access, book)]
    except Fault as fault:
        return [bad("rights in PVE", fault.message, fault.hint)]


def _roles(access: PveAccess) -> Iterator[Check]:
    if lines := RolesStep(access).plan():
        yield warning("roles in PVE", f"differ: {'; '.join(lines)}", REPAIR)
    else:
        yield good("roles in PVE", "are as set-up makes them")


def _account(access: PveAccess) -> Iterator[Check]:
    name = "account in PVE"
    if lines := AccountStep(access).plan():
        yield bad(name, f"is not as it must be: {'; '.join(lines)}", REPAIR)
        return
    if not int(access.get(USER_PATH).get("enable", 1)):
        yield bad(
            name,
            f"{USER} is disabled: no client gets in",
            f"If that was not on purpose: pveum user modify {USER} --enable 1",
        )
        return
    yield good(name, f"{USER} has no rights over accounts and rights")


def _below_access(access: PveAccess) -> Iterator[Check]:
    """An entry below /access replaces NoAccess on /access there (seen on PVE 9.1)."""
    for one in entries(access):
        if one.path.startswith(f"{ACCESS}/"):
            yield bad(
                "rights on /access", f"{one}: it undoes NoAccess on {ACCESS}", f"Run: {_gone(one)}"
            )


def _gone(entry: Entry) -> str:
    return f"pveum acl delete {entry.path} --{entry.type}s '{entry.ugid}' --roles {entry.role}"


def _tokens(access: PveAccess, book: Book) -> Iterator[Check]:
    name = "clients in PVE"
    try:
        rows = Clients(access, book).rows()
        tokens = access.get(f"{USER_PATH}/token")
    except Missing:
        return  # the check of the account has said so
    open_ones = {str(row["tokenid"]) for row in tokens if not int(row.get("privsep", 1))}
    for tokenid in sorted(open_ones):
        yield bad(
            name,
            f"{USER}!{tokenid} has no privilege separation: it has the rights of all clients",
            f"Run: pveum user token modify {USER} {tokenid} --privsep 1",
        )
    found = [_judged(name, row) for row in rows if not row.state.startswith("ok")]
    yield from found
    if not found and not open_ones:
        yield good(name, f"each of {len(rows)} has its token")


def _judged(name: str, row: Row) -> Check:
    if row.grant is None:
        return warning(
            name,
            f"no grant here knows the token {row.token}",
            f"If no other installation made it: pvemcp client revoke {row.name.partition('.')[0]}",
        )
    again = f"Make it anew: pvemcp client revoke {row.name}, then pvemcp client add"
    return warning(name, f"{row.name}: {row.state}", again)
