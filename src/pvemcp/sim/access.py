"""Rights over the API: effective permissions, roles, access control lists."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.declare import PATH_PARAMETERS, Ask, Endpoint, endpoint, flag, index, perm, text
from pvemcp.sim.permissions import Kind, normal_path
from pvemcp.sim.refusal import failed, forbidden, rejected
from pvemcp.sim.roles import BUILT_IN, PRIVILEGES
from pvemcp.sim.validate import split_list

_AUTH_ID = (
    r"(?^:^(?^:[^\s:/]+)\@(?^:[A-Za-z][A-Za-z0-9\.\-_]+)(?:!(?^:[A-Za-z][A-Za-z0-9\.\-_]+))?$)"
)


def _permissions(ask: Ask) -> dict[str, Any]:
    access = ask.world.access
    wanted = ask.args.get("userid") or ask.who.id
    own = wanted == ask.who.id or wanted.startswith(f"{ask.who.id}!")
    if not own and not ask.may("/access", "Sys.Audit"):
        raise forbidden("/access, Sys.Audit")
    who = access.identity(wanted)
    if who.user not in access.users:
        raise rejected({"userid": f"no such user ('{who.user}')"})
    path = ask.args.get("path")
    pooled = {f"/storage/{name}" for pool in ask.world.pools.values() for name in pool.storages}
    paths = [normal_path(path)] if path else sorted({*access.known_paths(), *pooled})
    found = {path: access.privileges(who, path) for path in paths if path}
    return {
        path: {name: int(flag) for name, flag in sorted(held.items())}
        for path, held in found.items()
        if held
    }


# Roles ---------------------------------------------------------------------------------------


def _roles(ask: Ask) -> list[dict[str, Any]]:
    built_in = [_role_row(name, privs, special=1) for name, privs in BUILT_IN.items()]
    custom = ask.world.access.custom_roles.items()
    return [*built_in, *(_role_row(name, privs, special=0) for name, privs in custom)]


def _role_row(name: str, privileges: frozenset[str], *, special: int) -> dict[str, Any]:
    return {"roleid": name, "privs": ",".join(sorted(privileges)), "special": special}


def _get_role(ask: Ask) -> dict[str, int]:
    privileges = ask.world.access.role(ask.args["roleid"])
    if privileges is None:
        raise failed(f"role '{ask.args['roleid']}' does not exist")
    return dict.fromkeys(sorted(privileges), 1)


def _named_privileges(ask: Ask) -> frozenset[str]:
    names = frozenset(split_list(ask.args.get("privs", "")))
    for name in sorted(names - PRIVILEGES):
        raise rejected({"privs": f"invalid format - invalid privilege '{name}'\n"})
    return names


def _create_role(ask: Ask) -> None:
    access, name = ask.world.access, ask.args["roleid"]
    if access.role(name) is not None:
        raise failed(f"create role failed: role '{name}' already exists")
    if name.lower().startswith("pve"):
        raise failed("create role failed: role name may not start with 'PVE'")
    access.custom_roles[name] = _named_privileges(ask)
    access.forget()


def _own_role(ask: Ask, verb: str) -> str:
    name: str = ask.args["roleid"]
    if name in BUILT_IN:
        raise failed(f"{verb} role failed: auto-generated role '{name}' cannot be modified")
    if name not in ask.world.access.custom_roles:
        raise failed(f"{verb} role failed: role '{name}' does not exist")
    return name


def _update_role(ask: Ask) -> None:
    access, name = ask.world.access, _own_role(ask, "update")
    kept = access.custom_roles[name] if ask.args.get("append") else frozenset()
    access.custom_roles[name] = kept | _named_privileges(ask)
    access.forget()


def _delete_role(ask: Ask) -> None:
    name = _own_role(ask, "delete")
    del ask.world.access.custom_roles[name]
    ask.world.access.forget_role(name)


# Access control lists ------------------------------------------------------------------------


def _acl(ask: Ask) -> list[dict[str, Any]]:
    all_ = ask.may("/access", "Sys.Audit", "Permissions.Modify")
    return [
        {"path": path, "type": kind, "ugid": ugid, "roleid": role, "propagate": int(propagate)}
        for path, entries in ask.world.access.acl.items()
        if all_ or ask.may(path, "Permissions.Modify")
        for (kind, ugid), roles in entries.items()
        for role, propagate in roles.items()
    ]


def _principals(ask: Ask) -> list[tuple[Kind, str]]:
    kinds: tuple[tuple[Kind, str], ...] = (
        ("user", "users"), ("group", "groups"), ("token", "tokens"),
    )  # fmt: skip
    return [(kind, ugid) for kind, name in kinds for ugid in split_list(ask.args.get(name, ""))]


def _set_acl(ask: Ask) -> None:
    access, path = ask.world.access, normal_path(ask.args["path"])
    principals = _principals(ask)
    if not principals:
        raise rejected({"users": "either 'users', 'groups' or 'tokens' must be specified"})
    for role in split_list(ask.args["roles"]):
        _may_hand_out(ask, path, role)
        for kind, ugid in principals:
            _need_principal(ask, kind, ugid)
            if ask.args.get("delete"):
                access.revoke(path, ugid, role, kind=kind)
            else:
                access.grant(
                    path, ugid, role, kind=kind, propagate=bool(ask.args.get("propagate", 1))
                )


def _need_principal(ask: Ask, kind: Kind, ugid: str) -> None:
    access = ask.world.access
    match kind:
        case "group" if ugid not in access.groups:
            raise failed(f"group '{ugid}' does not exist")
        case "user" if ugid not in access.users:
            raise failed(f"user '{ugid}' does not exist")
        case "token" if access.find_token(access.identity(ugid)) is None:
            raise failed(f"API token '{ugid}' does not exist")
        case _:
            return


def _may_hand_out(ask: Ask, path: str, role: str) -> None:
    """Without Permissions.Modify a caller gives no role that is more than its own."""
    privileges = ask.world.access.role(role)
    if privileges is None:
        raise failed(f"role '{role}' does not exist")
    if ask.may(path, "Permissions.Modify"):
        return
    if not ask.world.access.allows(ask.who, path, privileges):
        raise forbidden(f"{path}, Permissions.Modify")


_MODIFY = perm("/access", "Sys.Modify")
_PRIVS = text("privs", "Privileges.", format="pve-priv-list")
_ROLE = "/access/roles/{roleid}"

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/access/permissions", _permissions,
             about="Privileges by path: one's own, or another's with Sys.Audit on /access.",
             parameters=(text("path", "This path alone."),
                         text("userid", "A user, or a token as user!token.", pattern=_AUTH_ID)),
             returns="object"),
    endpoint("GET", "/access/roles", _roles, about="Roles.", returns=index("roleid", "privs")),
    endpoint("POST", "/access/roles", _create_role, about="Add a role.", permissions=_MODIFY,
             protected=True, parameters=(PATH_PARAMETERS["roleid"], _PRIVS)),
    endpoint("GET", _ROLE, _get_role, about="Privileges of a role.", returns="object"),
    endpoint("PUT", _ROLE, _update_role, about="Change a role.", permissions=_MODIFY,
             protected=True,
             parameters=(_PRIVS, flag("append", "Keep the others.", requires="privs"))),
    endpoint("DELETE", _ROLE, _delete_role, about="Remove a role.", permissions=_MODIFY,
             protected=True),
    endpoint("GET", "/access/acl", _acl, about="Access control entries.",
             returns=index("path", "roleid", "ugid")),
    endpoint("PUT", "/access/acl", _set_acl, about="Add or remove access control entries.",
             permissions={"check": ["perm-modify", "{path}"]}, protected=True,
             parameters=(flag("delete", "Remove instead."),
                         text("groups", "Groups.", format="pve-groupid-list"),
                         text("path", "The path.", optional=False),
                         flag("propagate", "Holds below the path too.", default=1),
                         text("roles", "Roles.", optional=False, format="pve-roleid-list"),
                         text("tokens", "Tokens.", format="pve-tokenid-list"),
                         text("users", "Users.", format="pve-userid-list"))),
)  # fmt: skip
