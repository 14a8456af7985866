"""The policy: what a caller may do here. PVE's own permissions come on top of it.

`permit` is asked before every step and knows the step alone. `judge` is asked once a call's plan
is known, with everything about it: it allows, denies, or wants a person to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pvemcp.call import Call, Effect, Intent, Principal, Target, Verdict
from pvemcp.errors import Denied

_MAY = {
    Effect.READ: "only read",
    Effect.CHANGE: "read and change, but not destroy",
    Effect.DESTROY: "do everything",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the policy says about a whole call. For ASK: who is asked, and how."""

    verdict: Verdict
    rule: str
    """Name of the rule that decided."""
    why: str = ""
    channel: str = "any"
    """`any`; `person`: the host's command line or the approval page, where the client that made
    the call cannot answer for itself; `host`: only the command line."""
    persons: int = 1
    """How many different persons must say yes."""


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


class Policy:
    """The rules of one service."""

    permit = staticmethod(permit)

    def judge(self, call: Call, writes: Sequence[tuple[Intent, Target]]) -> Judgement:  # noqa: ARG002
        """Return the strictest judgement over what a call would write."""
        if any(intent.effect is Effect.DESTROY for intent, _ in writes):
            return Judgement(
                Verdict.ASK, "default: destroy asks", "something would be lost or cut off"
            )
        return Judgement(Verdict.ALLOW, "default: change is allowed")


class Open(Policy):
    """Allows whatever is within the ceiling: nobody is asked."""

    def judge(self, call: Call, writes: Sequence[tuple[Intent, Target]]) -> Judgement:  # noqa: ARG002
        """Allow."""
        return Judgement(Verdict.ALLOW, "open")


def visible(principal: Principal, least_effect: Effect) -> bool:
    """Whether a tool is listed: the least that it can do is within the caller's ceiling."""
    return least_effect <= principal.ceiling
