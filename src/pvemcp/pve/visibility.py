"""Whether a token sees everything of a kind: PVE filters lists without a word."""

from __future__ import annotations

from collections.abc import Mapping

Permissions = Mapping[str, Mapping[str, int]]
"""ACL path → privilege → whether it propagates, as PVE answers for the token itself."""


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

    PVE lists the paths that have ACLs, and the roots of each kind; a deeper entry replaces what
    would be inherited.
    """
    at = path
    while True:
        if at in permissions:
            return bool(permissions[at].get(privilege))
        if at == "/":
            return False
        at = at.rpartition("/")[0] or "/"


def _below(permissions: Permissions, path: str, privilege: str) -> str:
    """Return a deeper path where the privilege was taken away, or ""."""
    if path == "/":
        return ""  # every role of ours ends at /access, which no list is about
    prefix = f"{path}/"
    taken = (
        at for at, held in permissions.items() if at.startswith(prefix) and privilege not in held
    )
    return min(taken, default="")
