"""The policy: what a caller may do here. PVE's own permissions come on top of it.

`permit` is asked before every step and knows the step alone. `judge` is asked once a call's plan
is known, with everything about it: it allows, denies, or wants a person to be asked.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pvemcp.access.elevation import Elevations, Raising
from pvemcp.access.freeze import Freezes
from pvemcp.access.leaving import left_and_joined
from pvemcp.access.rules import (
    Asked,
    Marks,
    about_reads,
    denies_read,
    marks_in,
    matching,
    named,
    own_task,
    recording,
    strictness,
    touches_identity,
)
from pvemcp.access.trouble import Trouble
from pvemcp.call import GRANT, Call, Effect, Intent, Principal, Target, Verdict
from pvemcp.errors import Denied, Fault
from pvemcp.settings.policy import Rule

PROTECTED = "protected"
"""The tag of a guest with which every write to it asks."""
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
    if effect <= call.principal.ceiling:
        return Verdict.ALLOW
    raise _above(call.principal, call.principal.ceiling, f"{verb} {path}", effect)


def _above(who: Principal, ceiling: Effect, step: str, effect: Effect) -> Denied:
    if who.grant:
        subject, remedy = f"the grant {who.name}", f"pvemcp grant create NAME --ceiling {effect}"
    else:
        subject, remedy = who.name, f"pvemcp stdio --ceiling {effect}"
    return Denied(
        f"{step} has the effect {effect}; {subject} has the ceiling {ceiling} and may "
        f"{_MAY[ceiling]}. Nothing was done.",
        hint="Only a person can raise it: for a while, asked by the tool elevate; or on the host "
        f"of pvemcp: {remedy}",
    )


LEARNED, STALE = 2.0, 60.0
"""Seconds after which tags and pools are learned anew, and after which they count as unknown."""
_NEVER: tuple[float, dict[int, Marks]] = (-1e9, {})
Resources = Callable[[str], Awaitable[list[dict[str, Any]]]]
"""Returns the rows of /cluster/resources of one kind, as the call's token sees them."""
Blind = Callable[[str, str], Awaitable[str]]
"""`(path, privilege)`: says why a token does not see all of a kind, or nothing."""
POOLS = ("/pool", "Pool.Audit")
"""With what a token sees every pool."""
Tainted = Callable[[Call], Sequence[str]]
"""Whose text a call's client has read before: `qemu/105 notes`."""
Began = Callable[[str, str], bool]
"""Whether a change of an owner began the task of a UPID: clients may share a PVE token."""


