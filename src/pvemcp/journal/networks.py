"""Interfaces of a node and subnets of SDN: what PVE shows is not what it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvemcp.journal.change import Recipe, Request, State, never
from pvemcp.journal.subject import Facts, Subject, absent_or, flat
from pvemcp.pve.client import Pve

_NETWORK = "/nodes/{node}/network"
_IFACE = f"{_NETWORK}/{{iface}}"
_SUBNETS = "/cluster/sdn/vnets/{vnet}/subnets"
_SUBNET = f"{_SUBNETS}/{{subnet}}"
_RUNTIME = ("active", "exists", "priority", "families")
"""What an interface shows of the running system, or derives from the rest."""
_DERIVED = re.compile(r"(?:address|netmask|method)6?")
"""Said by `cidr`, with which PVE refuses to be told them again."""
_METHODS = ("static", "manual")
_USUAL = {"bridge_stp": "off", "bridge_fd": "0"}
"""What PVE writes itself for every bridge."""


def network_subject(verb: str, template: str, params: Mapping[str, Any]) -> Subject | None:
    """Return the subject of an interface or a subnet."""
    if template == _IFACE or (verb, template) == ("POST", _NETWORK):
        return _interface(params)
    if (verb, template) == ("POST", _SUBNETS):
        return _new_subnet(params)
    return _subnet(params) if template == _SUBNET else None


# Interfaces ----------------------------------------------------------------------------------


def _interface(params: Mapping[str, Any]) -> Subject:
    node, iface = str(params["node"]), str(params["iface"])

    async def read(pve: Pve) -> State:
        found = flat(await absent_or(pve, _IFACE, node=node, iface=iface))
        return {key: value for key, value in found.items() if key not in _RUNTIME}

    return Subject("network", f"{node}/{iface}", read, _interface_undo)


def _interface_undo(facts: Facts) -> Recipe:
    """Write all former settings: a PUT without the address makes PVE set the method to manual.

    Read in the source of PVE's update of an interface.
    """
    folder = facts.path if facts.verb == "POST" else facts.path.rpartition("/")[0]
    path = f"{folder}/{facts.text('iface')}"
    if not facts.before:
        return Recipe((Request("DELETE", path),)) if facts.after else never("it was not made")
    method = facts.description.method("POST", _NETWORK)
    settable = {p.name for p in method.parameters} if method else set()
    settings = {k: _plain(v) for k, v in facts.before.items() if k in settable}
    settings = {k: v for k, v in settings.items() if not _DERIVED.fullmatch(k)}
    lost = _methods_lost(facts.before)
    if facts.after:
        gone = [k for k in facts.after if k in settable and k not in facts.before]
        gone = [k for k in gone if not _DERIVED.fullmatch(k)]
        more = {"delete": ",".join(gone)} if gone else {}
        first = Request("PUT", path, {**settings, **more})
    else:
        first = Request("POST", folder, {"iface": facts.text("iface"), **settings})
        lost += _unsettable(facts.before, settable)
    return Recipe((first, *_manual_again(facts.before, path, settings)), lost)


def _manual_again(before: State, path: str, settings: State) -> tuple[Request, ...]:
    """Take the use of an address away again, which the request with it has brought."""
    unused = [f"cidr{six}" for six in ("", "6") if before.get(f"method{six}") == "manual"]
    if not any(name in settings for name in unused):
        return ()
    return (Request("PUT", path, {k: v for k, v in settings.items() if k not in unused}),)


def _methods_lost(before: State) -> tuple[str, ...]:
    names = [n for n in ("method", "method6") if before.get(n, "manual") not in _METHODS]
    return tuple(f"{name} {before[name]}: PVE's API cannot set it" for name in names)


def _unsettable(before: State, settable: set[str]) -> tuple[str, ...]:
    odd = [k for k, v in before.items() if k not in settable and _USUAL.get(k) != v]
    return tuple(f"{k}: PVE's API cannot set it" for k in odd if not _DERIVED.fullmatch(k))


def _plain(value: Any) -> Any:
    """Return a value as PVE takes it: it shows notes with a line's end behind them."""
    return value.rstrip("\n") if isinstance(value, str) else value


# Subnets -------------------------------------------------------------------------------------


def _new_subnet(params: Mapping[str, Any]) -> Subject:
    """A new subnet gets an id of its zone and its network, so it is found in the list."""
    vnet = str(params["vnet"])

    async def read(pve: Pve) -> State:
        rows = await pve.get(_SUBNETS, vnet=vnet) or []
        return {str(row["subnet"]): _known(row) for row in rows}

    return Subject("sdn subnets", f"{vnet}/{params['subnet']}", read, _subnet_unmade)


def _subnet(params: Mapping[str, Any]) -> Subject:
    vnet, subnet = str(params["vnet"]), str(params["subnet"])

    async def read(pve: Pve) -> State:
        return _known(await absent_or(pve, _SUBNET, vnet=vnet, subnet=subnet))

    return Subject("sdn subnets", f"{vnet}/{subnet}", read, _subnet_undo)


def _known(found: Any) -> State:
    """Return a subnet with its DHCP ranges as PVE takes them: it gives objects."""
    state = flat(found)
    ranges = state.pop("dhcp-range", None) or []
    texts = [",".join(f"{k}={one[k]}" for k in sorted(one, reverse=True)) for one in ranges]
    return {**state, "dhcp-range": texts} if texts else state


def _subnet_unmade(facts: Facts) -> Recipe:
    made = [name for name in facts.after if name not in facts.before]
    if len(made) != 1:
        return never("which one was made could not be told")
    return Recipe((Request("DELETE", f"{facts.path}/{made[0]}"),), keys=(made[0],))


def _subnet_undo(facts: Facts) -> Recipe:
    verb, template = ("PUT", _SUBNET) if facts.after else ("POST", _SUBNETS)
    method = facts.description.method(verb, template)
    if method is None or not facts.before:
        return never("the former values could not be seen")
    settable = {p.name for p in method.parameters} - {"vnet", "subnet", "digest"}
    settings = {k: v for k, v in facts.before.items() if k in settable}
    if not facts.after:
        given = {"subnet": facts.before["cidr"], **settings}
        return Recipe((Request("POST", facts.path.rpartition("/")[0], given),))
    gone = [k for k in facts.after if k in settable and k not in facts.before]
    more = {"delete": ",".join(gone)} if gone else {}
    return Recipe((Request("PUT", facts.path, {**settings, **more}),))
