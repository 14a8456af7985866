"""The account that all clients' tokens belong to, and the entries of PVE's access lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pvemcp.errors import Missing
from pvemcp.setup.access import PveAccess
from pvemcp.setup.roles import ACCESS, NO_ACCESS
from pvemcp.setup.step import Record

USER = "pvemcp@pve"
"""Without a password: nobody can log in as it, only its tokens work."""
COMMENT = "pvemcp: its API tokens are the MCP clients"
USER_PATH = f"/access/users/{USER}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A role of our account, or of one of its tokens, on a path."""

    path: str
    type: Literal["user", "token"]
    ugid: str
    role: str
    propagate: bool = True

    def __str__(self) -> str:
        below = "" if self.propagate else ", not below it"
        return f"{self.ugid}: {self.role} on {self.path}{below}"


def entries(access: PveAccess, ugid: str = "") -> list[Entry]:
    """Return what stands in PVE for our account and its tokens, or for one of them."""
    found = (_entry(row) for row in access.get("/access/acl"))
    ours = [one for one in found if one.ugid.partition("!")[0] == USER]
    return [one for one in ours if ugid in {"", one.ugid}]


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        str(row["path"]), row["type"], str(row["ugid"]), str(row["roleid"]),
        bool(int(row.get("propagate", 1))),
    )  # fmt: skip


def write(access: PveAccess, entry: Entry, *, delete: bool = False) -> None:
    """Add an entry, or take it away; what is as asked for stays so."""
    holder = {"users" if entry.type == "user" else "tokens": entry.ugid}
    gone = {"delete": True} if delete else {"propagate": entry.propagate}
    access.put("/access/acl", path=entry.path, roles=entry.role, **holder, **gone)


class AccountStep:
    """Our account exists, and has no rights over accounts and rights."""

    name = "account in PVE"
    _closed = Entry(ACCESS, "user", USER, NO_ACCESS)

    def __init__(self, access: PveAccess) -> None:
        self._access = access

    def plan(self) -> list[str]:
        """Say whether it is made, and closed off."""
        makes, closes = self._lacks()
        lines = [f"make the user {USER}, without a password"] if makes else []
        return [*lines, f"give {self._closed}"] if closes else lines

    def foresee(self) -> Record:
        """Return what `apply` will have done."""
        makes, closes = self._lacks()
        return {"user": makes, "closed": closes}

    def apply(self) -> Record:
        """Make the account and close it off."""
        record = self.foresee()
        if record["user"]:
            self._access.post("/access/users", userid=USER, comment=COMMENT)
        if record["closed"]:
            write(self._access, self._closed)
        return record

    def undo(self, record: Record) -> list[str]:
        """Remove the account, if set-up made it; its clients must be gone by then."""
        if not record["user"]:
            if record["closed"]:
                write(self._access, self._closed, delete=True)
                return [f"took away {self._closed}"]
            return []
        if not exists(self._access):
            return []
        for entry in entries(self._access):
            write(self._access, entry, delete=True)
        self._access.delete(USER_PATH)
        return [f"removed the user {USER}"]

    def _lacks(self) -> tuple[bool, bool]:
        makes = not exists(self._access)
        return makes, makes or self._closed not in entries(self._access, USER)


def exists(access: PveAccess) -> bool:
    """Whether our account is there."""
    try:
        access.get(USER_PATH)
    except Missing:
        return False
    return True
