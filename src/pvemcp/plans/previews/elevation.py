"""The preview of a raised ceiling."""

from __future__ import annotations

from pvemcp.call import Effect, Intent, Target
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.looking import line
from pvemcp.pve.client import Pve

_MEANS = {
    Effect.CHANGE: "change, create and start; what destroys stays denied",
    Effect.DESTROY: "ask for what destroys, too; each such plan still needs a person's yes, "
    "unless a rule of the policy allows it",
}


async def elevation(pve: Pve, intent: Intent) -> Preview:
    """Say who may do what, for how long, and what the client gives as its reason."""
    given, client = intent.params, pve.call.principal.name
    effect = str(intent.effect)
    return Preview(
        intent,
        Target("grant", str(given["grant"]), client),
        does=f"lets {client} {effect} for {given['minutes']} min instead of {given['from']}",
        facts=(
            ("it may then", _MEANS[intent.effect]),
            ("reason that the client gives", line(given["reason"], 500)),
        ),
        undo=f"it ends by itself; before that: pvemcp elevation end {client}",
        confirm=effect if intent.effect is Effect.DESTROY else "",
    )
