"""The published permission tree of a method, applied to a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pvemcp.pve.schema import Method
from pvemcp.sim.permissions import NOBODY, Access, Identity, normal_path
from pvemcp.sim.refusal import Refusal, forbidden


def authorise(access: Access, who: Identity, method: Method, given: Mapping[str, Any]) -> None:
    """Refuse (401 or 403) what the caller may not do; `given` are unchecked parameters."""
    permissions = method.permissions
    if permissions is not None and permissions.get("user") == "world":
        return
    if who == NOBODY:
        raise Refusal(401, "No ticket", body="none")
    if who.token and not method.allow_token:
        raise forbidden(
            f"URI '{_fill(method.path, given)}' not available with API token, need proper ticket.\n"
        )
    if who.is_root or (permissions is not None and permissions.get("user") == "all"):
        return
    if permissions is None:
        raise forbidden("user != root@pam")
    _require(access, who, permissions["check"], given)


def _require(access: Access, who: Identity, check: Sequence[Any], given: Mapping[str, Any]) -> None:
    kind, *rest = check
    if kind == "or":
        if not any(holds(access, who, part, given) for part in rest):
            raise forbidden()
    elif kind == "and":
        for part in rest:
            _require(access, who, part, given)
    else:
        _CHECKS[kind](access, who, rest, given)


def holds(access: Access, who: Identity, check: Sequence[Any], given: Mapping[str, Any]) -> bool:
    """Whether one part of a permission tree is satisfied."""
    try:
        _require(access, who, check, given)
    except Refusal:
        return False
    return True


def _perm(access: Access, who: Identity, check: Sequence[Any], given: Mapping[str, Any]) -> None:
    template, privileges, *pairs = check
    options = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if (needed := options.get("require_param")) and needed not in given:
        raise forbidden()
    path = normal_path(_fill(template, given))
    any_of = bool(options.get("any"))
    if not path:
        # Seen on PVE 9.1: a value that cannot stand in an ACL path is refused with an empty one.
        raise forbidden(f", {'|'.join(privileges) if any_of else privileges[0]}")
    for group in [privileges] if any_of else [[name] for name in privileges]:
        if not access.allows(who, path, group, any_of=True):
            raise forbidden(f"{path}, {'|'.join(group)}")


def _userid(access: Access, who: Identity, rest: Sequence[Any], given: Mapping[str, Any]) -> None:
    userid = str(given.get("userid", ""))
    if rest[0] == "self":
        if who.id != userid:
            raise forbidden()
        return
    realm = userid.rpartition("@")[2]
    if not access.allows(who, f"/access/realm/{realm}", ["Realm.AllocateUser"]):
        raise forbidden(f"/access/realm/{realm}, Realm.AllocateUser")


def _userid_group(
    access: Access, who: Identity, rest: Sequence[Any], given: Mapping[str, Any]
) -> None:
    privileges = rest[0]
    user = access.users.get(str(given.get("userid", "")))
    groups = [f"/access/groups/{group}" for group in (user.groups if user else ())]
    paths = ["/access/groups", *groups]
    if not any(access.allows(who, path, privileges, any_of=True) for path in paths):
        raise forbidden(f"/access/groups, {'|'.join(privileges)}")


_MAY_GRANT = {"vms": "VM.Allocate", "storage": "Datastore.Allocate", "pool": "Pool.Allocate"}


def _perm_modify(
    access: Access, who: Identity, rest: Sequence[Any], given: Mapping[str, Any]
) -> None:
    clean = normal_path(_fill(rest[0], given))
    first = clean.strip("/").partition("/")[0]
    wanted = ["Permissions.Modify", *([_MAY_GRANT[first]] if first in _MAY_GRANT else [])]
    if not access.allows(who, clean, wanted, any_of=True):
        raise forbidden(f"{clean}, {'|'.join(wanted)}")


_CHECKS: Mapping[str, Callable[[Access, Identity, Sequence[Any], Mapping[str, Any]], None]] = {
    "perm": _perm,
    "userid-param": _userid,
    "userid-group": _userid_group,
    "perm-modify": _perm_modify,
}


def _fill(template: str, given: Mapping[str, Any]) -> str:
    if "{" not in template:
        return template
    parts = (
        str(given.get(part[1:-1], "")) if part.startswith("{") else part
        for part in template.split("/")
    )
    return "/".join(parts)
