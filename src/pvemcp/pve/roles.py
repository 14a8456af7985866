"""What the roles of clients hold in PVE, and which of them gives a privilege.

Left out on purpose, because each leads to root on the host or to the rights of others:
Permissions.Modify, User.Modify, Realm.Allocate, Mapping.Modify, Sys.Incoming, Datastore.Allocate (a
storage of one's own holds backups of one's own making).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_OBSERVER = frozenset(
    """
    Sys.Audit Sys.Syslog Datastore.Audit VM.Audit VM.GuestAgent.Audit SDN.Audit Pool.Audit
    Mapping.Audit
    """.split()
)
_OPERATOR = _OBSERVER | frozenset(
    """
    VM.PowerMgmt VM.Snapshot VM.Snapshot.Rollback VM.Backup VM.Migrate VM.Replicate
    VM.GuestAgent.FileSystemMgmt VM.Config.CDROM Datastore.AllocateSpace
    """.split()
)
_PROVISIONER = _OPERATOR | frozenset(
    """
    VM.Allocate VM.Clone VM.Config.Disk VM.Config.CPU VM.Config.Memory VM.Config.Network
    VM.Config.HWType VM.Config.Options VM.Config.Cloudinit Datastore.AllocateTemplate SDN.Use
    Mapping.Use Pool.Allocate
    """.split()
)
_ADMIN = _PROVISIONER | frozenset("Sys.Modify Sys.PowerMgmt Sys.AccessNetwork SDN.Allocate".split())

PRIVILEGES: Mapping[str, frozenset[str]] = {
    "MCPObserver": _OBSERVER,
    "MCPOperator": _OPERATOR,
    "MCPProvisioner": _PROVISIONER,
    "MCPAdmin": _ADMIN,
    "MCPHA": frozenset({"Sys.Console"}),
    "MCPGuests": frozenset(
        """
        VM.GuestAgent.Unrestricted VM.GuestAgent.FileRead VM.GuestAgent.FileWrite VM.Monitor
        """.split()
    ),
}
"""Each is cut down to what the PVE at hand knows: PVE 8 has VM.Monitor for all of the agent."""

_BY_MIGHT = ("MCPObserver", "MCPOperator", "MCPProvisioner", "MCPAdmin", "MCPGuests", "MCPHA")


def role_with(names: Iterable[str]) -> str:
    """Return the weakest of our roles that holds one of these privileges; "" when none does."""
    wanted = set(names)
    return next((role for role in _BY_MIGHT if not wanted.isdisjoint(PRIVILEGES[role])), "")
