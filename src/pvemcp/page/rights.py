"""What PVE would ask of a person for the writes of a plan, and what of it the person lacks.

The API description says it for most methods. Where PVE checks in its code alone, the rule stands
here, no milder than PVE's; what nobody wrote a rule for wants Sys.Modify on /.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pvemcp.page.coded import RULES, guests_use
from pvemcp.page.needs import NOBODY, ROOT, STRICTEST, Choice, Need, Needs, both
from pvemcp.pve.description import Description

SERVICE = "pvemcp@pve"
"""The account that the clients' tokens belong to: not a person's."""
_HOLE = re.compile(r"\{([^{}]+)\}")
_CONFIG = re.compile(r"/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}/config")

Held = Callable[[str], Awaitable[frozenset[str]]]
"""Returns the privileges that a person holds on an ACL path."""
Write = Mapping[str, Any]


async def missing(
    person: str, writes: Sequence[Write], description: Description, held: Held
) -> list[str]:
    """Return what a person lacks to make these writes, one line each; nothing: may approve."""
    lines: list[str] = []
    for write in writes or [{}]:
        choices = needs(person, write, description)
        lacks = [await _lacking(person, choice, held) for choice in choices]
        if lacks and all(lacks):
            lines.append(", or ".join(" and ".join(map(str, one)) for one in lacks))
    return list(dict.fromkeys(lines))


async def _lacking(person: str, choice: Choice, held: Held) -> list[Need]:
    return [need for need in choice if not await _met(person, need, held)]


async def _met(person: str, need: Need, held: Held) -> bool:
    if person == ROOT:
        return True
    if not need.path:
        return False
    have = await held(need.path)
    return (any if need.any else all)(name in have for name in need.names)


def needs(person: str, write: Write, description: Description) -> Needs:
    """Return what PVE asks for one write."""
    if write.get("verb") == "RUN":
        return _command(write)
    template = str(write.get("template", ""))
    own = RULES.get(f"{write.get('verb')} {template}")
    method = description.method(str(write.get("verb", "")), template)
    if own is not None:
        found = own(_given(write))
    elif method is None:
        found = STRICTEST
    elif not method.permissions:
        found = ((NOBODY,),)
    elif "check" in method.permissions:
        found = _tree(method.permissions["check"], person, write)
    else:
        found = STRICTEST
    return both(found or STRICTEST, guests_use(template, _given(write)))


def _command(write: Write) -> Needs:
    """A command changes a node as its shell does, and a guest as its agent does."""
    if vmid := write.get("vmid"):
        return ((Need(f"/vms/{vmid}", ("VM.GuestAgent.Unrestricted", "VM.Monitor"), any=True),),)
    node = str(write.get("node") or "")
    return ((Need(f"/nodes/{node}".rstrip("/"), ("Sys.Modify", "Sys.Console")),),)


def _given(write: Write) -> dict[str, str]:
    given = {str(name): str(value) for name, value in (write.get("given") or {}).items()}
    if write.get("vmid") and "vmid" not in given:
        given["vmid"] = str(write["vmid"])
    return given


# PVE's own trees ------------------------------------------------------------------------------


def _tree(check: Sequence[Any], person: str, write: Write) -> Needs:
    given = _given(write)
    match check:
        case ["and", *parts]:
            found: Needs = ((),)
            for part in parts:
                found = both(found, _tree(part, person, write))
            return found
        case ["or", *parts]:
            return tuple(choice for part in parts for choice in _tree(part, person, write))
        case ["perm", str(path), list(names), *options]:
            return _perm(path, names, options, write)
        case _:
            return _account(check, person, given)


def _account(check: Sequence[Any], person: str, given: Mapping[str, str]) -> Needs:
    """Return what PVE asks for a write to an account, or to an access list."""
    match check:
        case ["userid-param", "self"]:
            return ((),) if given.get("userid") == person else ()
        case ["userid-param", str(name)]:
            realm = given.get("userid", "").rpartition("@")[2]
            return ((Need(f"/access/realm/{realm}", (name,)),),)
        case ["userid-group", list(names), *_]:
            return ((Need("/access/groups", tuple(names)),),)
        case ["perm-modify", str(path)]:
            filled = _filled(path, given)
            return ((Need(filled, ("Permissions.Modify",)),),) if filled else STRICTEST
        case _:
            return STRICTEST


def _perm(path: str, names: list[str], options: list[Any], write: Write) -> Needs:
    given = _given(write)
    more = dict(zip(options[::2], options[1::2], strict=False))
    if (wanted := more.get("require_param")) and wanted not in given:
        return ()
    filled = _filled(path, given)
    if not filled:
        return STRICTEST
    # PVE asks for one of these at first, and for each changed option's own one later: all then.
    single = bool(more.get("any")) and not _CONFIG.fullmatch(str(write.get("template")))
    return ((Need(filled, tuple(names), any=single),),)


def _filled(path: str, given: Mapping[str, str]) -> str:
    """Fill in a path's placeholders; empty when a value is not known."""
    if any(not given.get(name) for name in _HOLE.findall(path)):
        return ""
    return _HOLE.sub(lambda hole: given[hole[1]], path)
