"""The roles that clients have in PVE, and the step that makes them.

Left out on purpose, because each leads to root on the host or to the rights of others:
Permissions.Modify, User.Modify, Realm.Allocate, Mapping.Modify, Sys.Incoming, Datastore.Allocate (a
storage of one's own holds backups of one's own making). Sys.Console is on / alone, without
propagation: high availability asks for it there, a node's shell on /nodes/NODE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pvemcp.call import Effect
from pvemcp.errors import Fault, Missing
from pvemcp.pve.roles import PRIVILEGES
from pvemcp.setup.access import PveAccess
from pvemcp.setup.step import Record

NO_ACCESS = "NoAccess"
ACCESS = "/access"
"""Where every account and token of ours has NoAccess: rights there lead to all others."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a client is made as: its role in PVE, and the ceiling of its grant here."""

    role: str
    ceiling: Effect
    text: str


KINDS: Mapping[str, Kind] = {
    "observer": Kind("MCPObserver", Effect.READ, "sees everything, changes nothing"),
    "operator": Kind("MCPOperator", Effect.CHANGE, "also power, snapshots, backups, migration"),
    "provisioner": Kind("MCPProvisioner", Effect.CHANGE, "also makes and changes guests"),
    "admin": Kind("MCPAdmin", Effect.DESTROY, "also nodes, networks, and what cannot be undone"),
}


def privileges(role: str, known: frozenset[str]) -> frozenset[str]:
    """Return the privileges of one of our roles on a PVE that knows these.

    VM.Monitor is only for what PVE 9 has three privileges for.
    """
    wanted = PRIVILEGES[role] & known
    return wanted - {"VM.Monitor"} if "VM.GuestAgent.Unrestricted" in known else wanted


def known_privileges(access: PveAccess) -> frozenset[str]:
    """Return what this PVE knows."""
    return frozenset(access.get("/access/roles/Administrator"))


class RolesStep:
    """Our roles exist and hold what they should, no more and no less."""

    name = "roles in PVE"

    def __init__(self, access: PveAccess) -> None:
        self._access = access

    def plan(self) -> list[str]:
        """Say which roles are made or changed."""
        made, changed = self._missing()
        wanted = self._wanted()
        return [
            *(f"make the role {role}: {' '.join(sorted(wanted[role]))}" for role in made),
            *(f"change the role {role}: {_change(old, wanted[role])}" for role, old in changed),
        ]

    def foresee(self) -> Record:
        """Return what `apply` will have done."""
        made, changed = self._missing()
        return {"made": made, "changed": {role: ",".join(sorted(old)) for role, old in changed}}

    def apply(self) -> Record:
        """Make and change roles."""
        record, wanted = self.foresee(), self._wanted()
        for role in record["made"]:
            self._access.post("/access/roles", roleid=role, privs=",".join(sorted(wanted[role])))
        for role in record["changed"]:
            self._access.put(f"/access/roles/{role}", privs=",".join(sorted(wanted[role])))
        return record

    def undo(self, record: Record) -> list[str]:
        """Remove what was made, unless somebody uses it by now; give changed roles back theirs."""
        used = {str(row["roleid"]): str(row["ugid"]) for row in self._access.get("/access/acl")}
        said = []
        for role in record["made"]:
            if role in used:
                said.append(f"kept the role {role}: {used[role]} has it")
            elif _remove(self._access, role):
                said.append(f"removed the role {role}")
        for role, old in record["changed"].items():
            self._access.put(f"/access/roles/{role}", privs=old)
            said.append(f"gave the role {role} its former privileges back")
        return said

    def _wanted(self) -> dict[str, frozenset[str]]:
        known = known_privileges(self._access)
        return {role: privileges(role, known) for role in PRIVILEGES}

    def _missing(self) -> tuple[list[str], list[tuple[str, frozenset[str]]]]:
        there = {
            row["roleid"]: _split(row.get("privs")) for row in self._access.get("/access/roles")
        }
        wanted = self._wanted()
        made = [role for role in wanted if role not in there]
        changed = [
            (role, there[role])
            for role, privs in wanted.items()
            if role in there and there[role] != privs
        ]
        return made, changed


def _split(privs: str | None) -> frozenset[str]:
    return frozenset((privs or "").replace(",", " ").split())


def _change(old: frozenset[str], new: frozenset[str]) -> str:
    words = [f"+{name}" for name in sorted(new - old)] + [f"-{name}" for name in sorted(old - new)]
    return " ".join(words)


def _remove(access: PveAccess, role: str) -> bool:
    try:
        access.delete(f"/access/roles/{role}")
    except Missing:
        return False
    except Fault as fault:
        if "does not exist" in fault.message:
            return False
        raise
    return True