class Policy:
    """The rules of one service, its freezes, and the defaults below them."""

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        freezes: Freezes | None = None,
        elevations: Elevations | None = None,
        trouble: Trouble | None = None,
        tainted: Tainted = lambda _call: (),
        began: Began = lambda _upid, _owner: True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._recording = tuple(rule for rule in rules if rule.verdict == "record")
        self.rules = tuple(rule for rule in rules if rule.verdict != "record")
        self._reads = about_reads(self.rules)
        self.freezes = freezes
        self.elevations = elevations
        self.trouble = trouble
        self._marked = any(rule.tag or rule.pool for rule in self._reads)
        self._marks: dict[str, tuple[float, dict[int, Marks]]] = {}
        """Tags and pools of guests, by PVE token: when they were learned, and by vmid."""
        self._tainted = tainted
        self._began = began
        self._now = now

    def permit(self, call: Call, verb: str, path: str, effect: Effect) -> Verdict:
        """Allow one step of a call (a `pvemcp.call.Permit`): freezes, rules about reads, ceiling.

        Raises Denied with the reason.
        """
        if call.automatic:
            return Verdict.ALLOW
        self.refuse_frozen(call, effect)
        if self._reads and effect is Effect.READ:
            rule = denies_read(
                self._reads, call, path, self._now(), marks=partial(self._marks_of, call)
            )
            if rule is not None:
                raise Denied(
                    f"the policy denies {verb} {path} (rule {rule.name!r})",
                    hint="Only an administrator can change it: the setting `policy`.",
                )
        ceiling = call.principal.ceiling
        if effect > ceiling and effect > (ceiling := self.ceiling(call.principal)):
            raise _above(call.principal, ceiling, f"{verb} {path}", effect)
        if effect is Effect.DESTROY and self.trouble is not None:
            self.trouble.step(call, effect)
            self.refuse_frozen(call, effect)
        return Verdict.ALLOW

    @property
    def learns(self) -> bool:
        """Whether a rule about reads asks for tags or pools."""
        return self._marked

    @property
    def about_pools(self) -> bool:
        """Whether a rule asks for the pool of a guest."""
        return any(rule.pool for rule in self.rules)

    async def learn(self, call: Call, resources: Resources, blind: Blind) -> None:
        """Learn the tags and pools of guests, where a rule about reads asks for them."""
        token = call.principal.token.id
        if not self._marked or time.monotonic() - self._marks.get(token, _NEVER)[0] < LEARNED:
            return
        try:
            rows = await resources("vm")
        except Fault:  # what is not known is denied
            self._marks.pop(token, None)
            return
        pools = not (any(rule.pool for rule in self._reads) and await blind(*POOLS))
        marks = {int(row["vmid"]): marks_in(row, pools_seen=pools) for row in rows}
        self._marks[token] = (time.monotonic(), marks)

    def read(self, call: Call, path: str, target: Target) -> str:
        """Say what the rules make of a read, and which of them decides: to try rules out."""
        marks = (frozenset(target.tags), target.pool) if target.known else None
        rule = denies_read(self._reads, call, path, self._now(), marks=lambda _: marks)
        return f"deny (rule {rule.name!r})" if rule else "allow (no rule denies it)"

    def records(self, who: Principal, profile: str, node: str) -> str:
        """Return the name of a rule by which a shell of a client is recorded, or nothing."""
        rule = recording(self._recording, who.name, profile, node, self._now())
        return rule.name if rule else ""

    def _marks_of(self, call: Call, vmid: int) -> Marks | None:
        learned, known = self._marks.get(call.principal.token.id, _NEVER)
        return known.get(vmid) if time.monotonic() - learned < STALE else None

    def ceiling(self, who: Principal) -> Effect:
        """Return the most that a caller may do now, with what a person has given it."""
        return who.ceiling if self.elevations is None else self.elevations.ceiling(who)

    def raises(self, who: Principal) -> bool:
        """Whether a caller's ceiling can be raised."""
        can = self.elevations is not None and self.elevations.most > 0
        return can and who.ceiling < Effect.DESTROY

    def unasked(self, who: Principal, tools: Iterable[str]) -> frozenset[str]:
        """Return which of these tools may destroy something unasked: a rule allows it."""
        allowing = [
            rule
            for rule in self.rules
            if rule.verdict == "allow"
            and (not rule.effect or "destroy" in rule.effect)
            and named(rule.client, who.name)
        ]
        return frozenset(tool for tool in tools if any(named(r.tool, tool) for r in allowing))

    def raising(self, call: Call) -> Raising:
        """Return what raises the ceiling of a call's client. Raises Denied when nothing can."""
        if self.elevations is None:
            raise Denied("elevation is off")
        return Raising(self.elevations, call, self.refuse_frozen)

    def refuse_frozen(self, call: Call, effect: Effect) -> None:
        """Raise Denied when a freeze is in the way of this effect."""
        if self.freezes is not None:
            self.freezes.check(call, effect)

    def stops(self, who: Principal, effect: Effect) -> str:
        """Say why what runs already may not go on; "" when it may."""
        found = self.freezes.stops(who.name, effect) if self.freezes is not None else ""
        if not found and effect > who.ceiling and effect > self.ceiling(who):
            return f"the elevation of {who.name} to {effect} is over"
        return found

    def judge(self, call: Call, writes: Sequence[tuple[Intent, Target]]) -> Judgement:
        """Return the strictest judgement over what a call would write.

        The first rule that fits a write decides about it, else the defaults do. Of several that
        ask, the most persons and the narrowest channel count. Who sits at the client may be one
        of those on the host or the page: a dialog gives none of two.
        """
        tainted = bool(self._tainted(call))
        found = [self._one(call, *write, tainted=tainted) for write in writes]
        found += [each for write in writes for each in self._leaving(call, *write)]
        strictest = max(found, key=lambda each: strictness(each.verdict))
        asks = [each for each in found if each.verdict is Verdict.ASK]
        if strictest.verdict is not Verdict.ASK:
            return strictest
        narrow = any(each.channel != "any" or each.persons > 1 for each in asks)
        return replace(
            strictest,
            rule="; ".join(dict.fromkeys(each.rule for each in asks)),
            channel="person" if narrow else "any",
            persons=max(each.persons for each in asks),
        )

    def _leaving(self, call: Call, intent: Intent, target: Target) -> Iterator[Judgement]:
        """Judge that a guest leaves a rule that asks or denies, or comes under one that allows."""
        for rule, joined in left_and_joined(self.rules, intent, target):
            if not named(rule.client, call.principal.name) or joined is not (
                rule.verdict == "allow"
            ):
                continue
            name = (
                f"rule {rule.name!r}, which the guest would {'come under' if joined else 'leave'}"
            )
            verdict = Verdict.ASK if joined else Verdict(rule.verdict)
            why = f"{intent.verb} {intent.path} would take a guest out of it"
            yield Judgement(verdict, name, why, rule.channel, rule.persons)

    def _one(self, call: Call, intent: Intent, target: Target, *, tainted: bool) -> Judgement:
        if account := touches_identity(call, intent):
            why = f"it would touch the account {account}"
            return Judgement(Verdict.DENY, "default: accounts are a person's", why)
        raised = intent.verb == GRANT
        asked = Asked(call.tool, call.principal.name, intent, target, tainted, self._now())
        rule = matching(self.rules, asked)
        if rule is not None and not (raised and rule.verdict == "allow"):
            name = f"rule {rule.name!r}"
            why = f"that rule denies {intent.verb} {intent.path}"
            return Judgement(Verdict(rule.verdict), name, why, rule.channel, rule.persons)
        if own_task(call, intent) and self._began(intent.params["upid"], call.principal.owner):
            return Judgement(Verdict.ALLOW, "default: it is the client's own task")
        return default(intent, target)


def default(intent: Intent, target: Target) -> Judgement:
    """Judge a write that no rule is about."""
    if intent.verb == GRANT:
        return Judgement(Verdict.ASK, "default: a higher ceiling asks")
    if target.protected or PROTECTED in target.tags:
        return Judgement(Verdict.ASK, "default: what is protected asks")
    if target.kind == "guest" and not target.known:
        return Judgement(Verdict.ASK, "default: a guest whose tags cannot be seen asks")
    if intent.effect is Effect.DESTROY:
        return Judgement(Verdict.ASK, "default: destroy asks")
    return Judgement(Verdict.ALLOW, "default: change is allowed")


class Open(Policy):
    """Allows whatever is within the ceiling: nobody is asked."""

    def judge(self, call: Call, writes: Sequence[tuple[Intent, Target]]) -> Judgement:  # noqa: ARG002
        """Allow."""
        return Judgement(Verdict.ALLOW, "open")


def visible(principal: Principal, least_effect: Effect) -> bool:
    """Whether a tool is listed: the least that it can do is within the caller's ceiling."""
    return least_effect <= principal.ceiling
