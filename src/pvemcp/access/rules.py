"""Which rule of the policy decides about a write, and about a read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pvemcp.call import Call, Effect, Intent, Target, Verdict
from pvemcp.settings.policy import Rule

_GUEST = re.compile(r"(?:/nodes/[^/]+/)?(?:qemu|lxc)/([0-9]+)(?:/|$)")
"""In PVE's paths, and in the label of a command in a container."""
_PROFILE = re.compile(r"host/(read|change|root)(?:/|$)")
_NODE = re.compile(r"/nodes/([^/]+)")
_STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}


@dataclass(frozen=True, slots=True)
class Asked:
    """One write, as the rules ask about it."""

    tool: str
    client: str
    intent: Intent
    target: Target
    tainted: bool = False
    """The client has read text that others wrote."""
    moment: float = 0.0
    """Seconds since the epoch."""


def matching(rules: Sequence[Rule], asked: Asked) -> Rule | None:
    """Return the first rule that fits a write."""
    return next((rule for rule in rules if _fits(rule, asked)), None)


def _fits(rule: Rule, asked: Asked) -> bool:
    target, intent = asked.target, asked.intent
    effects = rule.effect or ("change", "destroy")
    plain = (
        str(intent.effect) in effects
        and named(rule.tool, asked.tool)
        and named(rule.client, asked.client)
        and named(rule.path, intent.path)
        and (not rule.profile or _profile(intent.verb, intent.path) in rule.profile)
        and (not rule.node or (target.node or intent.node).lower() in rule.node)
        and (rule.after_untrusted_text is None or rule.after_untrusted_text is asked.tainted)
        and now(rule, asked.moment)
    )
    return plain and _fits_guest(rule, target)


def _fits_guest(rule: Rule, target: Target) -> bool:
    """Tell whether what is asked about the guest holds; of one that was not seen, what is strict.

    A rule that allows does not fit a guest whose tags nobody could read; one that asks or denies
    does.
    """
    if rule.vmid and target.vmid not in rule.vmid:
        return False
    if not (rule.tag or rule.pool or rule.protected is not None):
        return True
    if not target.known:
        return rule.verdict != "allow"
    return (
        (not rule.tag or not set(rule.tag).isdisjoint(target.tags))
        and _in_pool(rule, target)
        and (rule.protected is None or rule.protected is target.protected)
    )


def _in_pool(rule: Rule, target: Target) -> bool:
    if not rule.pool or target.pool in rule.pool:
        return True
    unseen = target.vmid > 0 and not target.pool and not target.pools_seen
    return unseen and rule.verdict != "allow"


def fits_place(rule: Rule, target: Target) -> bool:
    """Tell whether a rule is about a guest with these tags, pool, node and protection."""
    on_node = not rule.node or target.node.lower() in rule.node
    return on_node and _fits_guest(rule, target)


def _profile(verb: str, path: str) -> str:
    """Return the sandbox in which a command runs on the host, or nothing."""
    found = _PROFILE.match(path) if verb == "RUN" else None
    return found[1] if found else ""


