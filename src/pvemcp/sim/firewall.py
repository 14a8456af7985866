"""PVE's firewall: rules of the cluster, of nodes and of guests, and whether it is on."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import (
    PATH_PARAMETERS,
    Ask,
    Endpoint,
    Handler,
    Permissions,
    choice,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.guests import the_guest
from pvemcp.sim.refusal import failed, rejected
from pvemcp.sim.validate import split_list
from pvemcp.sim.world import GuestType, World

CLUSTER = "cluster"
_NODE = "/nodes/{node}"
_PORTS = ("dport", "sport")
_CONTROL = frozenset({"node", "vmid", "group", "pos", "digest", "delete", "moveto"})


def _digest(world: World, key: str) -> str:
    content = repr((world.firewall.get(key, []), world.firewall_options.get(key, {})))
    return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()


def _require_digest(ask: Ask, key: str) -> None:
    given = ask.args.get("digest")
    if given and given != _digest(ask.world, key):
        raise failed("detected modified configuration - file changed by other user? Try again.")


# Rules ---------------------------------------------------------------------------------------


def _rules(ask: Ask, key: str) -> list[dict[str, Any]]:
    rules, digest = ask.world.firewall.get(key, []), _digest(ask.world, key)
    return [{**rule, "pos": pos, "digest": digest} for pos, rule in enumerate(rules)]


def _rule(ask: Ask, key: str) -> dict[str, Any]:
    # Seen on PVE 9.1: a number in the list, a string here.
    pos = _position(ask, key)
    return {**_rules(ask, key)[pos], "pos": str(pos)}


def _position(ask: Ask, key: str) -> int:
    pos = int(ask.args["pos"])
    if pos >= len(ask.world.firewall.get(key, [])):
        raise failed(f"no rule at position {pos}")
    return pos


def _create(ask: Ask, key: str) -> None:
    _require_digest(ask, key)
    rule = _given(ask)
    _verify(rule)
    # It ignores `pos`, and a rule is off unless it is said to be on.
    ask.world.firewall.setdefault(key, []).insert(0, {"enable": 0} | rule)


def _update(ask: Ask, key: str) -> None:
    _require_digest(ask, key)
    rules, pos = ask.world.firewall.get(key, []), _position(ask, key)
    if "moveto" in ask.args:
        to = min(int(ask.args["moveto"]), len(rules))
        moved = rules.pop(pos)
        rules.insert(to - (to > pos), moved)
        return
    gone = split_list(ask.args.get("delete", ""))
    rule = {name: value for name, value in rules[pos].items() if name not in gone} | _given(ask)
    _verify(rule)
    rules[pos] = rule


def _delete(ask: Ask, key: str) -> None:
    _require_digest(ask, key)
    del ask.world.firewall.get(key, [])[_position(ask, key)]


def _given(ask: Ask) -> dict[str, Any]:
    return {name: value for name, value in ask.args.items() if name not in _CONTROL}


def _verify(rule: dict[str, Any]) -> None:
    errors: dict[str, str] = {}
    if any(name in rule for name in _PORTS) and "proto" not in rule:
        port = next(name for name in _PORTS if name in rule)
        errors["proto"] = f"missing property - '{port}' requires this property"
    for name in ("source", "dest"):
        if problem := _address_problem(str(rule.get(name, ""))):
            errors[name] = problem
    if errors:
        raise rejected(errors)


def _address_problem(value: str) -> str:
    if not value or value[0] == "+" or (value[:1].isalpha() and ":" not in value):
        return ""  # a set, an alias
    try:
        versions = {ipaddress.ip_network(one, strict=False).version for one in value.split(",")}
    except ValueError:
        return f"invalid IP address or range: '{value}'"
    if len(versions) > 1:
        return f"detected mixed ipv4/ipv6 addresses in address list '{value}'"
    return ""


# Options -------------------------------------------------------------------------------------


def _options(ask: Ask, key: str) -> dict[str, Any]:
    usual = {"enable": 0} if key == CLUSTER else {}
    return {**usual, **ask.world.firewall_options.get(key, {}), "digest": _digest(ask.world, key)}


def _set_options(ask: Ask, key: str) -> None:
    _require_digest(ask, key)
    options = ask.world.firewall_options.setdefault(key, {})
    options.update(_given(ask))
    for name in split_list(ask.args.get("delete", "")):
        options.pop(name, None)


# Declarations --------------------------------------------------------------------------------


def _of(work: Any, level: GuestType | str) -> Handler:
    """Return the handler for the cluster's, a node's, a guest's or a group's own."""

    def handle(ask: Ask) -> Any:
        match level:
            case "qemu" | "lxc":
                return work(ask, str(the_guest(ask, level).vmid))
            case "node":
                return work(ask, ask.node)
            case "group":
                name = ask.args["group"]
                if name not in ask.world.firewall_names[CLUSTER].groups:
                    raise failed(f"no such security group '{name}'")
                return work(ask, f"group {name}")
            case _:
                return work(ask, CLUSTER)

    return handle


_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug", "nolog")
_DIGEST = text("digest", "Refuse when the configuration has changed.", max_length=64)
_POS = PATH_PARAMETERS["pos"]
_ACTION = {"pattern": r"[A-Za-z][A-Za-z0-9\-\_]+", "min_length": 2, "max_length": 20}
_GONE = text("delete", "Properties to remove.", format="pve-configid-list")


def _rule_parameters(*, new: bool) -> tuple[Parameter, ...]:
    return (
        text("action", "What happens.", optional=not new, **_ACTION),
        choice("type", "Direction.", ("in", "out", "forward", "group"), optional=not new),
        text("comment", "Notes."),
        text("dest", "To these addresses.", format="pve-fw-addr-spec", max_length=512),
        text("source", "From these addresses.", format="pve-fw-addr-spec", max_length=512),
        text("dport", "To these ports.", format="pve-fw-dport-spec"),
        text("sport", "From these ports.", format="pve-fw-sport-spec"),
        whole("enable", "Whether the rule counts.", minimum=0),
        text("icmp-type", "Kind of ICMP.", format="pve-fw-icmp-type-spec"),
        text("iface", "Interface.", format="pve-iface", min_length=2, max_length=20),
        choice("log", "Level of the log.", _LEVELS),
        text("macro", "A known service.", max_length=128),
        text("proto", "Protocol.", format="pve-fw-protocol-spec"),
        _DIGEST,
        _POS,
    )


_RATE = {
    "burst": {"type": "integer", "optional": 1, "minimum": 0, "default": 5},
    "enable": {"type": "boolean", "default_key": 1, "default": "1"},
    "rate": {"type": "string", "optional": 1, "pattern": r"[1-9][0-9]*\/(second|minute|hour|day)"},
}
_POLICIES = ("ACCEPT", "REJECT", "DROP")
_CLUSTER_OPTIONS = (
    whole("enable", "Whether the firewall is on.", minimum=0, default=0),
    flag("ebtables", "Rules of bridges too.", default=1),
    text("log_ratelimit", "Bounds of the log.", format=_RATE),
    choice("policy_forward", "What else is forwarded.", ("ACCEPT", "DROP")),
    choice("policy_in", "What else comes in.", _POLICIES),
    choice("policy_out", "What else goes out.", _POLICIES),
)
_NODE_OPTIONS = (
    *(flag(name, "Whether it is on.", default=usual) for name, usual in
      (("enable", 1), ("log_nf_conntrack", 0), ("ndp", 1), ("nf_conntrack_allow_invalid", 0),
       ("nftables", 0), ("nosmurfs", None), ("protection_synflood", 0), ("tcpflags", 0))),
    *(choice(name, "Level of the log.", _LEVELS) for name in
      ("log_level_forward", "log_level_in", "log_level_out", "smurf_log_level",
       "tcp_flags_log_level")),
    whole("nf_conntrack_max", "Connections.", minimum=32768),
    whole("nf_conntrack_tcp_timeout_established", "Seconds.", minimum=7875),
    whole("nf_conntrack_tcp_timeout_syn_recv", "Seconds.", minimum=30, maximum=60),
    whole("protection_synflood_burst", "Packets."),
    whole("protection_synflood_rate", "Packets a second."),
    text("nf_conntrack_helpers", "Helpers.", format="pve-fw-conntrack-helper"),
)  # fmt: skip


_GUEST_OPTIONS = (
    *(flag(name, "Whether it is on.", default=usual) for name, usual in
      (("enable", 0), ("dhcp", 0), ("ipfilter", None), ("macfilter", 1), ("ndp", 1),
       ("radv", None))),
    *(choice(name, "Level of the log.", _LEVELS) for name in ("log_level_in", "log_level_out")),
    *(choice(name, "What else passes.", _POLICIES) for name in ("policy_in", "policy_out")),
)  # fmt: skip
_GROUP = text("group", "The group.", optional=False, min_length=2, max_length=18,
              pattern=r"[A-Za-z][A-Za-z0-9\-\_]+")  # fmt: skip


def _all_options(
    path: str, level: str, audit: Permissions, modify: Permissions, known: tuple[Parameter, ...]
) -> list[Endpoint]:
    return [
        endpoint("GET", f"{path}/options", _of(_options, level), about="Firewall settings.",
                 permissions=audit, returns="object"),
        endpoint("PUT", f"{path}/options", _of(_set_options, level), about="Change settings.",
                 permissions=modify, protected=True, parameters=(*known, _DIGEST, _GONE)),
    ]  # fmt: skip


def _all_rules(
    path: str, level: str, audit: Permissions, modify: Permissions, *named: Parameter
) -> list[Endpoint]:
    rule = f"{path}/{{pos}}"
    return [
        endpoint("GET", path, _of(_rules, level), about="Firewall rules.", permissions=audit,
                 parameters=named, returns=index("pos", "type", "action")),
        endpoint("POST", path, _of(_create, level), about="Add a rule on top.",
                 permissions=modify, protected=True,
                 parameters=(*named, *_rule_parameters(new=True))),
        endpoint("GET", rule, _of(_rule, level), about="A firewall rule.", permissions=audit,
                 parameters=(*named, _POS), returns="object"),
        endpoint("PUT", rule, _of(_update, level), about="Change a rule.", permissions=modify,
                 protected=True,
                 parameters=(*named, *_rule_parameters(new=False), _GONE,
                             whole("moveto", "Move it before that one.", minimum=0))),
        endpoint("DELETE", rule, _of(_delete, level), about="Remove a rule.", permissions=modify,
                 protected=True, parameters=(*named, _POS, _DIGEST)),
    ]  # fmt: skip


def _host_level(path: str, level: str, acl: str, options: tuple[Parameter, ...]) -> list[Endpoint]:
    rights = perm(acl, "Sys.Audit"), perm(acl, "Sys.Modify")
    rules = _all_rules(f"{path}/rules", level, *rights)
    return [*_all_options(path, level, *rights, options), *rules]


def _guest_level(type_: GuestType) -> list[Endpoint]:
    path = f"/nodes/{{node}}/{type_}/{{vmid}}/firewall"
    rights = perm("/vms/{vmid}", "VM.Audit"), perm("/vms/{vmid}", "VM.Config.Network")
    return [
        endpoint("GET", path, listing("rules", "aliases", "ipset", "refs", "options", key="name"),
                 about="What there is.", returns=index("name"), local=True),
        *_all_options(path, type_, *rights, _GUEST_OPTIONS),
        *_all_rules(f"{path}/rules", type_, *rights),
    ]  # fmt: skip


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/cluster/firewall", listing("aliases", "rules", "options", "groups", "ipset",
                                                 "macros", "refs", key="name"),
             about="What there is.", returns=index("name")),
    *_host_level("/cluster/firewall", CLUSTER, "/", _CLUSTER_OPTIONS),
    *_host_level(f"{_NODE}/firewall", "node", _NODE, _NODE_OPTIONS),
    *_guest_level("qemu"),
    *_guest_level("lxc"),
    *_all_rules("/cluster/firewall/groups/{group}", "group", perm("/", "Sys.Audit"),
                perm("/", "Sys.Modify"), _GROUP),
)  # fmt: skip
