"""Checks of the policy: rules that can never decide, that let everything through, freezes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grant
from pvemcp.access.told import ONCE, Told
from pvemcp.errors import Fault
from pvemcp.health.check import Check, good, warning
from pvemcp.settings import Settings
from pvemcp.settings.policy import EFFECTS, Rule
from pvemcp.store import Store

_NO_CONDITION = ("name", "verdict", "effect", "channel", "persons")


def check_policy(settings: Settings, grants: Sequence[Grant]) -> Iterator[Check]:
    """Judge the rules together, and say what is frozen."""
    rules = [rule for rule in settings.policy if rule.verdict != "record"]
    count = f"{len(rules)} rule{'s' * (len(rules) != 1)}, then the defaults"
    yield good("policy", count if rules else "no rules: the defaults hold")
    done: set[str] = set()
    names = {grant.name for grant in grants}
    for rule in rules:
        effects = set(rule.effect or EFFECTS[1:])
        if effects <= done:
            yield warning(
                "policy",
                f"rule {rule.name!r} never decides: a rule before it fits everything",
                "Move it up; the first rule that fits decides. See: pvemcp policy show",
            )
        if not _conditions(rule):
            done |= effects
            if rule.verdict == "allow" and "destroy" in effects:
                yield warning(
                    "policy",
                    f"rule {rule.name!r} allows what destroys, for every client and target",
                    "Give it conditions, such as client, tag or pool.",
                )
    for rule in settings.policy:
        unknown = [name for name in rule.client if "*" not in name and name not in names]
        if unknown and grants:
            yield warning(
                "policy",
                f"rule {rule.name!r} is about {', '.join(unknown)}, and no grant has that name",
                "Correct the name: pvemcp grant list shows them.",
            )
    yield from _freezes(settings)


def _conditions(rule: Rule) -> list[str]:
    named = (field.name for field in fields(Rule) if field.name not in _NO_CONDITION)
    return [name for name in named if getattr(rule, name) not in ((), None)]


def _freezes(settings: Settings) -> Iterator[Check]:
    try:
        with Store(settings.state_dir, change=False) as store:
            freezes = Freezes(store)
            found, behind = freezes.all(), Told(store).behind(freezes.own())
    except Fault:
        return  # the check of the database says so
    for freeze in found:
        yield warning("freeze", str(freeze), f"When all is well: {freeze.remedy}")
    for node in behind:
        yield warning("freeze", node.behind, ONCE)
