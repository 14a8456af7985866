"""What rules of the firewall call by name: aliases, address sets, security groups."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import Ask, Endpoint, Handler, endpoint, flag, index, perm, text
from pvemcp.sim.firewall import CLUSTER
from pvemcp.sim.guests import the_guest
from pvemcp.sim.refusal import failed, rejected
from pvemcp.sim.world import FirewallNames, GuestType

_ALIAS_PATTERN = r"[A-Za-z][A-Za-z0-9\-\_]+"


def _names(ask: Ask, level: GuestType | str) -> FirewallNames:
    """Return the names of the cluster, or of the guest in the path."""
    key = str(the_guest(ask, level).vmid) if level in ("qemu", "lxc") else CLUSTER
    return ask.world.firewall_names[key]


def _listed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = list(rows)
    digest = hashlib.sha1(repr(rows).encode(), usedforsecurity=False).hexdigest()
    return [{**row, "digest": digest} for row in rows]


def _require_digest(ask: Ask, rows: Iterable[dict[str, Any]]) -> None:
    given, listed = ask.args.get("digest"), _listed(rows)
    if given and listed and given != listed[0]["digest"]:
        raise failed("detected modified configuration - file changed by other user? Try again.")


def _comment(ask: Ask) -> dict[str, str]:
    return {"comment": ask.args["comment"]} if ask.args.get("comment") else {}


# Aliases -------------------------------------------------------------------------------------


def _alias_rows(names: FirewallNames) -> list[dict[str, Any]]:
    return [names.aliases[key] for key in sorted(names.aliases)]


def _alias(ask: Ask, names: FirewallNames) -> dict[str, Any]:
    found = names.aliases.get(ask.args["name"].lower())
    if found is None:
        raise rejected({"name": "no such alias"})
    return found


def _given_alias(ask: Ask, name: str) -> dict[str, Any]:
    """Return an alias as it is given: what is left out is gone."""
    cidr = ask.args["cidr"]
    version = ipaddress.ip_network(cidr, strict=False).version
    return {"name": name, "cidr": cidr, "ipversion": version, **_comment(ask)}


def _make_alias(ask: Ask, names: FirewallNames) -> None:
    name = ask.args["name"]
    if name.lower() in names.aliases:
        raise rejected({"name": f"alias '{name}' already exists"})
    names.aliases[name.lower()] = _given_alias(ask, name)


def _set_alias(ask: Ask, names: FirewallNames) -> None:
    _require_digest(ask, _alias_rows(names))
    _alias(ask, names)
    name, new = ask.args["name"], ask.args.get("rename") or ask.args["name"]
    if new.lower() != name.lower() and new.lower() in names.aliases:
        raise rejected({"name": f"alias '{new}' already exists"})
    del names.aliases[name.lower()]
    names.aliases[new.lower()] = _given_alias(ask, new)


def _drop_alias(ask: Ask, names: FirewallNames) -> None:
    _require_digest(ask, _alias_rows(names))
    names.aliases.pop(ask.args["name"].lower(), None)


# Address sets --------------------------------------------------------------------------------


def _set_rows(names: FirewallNames) -> list[dict[str, Any]]:
    said = names.comments
    return [
        {"name": each, **({"comment": said[each]} if said.get(each) else {})}
        for each in sorted(names.sets)
    ]


def _make_set(ask: Ask, names: FirewallNames) -> None:
    """Make a set, or give one another name: `rename` is the name that it had."""
    name, old = ask.args["name"], ask.args.get("rename")
    if old:
        _require_digest(ask, _set_rows(names))
        if old not in names.sets:
            raise rejected({"name": f"IPSet '{old}' does not exist"})
        if name in names.sets and name != old:
            raise rejected({"name": f"IPSet '{name}' does already exist"})
        names.sets[name.lower()] = names.sets.pop(old)
        names.comments[name.lower()] = names.comments.pop(old, "")
    elif name in names.sets:
        raise rejected({"name": f"IPSet '{name}' already exists"})
    else:
        names.sets[name.lower()] = {}
    if "comment" in ask.args:
        names.comments[name.lower()] = ask.args["comment"]


def _drop_set(ask: Ask, names: FirewallNames) -> None:
    if _entries(ask, names) and not ask.args.get("force"):
        raise failed(f"IPSet '{ask.args['name']}' is not empty")
    del names.sets[ask.args["name"]]
    names.comments.pop(ask.args["name"], None)


def _entries(ask: Ask, names: FirewallNames) -> dict[str, dict[str, Any]]:
    name = ask.args["name"]
    if name not in names.sets:
        raise failed(f"no such IPSet '{name}'")
    return names.sets[name]


def _entry_rows(ask: Ask, names: FirewallNames) -> list[dict[str, Any]]:
    entries = _entries(ask, names)
    return [entries[cidr] for cidr in sorted(entries)]


def _entry(ask: Ask, names: FirewallNames) -> dict[str, Any]:
    found = [row for row in _listed(_entry_rows(ask, names)) if row["cidr"] == ask.args["cidr"]]
    if not found:
        raise rejected({"cidr": "no such IP/Network"})
    return found[0]


def _given_entry(ask: Ask, cidr: str) -> dict[str, Any]:
    return {"cidr": cidr, **({"nomatch": 1} if ask.args.get("nomatch") else {}), **_comment(ask)}


def _make_entry(ask: Ask, names: FirewallNames) -> None:
    entries = _entries(ask, names)
    cidr = ask.args["cidr"].removesuffix("/32").removesuffix("/128")
    if cidr in entries:
        raise rejected({"cidr": f"address '{cidr}' already exists"})
    entries[cidr] = _given_entry(ask, cidr)


def _set_entry(ask: Ask, names: FirewallNames) -> None:
    """Write an entry as it is given: what is left out is gone."""
    _require_digest(ask, _entry_rows(ask, names))
    cidr = _entry(ask, names)["cidr"]
    _entries(ask, names)[cidr] = _given_entry(ask, cidr)


def _drop_entry(ask: Ask, names: FirewallNames) -> None:
    _require_digest(ask, _entry_rows(ask, names))
    _entries(ask, names).pop(ask.args["cidr"], None)


# Security groups -----------------------------------------------------------------------------


def _group_rows(names: FirewallNames) -> list[dict[str, Any]]:
    return [
        {"group": name, **({"comment": names.groups[name]} if names.groups[name] else {})}
        for name in sorted(names.groups)
    ]


def _make_group(ask: Ask, names: FirewallNames) -> None:
    """Make a group, or give one another name: `rename` is the name that it had."""
    name, old = ask.args["group"], ask.args.get("rename")
    if old:
        _require_digest(ask, _group_rows(names))
        if old not in names.groups:
            raise rejected({"group": f"Security group '{old}' does not exist"})
        if name in names.groups and name != old:
            raise rejected({"group": f"Security group '{name}' does already exist"})
        _rename_group(ask, names, old, name.lower())
    elif name in names.groups:
        raise rejected({"group": f"Security group '{name}' already exists"})
    else:
        names.groups[name.lower()] = ""
    if "comment" in ask.args:
        names.groups[name.lower()] = ask.args["comment"]


def _rename_group(ask: Ask, names: FirewallNames, old: str, new: str) -> None:
    firewall = ask.world.firewall
    names.groups[new] = names.groups.pop(old)
    firewall[f"group {new}"] = firewall.pop(f"group {old}", [])
    for rules in firewall.values():
        for rule in rules:
            if rule["type"] == "group" and rule["action"] == old:
                rule["action"] = new


def _drop_group(ask: Ask, names: FirewallNames) -> None:
    name = ask.args["group"]
    if ask.world.firewall.get(f"group {name}"):
        raise failed(f"Security group '{name}' is not empty")
    names.groups.pop(name, None)
    ask.world.firewall.pop(f"group {name}", None)


# Declarations --------------------------------------------------------------------------------


def _of(work: Any, level: GuestType | str) -> Handler:
    return lambda ask: work(ask, _names(ask, level))


def _list_of(rows: Any, level: GuestType | str) -> Handler:
    return lambda ask: _listed(rows(_names(ask, level)))


def _name(
    about: str, name: str = "name", *, optional: bool = False, longest: int = 64
) -> Parameter:
    return text(name, about, optional=optional, pattern=_ALIAS_PATTERN, min_length=2,
                max_length=longest)  # fmt: skip


_DIGEST = text("digest", "Refuse when the configuration has changed.", max_length=64)
_NOTES = text("comment", "Notes.")
_CIDR = text("cidr", "Address or network.", optional=False, format="IPorCIDR")
_MEMBER = text("cidr", "Address, network or alias.", optional=False, format="IPorCIDRorAlias")
_NOMATCH = flag("nomatch", "Leave it out of the set.")
_OLD = _name("The name that it had.", "rename", optional=True)


def _lists(path: str, level: GuestType | str, acl: str, see: str, change: str) -> list[Endpoint]:
    audit, modify = perm(acl, see), perm(acl, change)
    name = _name("The name.")
    alias, one = f"{path}/aliases", f"{path}/aliases/{{name}}"
    sets, inside, entry = (f"{path}/ipset{end}" for end in ("", "/{name}", "/{name}/{cidr}"))
    return [
        endpoint("GET", alias, _list_of(_alias_rows, level), about="Aliases.", permissions=audit,
                 returns=index("name")),
        endpoint("POST", alias, _of(_make_alias, level), about="Make an alias.",
                 permissions=modify, protected=True, parameters=(name, _CIDR, _NOTES)),
        endpoint("GET", one, _of(_alias, level), about="An alias.", permissions=audit,
                 parameters=(name,), returns="object"),
        endpoint("PUT", one, _of(_set_alias, level), about="Write an alias.", permissions=modify,
                 protected=True, parameters=(name, _CIDR, _NOTES, _OLD, _DIGEST)),
        endpoint("DELETE", one, _of(_drop_alias, level), about="Remove an alias.",
                 permissions=modify, protected=True, parameters=(name, _DIGEST)),
        endpoint("GET", sets, _list_of(_set_rows, level), about="Address sets.",
                 permissions=audit, returns=index("name")),
        endpoint("POST", sets, _of(_make_set, level), about="Make or rename an address set.",
                 permissions=modify, protected=True, parameters=(name, _NOTES, _OLD, _DIGEST)),
        endpoint("GET", inside, lambda ask: _listed(_entry_rows(ask, _names(ask, level))),
                 about="What is in an address set.", permissions=audit, parameters=(name,),
                 returns=index("cidr")),
        endpoint("POST", inside, _of(_make_entry, level), about="Add to an address set.",
                 permissions=modify, protected=True,
                 parameters=(name, _MEMBER, _NOTES, _NOMATCH)),
        endpoint("DELETE", inside, _of(_drop_set, level), about="Remove an address set.",
                 permissions=modify, protected=True,
                 parameters=(name, flag("force", "With all that is in it."))),
        endpoint("GET", entry, _of(_entry, level), about="An entry.", permissions=audit,
                 protected=True, parameters=(name, _MEMBER), returns="object"),
        endpoint("PUT", entry, _of(_set_entry, level), about="Write an entry.",
                 permissions=modify, protected=True,
                 parameters=(name, _MEMBER, _NOTES, _NOMATCH, _DIGEST)),
        endpoint("DELETE", entry, _of(_drop_entry, level), about="Remove an entry.",
                 permissions=modify, protected=True, parameters=(name, _MEMBER, _DIGEST)),
    ]  # fmt: skip


def _guests(type_: GuestType) -> list[Endpoint]:
    path = f"/nodes/{{node}}/{type_}/{{vmid}}/firewall"
    return _lists(path, type_, "/vms/{vmid}", "VM.Audit", "VM.Config.Network")


_GROUPS = "/cluster/firewall/groups"
_GROUP = _name("The group.", "group", longest=18)

ENDPOINTS: tuple[Endpoint, ...] = (
    *_lists("/cluster/firewall", CLUSTER, "/", "Sys.Audit", "Sys.Modify"),
    *_guests("qemu"),
    *_guests("lxc"),
    endpoint("GET", _GROUPS, _list_of(_group_rows, CLUSTER), about="Security groups.",
             returns=index("group")),
    endpoint("POST", _GROUPS, _of(_make_group, CLUSTER), about="Make or rename a group.",
             permissions=perm("/", "Sys.Modify"), protected=True,
             parameters=(_GROUP, _NOTES, _DIGEST,
                         _name("The name that it had.", "rename", optional=True, longest=18))),
    endpoint("DELETE", f"{_GROUPS}/{{group}}", _of(_drop_group, CLUSTER),
             about="Remove an empty group.", permissions=perm("/", "Sys.Modify"),
             protected=True, parameters=(_GROUP,)),
)  # fmt: skip
