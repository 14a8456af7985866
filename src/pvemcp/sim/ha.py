"""High availability, the cluster log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import (
    PATH_PARAMETERS,
    Ask,
    Endpoint,
    choice,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.refusal import failed
from pvemcp.sim.validate import split_list
from pvemcp.sim.world import HaResource, World

_AUDIT = perm("/", "Sys.Audit")


def _digest(value: Any) -> str:
    return hashlib.sha1(repr(value).encode(), usedforsecurity=False).hexdigest()


# Resources -----------------------------------------------------------------------------------


def _resource_row(world: World, resource: HaResource) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sid": resource.sid,
        "type": resource.sid.partition(":")[0],
        "state": resource.state,
        "digest": _digest(sorted(world.ha)),
    }
    if resource.comment:
        row["comment"] = resource.comment
    for key in ("max_restart", "max_relocate", "failback"):
        if getattr(resource, key) != 1:
            row[key] = getattr(resource, key)
    return row


def _resources(ask: Ask) -> list[dict[str, Any]]:
    rows = [_resource_row(ask.world, resource) for resource in ask.world.ha.values()]
    return [row for row in rows if ask.args.get("type", row["type"]) == row["type"]]


def _resource(ask: Ask) -> dict[str, Any]:
    wanted = ask.args["sid"]
    for name in (wanted, f"vm:{wanted}", f"ct:{wanted}"):
        if name in ask.world.ha:
            return _resource_row(ask.world, ask.world.ha[name])
    raise failed(f"no such resource '{wanted}'")


def _sid(ask: Ask) -> str:
    """Return the whole id of a resource; PVE takes a bare vmid, too."""
    given = ask.args["sid"]
    if not given.isdecimal():
        return str(given)
    guest = ask.world.guests.get(int(given))
    return f"{'ct' if guest and guest.type == 'lxc' else 'vm'}:{given}"


def _make_resource(ask: Ask) -> None:
    world, name = ask.world, _sid(ask)
    if int(name.partition(":")[2]) not in world.guests:
        raise failed(f"unable to read vm config for '{name}'")
    if name in world.ha:
        raise failed(f"create resource failed: resource ID '{name}' already defined")
    world.ha[name] = replace(HaResource(name), **_given(ask, _RESOURCE))


def _set_resource(ask: Ask) -> None:
    world, name = ask.world, _sid(ask)
    if name not in world.ha:
        raise failed(f"update resource failed: cannot update service '{name}', not configured!")
    _require(ask, _digest(sorted(world.ha)))
    usual = HaResource(name)
    gone = {key: getattr(usual, key) for key in split_list(ask.args.get("delete", ""))}
    world.ha[name] = replace(world.ha[name], **gone, **_given(ask, _RESOURCE))


def _drop_resource(ask: Ask) -> None:
    """Forget a resource; rules forget it too, and go when nothing is left in them."""
    world, name = ask.world, _sid(ask)
    if name not in world.ha:
        raise failed(f"cannot delete service '{name}', not HA managed!")
    del world.ha[name]
    for rule, values in list(world.ha_rules.items()) if ask.args.get("purge", 1) else []:
        left = [each for each in split_list(values["resources"]) if each != name]
        values["resources"] = ",".join(left)
        if not left:
            del world.ha_rules[rule]


def _given(ask: Ask, parameters: Sequence[Parameter]) -> dict[str, Any]:
    return {p.name: ask.args[p.name] for p in parameters if p.name in ask.args}


def _require(ask: Ask, digest: str) -> None:
    if ask.args.get("digest") not in (None, digest):
        raise failed("detected modified configuration - file changed by other user? Try again.")


# Rules ---------------------------------------------------------------------------------------


def _rule_rows(ask: Ask) -> list[dict[str, Any]]:
    rules = ask.world.ha_rules
    rows = [
        {**values, "rule": name, "order": number, "digest": _digest(sorted(rules.items()))}
        for number, (name, values) in enumerate(rules.items(), 1)
    ]
    return [row for row in rows if ask.args.get("type", row["type"]) == row["type"]]


def _rule(ask: Ask) -> dict[str, Any]:
    for row in _rule_rows(replace(ask, args={})):
        if row["rule"] == ask.args["rule"]:
            return row
    raise failed(f"no such ha rule '{ask.args['rule']}'")


def _make_rule(ask: Ask) -> None:
    rules, name = ask.world.ha_rules, ask.args["rule"]
    if name in rules:
        raise failed(f"create ha rule failed: HA rule '{name}' already defined")
    given = _given(ask, _RULE)
    _check_resources(ask, given)
    rules[name] = {"type": ask.args["type"], **given}


def _set_rule(ask: Ask) -> None:
    rules, name = ask.world.ha_rules, ask.args["rule"]
    if name not in rules:
        raise failed(f"update HA rules failed: HA rule '{name}' does not exist")
    _require(ask, _digest(sorted(rules.items())))
    given, gone = _given(ask, _RULE), split_list(ask.args.get("delete", ""))
    _check_resources(ask, given)
    rules[name] = {k: v for k, v in rules[name].items() if k not in gone} | given


def _check_resources(ask: Ask, given: dict[str, Any]) -> None:
    if not given.get("disable", 1):
        del given["disable"]  # PVE takes no `disable=0`: it is deleted instead
    unknown = [each for each in split_list(given.get("resources", "")) if each not in ask.world.ha]
    if unknown:
        raise failed(f"cannot use unmanaged resource(s) {', '.join(unknown)}.")


def _drop_rule(ask: Ask) -> None:
    ask.world.ha_rules.pop(ask.args["rule"], None)


def _ctime(at: float) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(at))


def _current(ask: Ask) -> list[dict[str, Any]]:
    world, now = ask.world, ask.world.clock.seconds()
    quorate = not world.faults.quorum_lost
    local, stamp = world.local.name, _ctime(now)
    rows: list[dict[str, Any]] = [
        {"id": "quorum", "type": "quorum", "node": local, "quorate": int(quorate),
         "status": "OK" if quorate else "No quorum on node"},
        {"id": "master", "type": "master", "node": local, "timestamp": now,
         "status": f"{local} (active, {stamp})"},
        {"id": "fencing", "type": "fencing", "node": local, "armed-state": "armed",
         "status": "armed (CRM watchdog active)"},
    ]  # fmt: skip
    for name in world.nodes:
        alive = world.online(name)
        state = f"active, watchdog active, {stamp}" if alive else "old timestamp - dead?, -"
        rows.append({"id": f"lrm:{name}", "type": "lrm", "node": name, "timestamp": now,
                     "status": f"{name} ({state})"})  # fmt: skip
    return [*rows, *(_service(world, resource) for resource in world.ha.values())]


def _service(world: World, resource: HaResource) -> dict[str, Any]:
    node = world.guests[int(resource.sid.partition(":")[2])].node
    row: dict[str, Any] = {
        "id": f"service:{resource.sid}",
        "type": "service",
        "sid": resource.sid,
        "node": node,
        "state": resource.state,
        "crm_state": resource.state,
        "request_state": resource.state,
        "status": f"{resource.sid} ({node}, {resource.state})",
        "max_restart": resource.max_restart,
        "max_relocate": resource.max_relocate,
        "failback": 1,
    }
    return {**row, "comment": resource.comment} if resource.comment else row


# The log -----------------------------------------------------------------------------------


def _log(ask: Ask) -> list[dict[str, Any]]:
    """Return the newest lines first: all with Sys.Syslog, else one's own."""
    all_ = ask.may("/", "Sys.Syslog")
    lines = (line for line in reversed(ask.world.log) if all_ or line["user"] == ask.who.id)
    return [_log_row(line) for line in islice(lines, ask.args.get("max", 500))]