def about_reads(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the rules that are about reads: they are asked at each of them."""
    return tuple(rule for rule in rules if "read" in rule.effect)


Marks = tuple[frozenset[str], str | None]
"""Tags and pool of a guest; None: its pool cannot be seen."""


def marks_in(row: Mapping[str, Any], *, pools_seen: bool = True) -> Marks:
    """Return tags and pool of a row of /cluster/resources."""
    return frozenset(tags_in(row)), row.get("pool") or ("" if pools_seen else None)


def tags_in(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tags of a row of /cluster/resources, in lower case."""
    tags = re.split(r"[;,\s]+", str(row.get("tags") or "").lower())
    return tuple(filter(None, tags))


def denies_read(
    rules: Sequence[Rule],
    call: Call,
    path: str,
    moment: float,
    *,
    marks: Callable[[int], Marks | None] = lambda _: None,
) -> Rule | None:
    """Return the rule that denies a read: from its path, and what is known of the guest in it.

    Of a guest whose `marks` are None, a rule that denies by tag or pool fits, one that allows does
    not.
    """
    for rule in rules:
        if not (
            named(rule.tool, call.tool)
            and named(rule.client, call.principal.name)
            and named(rule.path, path)
        ):
            continue
        guest, node = _GUEST.match(path), _NODE.match(path)
        fits = (
            (not rule.node or (node is not None and node[1].lower() in rule.node))
            and (not rule.vmid or (guest is not None and int(guest[1]) in rule.vmid))
            and (not rule.profile or _profile("RUN", path) in rule.profile)
            and (
                not (rule.tag or rule.pool)
                or (guest is not None and _marked(rule, guest[1], marks))
            )
            and now(rule, moment)
        )
        if fits:
            return rule if rule.verdict == "deny" else None
    return None


def _marked(rule: Rule, vmid: str, marks: Callable[[int], Marks | None]) -> bool:
    found = marks(int(vmid))
    if found is None:
        return rule.verdict == "deny"
    tags, pool = found
    tagged = not rule.tag or not tags.isdisjoint(rule.tag)
    if pool is None and rule.pool:
        return tagged and rule.verdict == "deny"
    return tagged and (not rule.pool or pool in rule.pool)


def now(rule: Rule, moment: float) -> bool:
    """Tell whether a rule holds at a moment."""
    if not rule.hours:
        return True
    local = time.localtime(moment)
    minute = local.tm_hour * 60 + local.tm_min
    return any(hours.hold(local.tm_wday, minute) for hours in rule.hours)


def recording(
    rules: Sequence[Rule], client: str, profile: str, node: str, moment: float
) -> Rule | None:
    """Return a rule by which a shell on a node is recorded."""
    for rule in rules:
        if (
            rule.verdict == "record"
            and named(rule.client, client)
            and (not rule.profile or profile in rule.profile)
            and (not rule.node or node.lower() in rule.node)
            and now(rule, moment)
        ):
            return rule
    return None


def named(patterns: tuple[str, ...], text: str) -> bool:
    """Whether a text fits one of the patterns, or there are none."""
    return not patterns or any(_pattern(each).fullmatch(text) for each in patterns)


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(re.escape(glob).replace(r"\*", ".*"), re.IGNORECASE)


def strictness(verdict: Verdict) -> int:
    """Order verdicts: the highest counts."""
    return _STRICTNESS[verdict.value]


def target_at(
    path: str, *, tags: Sequence[str] = (), pool: str = "", protected: bool = False
) -> Target:
    """Return what a path names, with what is said of it: to try rules out."""
    guest, node = _GUEST.match(path), _NODE.match(path)
    return Target(
        "guest" if guest else "other",
        path,
        vmid=int(guest[1]) if guest else 0,
        node=node[1] if node else "",
        pool=pool,
        tags=tuple(tag.lower() for tag in tags),
        protected=protected,
    )


def own_task(call: Call, intent: Intent) -> bool:
    """Whether a write stops a task that the caller's own token started."""
    if intent.verb != "DELETE" or intent.template != "/nodes/{node}/tasks/{upid}":
        return False
    parts = str(intent.params.get("upid", "")).split(":")
    return len(parts) > 7 and parts[7] == call.principal.token.id


def touches_identity(call: Call, intent: Intent) -> str:
    """Return whose account a write would touch: root@pam's, or the caller's own; else ""."""
    if intent.effect is Effect.READ or intent.verb == "RUN":
        return ""
    own = {call.principal.token.id, call.principal.token.id.partition("!")[0]}
    for name in ("userid", "user", "users", "tokenid", "tokens", "auth_id", "username"):
        for word in re.split(r"[\s,;]+", str(intent.params.get(name) or "")):
            if word == "root@pam" or word.startswith("root@pam!") or word in own:
                return word
    return intent.path if intent.path.startswith("/access/") else ""
