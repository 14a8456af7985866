"""Accounts over the API: effective permissions."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.declare import Ask, Endpoint, endpoint, text
from pvemcp.sim.permissions import normal_path
from pvemcp.sim.refusal import forbidden, rejected

_AUTH_ID = (
    r"(?^:^(?^:[^\s:/]+)\@(?^:[A-Za-z][A-Za-z0-9\.\-_]+)(?:!(?^:[A-Za-z][A-Za-z0-9\.\-_]+))?$)"
)


def _permissions(ask: Ask) -> dict[str, Any]:
    access = ask.world.access
    wanted = ask.args.get("userid") or ask.who.id
    own = wanted == ask.who.id or wanted.startswith(f"{ask.who.id}!")
    if not own and not ask.may("/access", "Sys.Audit"):
        raise forbidden("/access, Sys.Audit")
    who = access.identity(wanted)
    if who.user not in access.users:
        raise rejected({"userid": f"no such user ('{who.user}')"})
    path = ask.args.get("path")
    paths = [normal_path(path)] if path else access.known_paths()
    found = {path: access.privileges(who, path) for path in paths if path}
    return {
        path: {name: int(flag) for name, flag in sorted(held.items())}
        for path, held in found.items()
        if held
    }


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint(
        "GET", "/access/permissions", _permissions,
        about="Privileges by path: one's own, or another's with Sys.Audit on /access.",
        parameters=(
            text("path", "This path alone."),
            text("userid", "A user, or a token as user!token.", pattern=_AUTH_ID),
        ),
        returns="object",
    ),
)  # fmt: skip