def _log_row(line: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in line.items() if key != "number"}
    number = line["number"]
    return {**row, "id": f"{number}:{line['node']}", "uid": str(number), "pid": 1190,
            "tag": "pvedaemon"}  # fmt: skip


_STATES = ("started", "stopped", "enabled", "disabled", "ignored")
_RESOURCE = (
    text("comment", "Notes.", max_length=4096),
    flag("failback", "Go back to a better node.", default=1),
    whole("max_relocate", "Tries on other nodes.", minimum=0, default=1),
    whole("max_restart", "Tries on one node.", minimum=0, default=1),
    choice("state", "What is asked for.", _STATES, default="started"),
)
_KINDS = ("node-affinity", "resource-affinity")
_RESOURCES = text("resources", "Guests under the rule.", format="pve-ha-resource-id-list")
_RULE = (
    choice("affinity", "Together or apart.", ("positive", "negative")),
    text("comment", "Notes.", max_length=4096),
    flag("disable", "Whether the rule is off."),
    text("nodes", "Nodes, perhaps with priorities.", format="pve-ha-node-list"),
    flag("strict", "On these nodes only.", default=0),
    _RESOURCES,
)
_RULE_NAME = text("rule", "Name of the rule.", optional=False, format="pve-configid")
_GROUP = text("group", "Group, before PVE 9.", format="pve-configid")
_GONE = text("delete", "Settings to remove.", format="pve-configid-list", max_length=4096)
_DIGEST = text("digest", "Refuse when the configuration has changed.", max_length=64)
_CHANGE = perm("/", "Sys.Console")

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/cluster/ha", listing("status", "resources", "groups", "rules", key="id"),
             about="What there is.", permissions=_AUDIT, returns=index("id")),
    endpoint("GET", "/cluster/ha/resources", _resources, about="Guests under HA.",
             permissions=_AUDIT, returns=index("sid"),
             parameters=(choice("type", "Of one kind.", ("ct", "vm")),)),
    endpoint("GET", "/cluster/ha/resources/{sid}", _resource, about="A guest under HA.",
             permissions=_AUDIT, returns="object"),
    endpoint("POST", "/cluster/ha/resources", _make_resource, about="Put a guest under HA.",
             permissions=_CHANGE, protected=True,
             parameters=(PATH_PARAMETERS["sid"], choice("type", "Of one kind.", ("ct", "vm")),
                         _GROUP, *_RESOURCE)),
    endpoint("PUT", "/cluster/ha/resources/{sid}", _set_resource, about="Change a resource.",
             permissions=_CHANGE, protected=True,
             parameters=(_GROUP, *_RESOURCE, _GONE, _DIGEST)),
    endpoint("DELETE", "/cluster/ha/resources/{sid}", _drop_resource,
             about="Take a guest out of HA.", permissions=_CHANGE, protected=True,
             parameters=(flag("purge", "Out of the rules, too.", default=1),)),
    endpoint("GET", "/cluster/ha/rules", _rule_rows, about="Rules for nodes and resources.",
             permissions=_AUDIT, returns=index("rule"),
             parameters=(choice("type", "Of one kind.", _KINDS),
                         text("resource", "About this guest."))),
    endpoint("POST", "/cluster/ha/rules", _make_rule, about="Make a rule.", permissions=_CHANGE,
             protected=True,
             parameters=(_RULE_NAME, choice("type", "Of one kind.", _KINDS, optional=False),
                         *_RULE[:-1],
                         text("resources", "Guests under the rule.", optional=False,
                              format="pve-ha-resource-id-list"))),
    endpoint("GET", "/cluster/ha/rules/{rule}", _rule, about="A rule.", permissions=_AUDIT,
             parameters=(_RULE_NAME,), returns="object"),
    endpoint("PUT", "/cluster/ha/rules/{rule}", _set_rule, about="Change a rule.",
             permissions=_CHANGE, protected=True,
             parameters=(_RULE_NAME, choice("type", "Of one kind.", _KINDS, optional=False),
                         *_RULE, _GONE, _DIGEST)),
    endpoint("DELETE", "/cluster/ha/rules/{rule}", _drop_rule, about="Remove a rule.",
             permissions=_CHANGE, protected=True, parameters=(_RULE_NAME,)),
    endpoint("GET", "/cluster/ha/status", listing("current", "manager_status", "disarm-ha",
                                                  "arm-ha", key="name"),
             about="What there is.", returns=index("name")),
    endpoint("GET", "/cluster/ha/status/current", _current, about="State of HA.",
             permissions=_AUDIT, returns=index("id")),
    endpoint("GET", "/cluster/log", _log, about="The cluster log, newest first.",
             parameters=(whole("max", "At most so many.", minimum=1),), returns=index("id")),
)  # fmt: skip
