"""Guests that are taken out of high availability: PVE takes them out of its rules, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvemcp.journal.change import DIGEST, Recipe, Request, State, never
from pvemcp.journal.subject import Facts, Subject, absent_or, flat
from pvemcp.pve.client import Pve

_RESOURCES, _RULES = "/cluster/ha/resources", "/cluster/ha/rules"


def ha_subject(verb: str, template: str, params: Mapping[str, Any]) -> Subject | None:
    """Return the subject of a resource that is removed, or None."""
    if (verb, template) != ("DELETE", f"{_RESOURCES}/{{sid}}"):
        return None
    sid = str(params["sid"])

    async def read(pve: Pve) -> State:
        state = _plain(await absent_or(pve, f"{_RESOURCES}/{sid}"))
        for row in await absent_or(pve, _RULES) or ():  # PVE 8 has none
            state[f"rule {row['rule']}"] = _plain(row)
        return state

    return Subject("ha resource", sid, read, _undo)


def _plain(found: Any) -> State:
    return {name: value for name, value in flat(found).items() if name != DIGEST}


def _undo(facts: Facts) -> Recipe:
    old, new = facts.before, facts.after
    if "sid" not in old or "sid" in new:
        return never("it is not gone, or was not there")
    rules = {name: rule for name, rule in old.items() if name.startswith("rule ")}
    accepted = facts.description.method("POST", _RESOURCES)
    known = {each.name for each in accepted.parameters} if accepted else set()
    requests = [Request("POST", _RESOURCES, {k: v for k, v in old.items() if k in known})]
    for name, rule in rules.items():
        if name not in new:
            requests.append(Request("POST", _RULES, rule))
        elif rule != new[name]:
            back = {"type": rule["type"], "resources": rule["resources"]}
            requests.append(Request("PUT", f"{_RULES}/{rule['rule']}", back))
    return Recipe(tuple(requests))
