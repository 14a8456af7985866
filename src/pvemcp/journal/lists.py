"""Lists whose order counts, and what has members: firewall rules, groups, address sets, pools."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvemcp.journal.change import DIGEST, Recipe, Request, State, differences, never
from pvemcp.journal.subject import Facts, Subject, absent_or
from pvemcp.pve.client import Pve

_RULES = re.compile(r"(?P<list>.*/firewall/rules|/cluster/firewall/groups/\{group\})(?:/\{pos\})?")
_SETS = re.compile(r"(?P<all>.*/firewall/(?:ipset|groups))(?:/\{(?:name|group)\})?")
_ENTRIES = re.compile(r"(?P<set>.*/firewall/ipset/\{name\})(?:/\{cidr\})?")
_POOL = re.compile(r"/pools(?:/\{poolid\})?")


def list_subject(verb: str, template: str, params: Mapping[str, Any]) -> Subject | None:
    """Return the subject of a change to such a list, or None."""
    rules = _RULES.fullmatch(template)
    if rules and not (verb == "DELETE" and template.endswith("/{group}")):
        return _rules(rules["list"], params)
    entries = _ENTRIES.fullmatch(template)
    if entries and (template != entries["set"] or verb == "POST"):
        return _members_of(entries["set"], params)
    sets = _SETS.fullmatch(template)
    if sets and (verb == "DELETE" or template == sets["all"]):
        return _set(sets["all"], params)
    if _POOL.fullmatch(template) and params.get("poolid"):
        return Subject("pool", str(params["poolid"]), _pool_reader(params), pool_undo)
    return None


def _placed(template: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in params.items() if f"{{{k}}}" in template}


def _rules(template: str, params: Mapping[str, Any]) -> Subject:
    values = _placed(template, params)

    async def read(pve: Pve) -> State:
        rows = await pve.get(template, **values) or []
        digest = next((str(row[DIGEST]) for row in rows if row.get(DIGEST)), "")
        rules = [{k: v for k, v in row.items() if k not in ("pos", DIGEST)} for row in rows]
        return {"rules": rules, **({DIGEST: digest} if digest else {})}

    where = "/".join(str(v) for v in values.values()) or "cluster"
    return Subject("firewall rules", where, read, rules_undo)


def rules_undo(facts: Facts) -> Recipe:
    """Take a change of one rule back: its place, its values, its presence."""
    old, new = facts.before["rules"], facts.after["rules"]
    path = facts.path.rpartition("/")[0] if facts.template.endswith("{pos}") else facts.path
    if len(new) == len(old) + 1:
        where = next(i for i, rule in enumerate(new) if i >= len(old) or rule != old[i])
        return Recipe((Request("DELETE", f"{path}/{where}"),))
    if len(new) == len(old) - 1:
        where = next(i for i, rule in enumerate(old) if i >= len(new) or rule != new[i])
        return Recipe(_inserted(path, old[where], where))
    if len(new) != len(old):
        return never("more than one rule was changed at once")
    places = [i for i, rule in enumerate(new) if rule != old[i]]
    if not places:
        return never("nothing has changed")
    if len(places) > 1:
        return _moved_back(path, old, new, places)
    (where,) = places
    return Recipe((Request("PUT", f"{path}/{where}", _rule_values(old[where], new[where])),))


def _inserted(path: str, rule: Mapping[str, Any], where: int) -> tuple[Request, ...]:
    """Make a rule anew: PVE puts it on top, whatever `pos` says, and switches it off."""
    values = {"enable": 0, **{k: v for k, v in rule.items() if k != "ipversion"}}
    made = [Request("POST", path, values)]
    if where:
        made.append(Request("PUT", f"{path}/0", {"moveto": where + 1}))
    return tuple(made)


def _moved_back(path: str, old: list[Any], new: list[Any], places: list[int]) -> Recipe:
    """Move a rule back: it went from one end of the places that differ to the other."""
    for here, there in ((places[0], places[-1]), (places[-1], places[0])):
        tried = new[:here] + new[here + 1 :]
        tried.insert(there, new[here])
        if tried == old:
            to = there + 1 if there > here else there  # PVE counts before it takes it out
            return Recipe((Request("PUT", f"{path}/{here}", {"moveto": to}),))
    return never("more than one rule was moved")


def _rule_values(old: Mapping[str, Any], new: Mapping[str, Any]) -> State:
    values = {k: v for k, v in old.items() if new.get(k) != v and k != "ipversion"}
    gone = [k for k in new if k not in old and k != "ipversion"]
    return {**values, **({"delete": ",".join(gone)} if gone else {})}


def _set(template: str, params: Mapping[str, Any]) -> Subject:
    """A security group or an address set: its comment, and what is in it."""
    kind = template.rpartition("/")[2]
    key = "group" if kind == "groups" else "name"
    named = str(params.get(key, "")).lower()  # so PVE keeps it
    values = _placed(template, params)

    async def read(pve: Pve) -> State:
        state: State = {}
        for name in dict.fromkeys((named, str(params.get("rename") or ""))):
            if not name:
                continue
            rows = await pve.get(template, **values) or []
            row = next((r for r in rows if r.get(key) == name), None)
            inside = await absent_or(pve, f"{template}/{{{key}}}", **values, **{key: name})
            if row is not None:
                members = [{k: v for k, v in r.items() if k != DIGEST} for r in inside or []]
                state |= {name: {"comment": row.get("comment", ""), "members": members}}
        return state

    return Subject(f"firewall {kind}", named, read, set_undo)


def _members_of(template: str, params: Mapping[str, Any]) -> Subject:
    """The entries of an address set, by CIDR."""
    values = _placed(template, params)

    async def read(pve: Pve) -> State:
        rows = await pve.get(template, **values) or []
        return {str(r["cidr"]): {k: v for k, v in r.items() if k != DIGEST} for r in rows}

    return Subject("firewall ipset", str(params["name"]), read, _members_undo)


def _members_undo(facts: Facts) -> Recipe:
    old, new = facts.before, facts.after
    path = "".join(facts.path.partition(f"/ipset/{facts.text('name')}")[:2])
    changed = differences(old, new)
    requests = [Request("DELETE", f"{path}/{cidr}") for cidr in changed if cidr not in old]
    requests += [Request("POST", path, old[cidr]) for cidr in changed if cidr not in new]
    both = [cidr for cidr in changed if cidr in old and cidr in new]
    requests += [
        Request("PUT", f"{path}/{cidr}", {k: v for k, v in old[cidr].items() if k != "cidr"})
        for cidr in both
    ]
    if not requests:
        return never("nothing has changed")
    return Recipe(tuple(requests), keys=tuple(changed))


def set_undo(facts: Facts) -> Recipe:
    """Take the making, renaming or removal of a group or an address set back."""
    key = "group" if "/groups" in facts.template else "name"
    name, other = facts.text(key).lower(), facts.text("rename")
    all_ = facts.path if facts.verb == "POST" else facts.path.rpartition("/")[0]
    if facts.verb == "POST" and other:
        was = facts.before.get(other, {})
        values = {key: other, "rename": name, "comment": was.get("comment", "")}
        return Recipe((Request("POST", all_, values),))
    if facts.verb == "POST":
        if name in facts.before:
            return never("it was there before")
        return Recipe((Request("DELETE", f"{all_}/{name}"),))
    was = facts.before.get(name)
    if was is None:
        return never("what it held could not be seen")
    comment = {"comment": was["comment"]} if was["comment"] else {}
    made = [Request("POST", all_, {key: name, **comment})]
    if key == "name":
        made += [Request("POST", f"{all_}/{name}", each) for each in was["members"]]
    return Recipe(tuple(made))


def _pool_reader(params: Mapping[str, Any]) -> Any:
    poolid = str(params["poolid"])

    async def read(pve: Pve) -> State:
        rows = await absent_or(pve, "/pools", poolid=poolid)
        if not rows:
            return {}
        (pool,) = rows
        members = pool.get("members") or []
        state: State = {
            "comment": pool.get("comment", ""),
            "vms": sorted(int(m["vmid"]) for m in members if m.get("vmid")),
            "storage": sorted({str(m["storage"]) for m in members if m.get("type") == "storage"}),
        }
        if str(params.get("allow-move", "")) in ("1", "True"):
            state |= await _elsewhere(pve, poolid, params)
        return state

    return read


async def _elsewhere(pve: Pve, poolid: str, params: Mapping[str, Any]) -> State:
    asked = set(re.findall(r"\d+", str(params.get("vms", ""))))
    rows = await pve.resources("vm")
    return {
        f"pool of {row['vmid']}": str(row["pool"])
        for row in rows
        if str(row.get("vmid")) in asked and row.get("pool") not in (None, "", poolid)
    }


def pool_undo(facts: Facts) -> Recipe:
    """Take a change of a pool back: its comment, its members, its presence."""
    poolid = facts.text("poolid")
    old, new = facts.before, facts.after
    if not old:
        return Recipe((_delete(facts, poolid),)) if new else never("there is no pool")
    if not new:
        comment = {"comment": old["comment"]} if old["comment"] else {}
        made = [Request("POST", "/pools", {"poolid": poolid, **comment})]
        rights = (f"rights that were given on /pool/{poolid}",)
        return Recipe((*made, *_joined(facts, poolid, old)), rights)
    requests = list(_left(facts, poolid)) + list(_joined(facts, poolid, _missing(old, new)))
    if old["comment"] != new["comment"]:
        requests.append(_put(facts, poolid, comment=old["comment"]))
    for name in [n for n in old if n.startswith("pool of ") and n not in new]:
        vmid = name.removeprefix("pool of ")
        requests.append(_put(facts, str(old[name]), vms=vmid, **{"allow-move": 1}))
    return Recipe(tuple(requests)) if requests else never("nothing has changed")


def _missing(old: State, new: State) -> State:
    return {n: [each for each in old[n] if each not in new[n]] for n in ("vms", "storage")}


def _left(facts: Facts, poolid: str) -> list[Request]:
    come = _missing(facts.after, facts.before)
    moved = {n.removeprefix("pool of ") for n in facts.before if n.startswith("pool of ")}
    vms = [vmid for vmid in come["vms"] if str(vmid) not in moved]
    values = _members({"vms": vms, "storage": come["storage"]})
    return [_put(facts, poolid, **values, delete=1)] if values else []


def _joined(facts: Facts, poolid: str, members: State) -> list[Request]:
    values = _members(members)
    return [_put(facts, poolid, **values)] if values else []


def _members(state: State) -> dict[str, str]:
    return {n: ",".join(map(str, state[n])) for n in ("vms", "storage") if state.get(n)}


def _put(facts: Facts, poolid: str, **values: Any) -> Request:
    # PVE 8 brought the first form, which alone can name a pool inside another.
    if facts.description.method("PUT", "/pools"):
        return Request("PUT", "/pools", {"poolid": poolid, **values})
    return Request("PUT", f"/pools/{poolid}", values)


def _delete(facts: Facts, poolid: str) -> Request:
    if facts.description.method("DELETE", "/pools"):
        return Request("DELETE", "/pools", {"poolid": poolid})
    return Request("DELETE", f"/pools/{poolid}")
