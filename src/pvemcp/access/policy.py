"""The policy: what a caller may do here. PVE's own permissions come on top of it."""

from __future__ import annotations

from pvemcp.call import Call, Effect, Principal, Verdict
from pvemcp.errors import Denied

_MAY = {
    Effect.READ: "only read",
    Effect.CHANGE: "read and change, but not destroy",
    Effect.DESTROY: "do everything",
}


def permit(call: Call, verb: str, path: str, effect: Effect) -> Verdict:
    """Allow a step whose effect is within the caller's ceiling (a `pvemcp.call.Permit`).

    Raises Denied, naming the effect, the ceiling, and how a person can raise it.
    """
    who = call.principal
    if effect <= who.ceiling:
        return Verdict.ALLOW
    if who.grant:
        subject, remedy = f"the grant {who.name}", f"pvemcp grant create NAME --ceiling {effect}"
    else:
        subject, remedy = who.name, f"pvemcp stdio --ceiling {effect}"
    raise Denied(
        f"{verb} {path} has the effect {effect}; {subject} has the ceiling {who.ceiling} and may "
        f"{_MAY[who.ceiling]}. Nothing was done.",
        hint=f"Only a person can raise it, on the host of pvemcp: {remedy}",
    )


def visible(principal: Principal, least_effect: Effect) -> bool:
    """Whether a tool is listed: the least that it can do is within the caller's ceiling."""
    return least_effect <= principal.ceiling
