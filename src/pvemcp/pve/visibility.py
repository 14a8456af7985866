"""Whether a token sees everything of a kind: PVE filters lists without a word."""

from __future__ import annotations

from collections.abc import Mapping

Permissions = Mapping[str, Mapping[str, int]]
"""ACL path → privilege → whether it propagates, as PVE answers for the token itself."""


_ROOTS = frozenset(
    {"/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"}
)
"""Paths that PVE resolves for every token; it leaves out those without a right (PVE 8 and 9)."""


def gap(permissions: Permissions, path: str, *, privilege: str, token: str) -> str:
    """Return "" when the token holds the privilege on the path and below, else why not."""
    where = (
        path if not _holds(permissions, path, privilege) else _below(permissions, path, privilege)
    )
    if not where:
        return ""
    return f"The list may be incomplete: token {token} lacks {privilege} on {where}."


def _holds(permissions: Permissions, path: str, privilege: str) -> bool:
    """Tell whether the privilege holds on the path and propagates from there.

    PVE lists the roots of each kind and the paths that have ACLs, if the token holds anything
    there; a deeper entry replaces what would be inherited. So an absent root means no right at
    all, while another absent path inherits. (NoAccess on such a path cannot be seen.)
    """
    at = path
    while at not in permissions and at not in _ROOTS:
        at = at.rpartition("/")[0] or "/"
    return bool(permissions.get(at, {}).get(privilege))


def _below(permissions: Permissions, path: str, privilege: str) -> str:
    """Return a deeper path where the privilege was taken away, or ""."""
    if path == "/":
        return ""  # every role of ours ends at /access, which no list is about
    prefix = f"{path}/"
    known = (at for at in {*permissions, *_ROOTS} if at.startswith(prefix))
    taken = (at for at in known if privilege not in permissions.get(at, {}))
    return min(taken, default="")
