"""What a method does: read, change or destroy, and the few that no client may use.

The reviewed table is `effects.toml` beside this file; it explains its own rules.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from pvemcp.call import Effect
from pvemcp.pve.volumes import takes_disk

_BY_VERB = {"GET": Effect.READ, "POST": Effect.CHANGE, "PUT": Effect.CHANGE}
_FORBIDDEN = "forbidden"
_UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of effects.toml. `word` is an effect, "forbidden" or "unavailable"."""

    word: str
    why: str
    methods: tuple[re.Pattern[str], ...]
    when: tuple[tuple[str, re.Pattern[str]], ...]

    def names(self, method: str) -> bool:
        """Tell whether the rule is about this method (`VERB /template`)."""
        return any(pattern.fullmatch(method) for pattern in self.methods)

    def fits(self, params: Mapping[str, Any]) -> bool:
        """Tell whether the rule's conditions hold for rendered parameters."""
        return all(pattern.search(_text(params.get(name))) for name, pattern in self.when)


_SETS_DRIVES = re.compile(r"(?:POST|PUT) /nodes/\{node\}/(?:qemu|lxc)(?:/\{vmid\}/config)?")
_TAKES_DISK = Rule(
    "destroy", "it attaches another guest's disk: two guests that write one destroy it", (), ()
)
"""No regular expression could compare the two ids."""


def effect_of(verb: str, template: str, params: Mapping[str, Any]) -> Effect:
    """Return the effect of a call with these parameters (as `validate` rendered them)."""
    rule = _first(verb, template, params)
    if rule is None or rule.word in {_FORBIDDEN, _UNAVAILABLE}:
        return _BY_VERB.get(verb, Effect.DESTROY) if rule is None else Effect.DESTROY
    return Effect.parse(rule.word)


def worst_effect(verb: str, template: str) -> Effect:
    """Return the strongest effect that the method can have, whatever its parameters."""
    rules = [rule for rule in rules_for(verb, template) if rule.word != _UNAVAILABLE]
    words = [rule.word for rule in rules if rule.word != _FORBIDDEN]
    if len(words) < len(rules):
        return Effect.DESTROY
    effects = [Effect.parse(word) for word in words]
    return max(effects, default=_BY_VERB.get(verb, Effect.DESTROY))


def forbidden(verb: str, template: str) -> str:
    """Return why no client may use this method, or ""."""
    rule = _first(verb, template, {})
    return rule.why if rule is not None and rule.word == _FORBIDDEN else ""


def unavailable(verb: str, template: str, params: Mapping[str, Any]) -> str:
    """Return why this service cannot carry the call and what to use instead, or ""."""
    rule = _first(verb, template, params)
    return rule.why if rule is not None and rule.word == _UNAVAILABLE else ""


def why(verb: str, template: str, params: Mapping[str, Any]) -> str:
    """Return the reason that the table gives for the effect, or "" for an unlisted method."""
    rule = _first(verb, template, params)
    return rule.why if rule is not None else ""


@lru_cache(maxsize=1024)
def rules_for(verb: str, template: str) -> tuple[Rule, ...]:
    """Return the rules about one method, in order, up to the first without conditions."""
    method = f"{verb} {template}"
    found = []
    for rule in table():
        if rule.names(method):
            found.append(rule)
            if not rule.when:
                break
    return tuple(found)


def _first(verb: str, template: str, params: Mapping[str, Any]) -> Rule | None:
    if _SETS_DRIVES.fullmatch(f"{verb} {template}") and takes_disk(params):
        return _TAKES_DISK
    rules = rules_for(verb, template)
    return next((rule for rule in rules if rule.fits(params)), None)


@cache
def table() -> tuple[Rule, ...]:
    """Return every rule of effects.toml, in its order."""
    text = files("pvemcp.pve").joinpath("effects.toml").read_text("utf-8")
    return tuple(_rule(entry) for entry in tomllib.loads(text)["rule"])


def _rule(entry: Mapping[str, Any]) -> Rule:
    methods = (re.escape(method).replace(r"\*", ".*") for method in entry["methods"])
    return Rule(
        word=entry["effect"],
        why=entry["why"],
        methods=tuple(re.compile(method) for method in methods),
        when=tuple((name, re.compile(text)) for name, text in entry.get("when", {}).items()),
    )


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return "" if value is None else str(value)
