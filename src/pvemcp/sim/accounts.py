"""Accounts over the API: users, tokens, groups, realms."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.declare import (
    EVERYONE,
    PATH_PARAMETERS,
    Ask,
    Endpoint,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.permissions import ROOT, Token, User
from pvemcp.sim.refusal import failed, rejected
from pvemcp.sim.validate import split_list

_DETAILS = ("comment", "email", "firstname", "lastname", "keys")
_REALMS = {
    "pam": {"type": "pam", "comment": "Linux PAM standard authentication"},
    "pve": {"type": "pve", "comment": "Proxmox VE authentication server"},
}


# Users ---------------------------------------------------------------------------------------


def _user(ask: Ask) -> User:
    userid = ask.args["userid"]
    user = ask.world.access.users.get(userid)
    if user is None:
        raise failed(f"no such user ('{userid}')")
    return user


def _user_row(user: User) -> dict[str, Any]:
    details = {key: value for key, value in user.details.items() if key != "keys"}
    return {"enable": int(user.enable), "expire": user.expire, **details}


def _users(ask: Ask) -> list[dict[str, Any]]:
    rows = []
    for user in ask.world.access.users.values():
        if not _may_see(ask, user):
            continue
        if ask.args.get("enabled", int(user.enable)) != int(user.enable):
            continue
        row = {"userid": user.userid, **_user_row(user)}
        row["realm-type"] = user.userid.rpartition("@")[2]
        if ask.args.get("full"):
            row |= {"groups": ",".join(sorted(user.groups))}
            row |= {"tokens": [_token_row(token) for token in user.tokens.values()]}
        rows.append(row)
    return rows


def _may_see(ask: Ask, user: User) -> bool:
    paths = ["/access/groups", *(f"/access/groups/{group}" for group in user.groups)]
    return user.userid == ask.who.id or any(
        ask.may(path, "User.Modify", "Sys.Audit") for path in paths
    )


def _get_user(ask: Ask) -> dict[str, Any]:
    user = _user(ask)
    tokens = {name: _token_fields(token) for name, token in user.tokens.items()}
    shown: dict[str, Any] = {**_user_row(user), "groups": sorted(user.groups)}
    return {**shown, "tokens": tokens} if tokens else shown


def _create_user(ask: Ask) -> None:
    access, userid = ask.world.access, ask.args["userid"]
    if userid in access.users:
        raise failed(f"create user failed: user '{userid}' already exists")
    user = User(userid, password=ask.args.get("password", ""))
    _change_user(ask, user)
    access.users[userid] = user


def _change_user(ask: Ask, user: User) -> None:
    for key in _DETAILS:
        if key in ask.args:
            user.details[key] = ask.args[key]
    user.enable = bool(ask.args.get("enable", user.enable))
    user.expire = ask.args.get("expire", user.expire)
    if "groups" in ask.args:
        named = set(split_list(ask.args["groups"]))
        user.groups = user.groups | named if ask.args.get("append") else named
    ask.world.access.forget()


def _update_user(ask: Ask) -> None:
    _change_user(ask, _user(ask))


def _delete_user(ask: Ask) -> None:
    user = _user(ask)
    if user.userid == ROOT:
        raise failed("delete user failed: unable to delete 'root@pam'")
    access = ask.world.access
    del access.users[user.userid]
    access.forget_holder("user", user.userid)
    for name in user.tokens:
        access.forget_holder("token", f"{user.userid}!{name}")


def _set_password(ask: Ask) -> None:
    _user(ask).password = ask.args["password"]


# Tokens --------------------------------------------------------------------------------------


def _token_fields(token: Token) -> dict[str, Any]:
    fields: dict[str, Any] = {"expire": token.expire, "privsep": int(token.privsep)}
    return {**fields, "comment": token.comment} if token.comment else fields


def _token_row(token: Token) -> dict[str, Any]:
    return {"tokenid": token.tokenid, **_token_fields(token)}


def _token(ask: Ask) -> Token:
    user, name = _user(ask), ask.args["tokenid"]
    if name not in user.tokens:
        raise failed(f"no such token '{name}' for user '{user.userid}'")
    return user.tokens[name]


def _tokens(ask: Ask) -> list[dict[str, Any]]:
    return [_token_row(token) for token in _user(ask).tokens.values()]


def _get_token(ask: Ask) -> dict[str, Any]:
    return _token_fields(_token(ask))


def _create_token(ask: Ask) -> dict[str, Any]:
    user, name = _user(ask), ask.args["tokenid"]
    if name in user.tokens:
        raise rejected({"tokenid": "Token already exists."})
    token = Token(name, ask.world.uuid())
    _change_token(ask, token)
    user.tokens[name] = token
    # Seen on PVE 9.1: strings when it is made, numbers when it is read.
    info = {key: str(value) for key, value in _token_fields(token).items()}
    return {"full-tokenid": f"{user.userid}!{name}", "info": info, "value": token.secret}


def _change_token(ask: Ask, token: Token) -> None:
    token.comment = ask.args.get("comment", token.comment)
    token.expire = ask.args.get("expire", token.expire)
    token.privsep = bool(ask.args.get("privsep", token.privsep))
    ask.world.access.forget()


def _update_token(ask: Ask) -> dict[str, Any]:
    token = _token(ask)
    _change_token(ask, token)
    return _token_fields(token)


def _delete_token(ask: Ask) -> None:
    _token(ask)
    user, name = _user(ask), ask.args["tokenid"]
    del user.tokens[name]
    # Seen on PVE 9.2: its entries are ignored from now on, and lost with the next write.
    ask.world.access.forget_holder("token", f"{user.userid}!{name}")


# Groups and realms ---------------------------------------------------------------------------


def _groups(ask: Ask) -> list[dict[str, Any]]:
    return [
        {"groupid": name, "comment": comment, "users": ",".join(_members(ask, name))}
        for name, comment in ask.world.access.groups.items()
        if ask.may(f"/access/groups/{name}", "User.Modify", "Sys.Audit", "Group.Allocate")
    ]


def _members(ask: Ask, group: str) -> list[str]:
    return [user.userid for user in ask.world.access.users.values() if group in user.groups]


def _get_group(ask: Ask) -> dict[str, Any]:
    name = ask.args["groupid"]
    if name not in ask.world.access.groups:
        raise failed(f"group '{name}' does not exist")
    comment = ask.world.access.groups[name]
    return {"comment": comment, "members": _members(ask, name)}


def _realms(_ask: Ask) -> list[dict[str, Any]]:
    return [{"realm": name, **fields} for name, fields in _REALMS.items()]


def _get_realm(ask: Ask) -> dict[str, Any]:
    name = ask.args["realm"]
    if name not in _REALMS:
        raise failed(f"domain '{name}' does not exist")
    return {**_REALMS[name], "digest": "0" * 40}


# Declarations --------------------------------------------------------------------------------

_EDIT = (
    text("comment", "Notes.", max_length=2048),
    text("email", "Address.", format="email-opt", max_length=254),
    flag("enable", "May log in.", default=1),
    whole("expire", "When it ends (epoch); 0 is never.", minimum=0),
    text("firstname", "First name.", max_length=1024),
    text("groups", "Groups.", format="pve-groupid-list"),
    text("keys", "Keys of old second factors.", pattern="[0-9a-zA-Z!=]{0,4096}"),
    text("lastname", "Last name.", max_length=1024),
)
_TOKEN_EDIT = (
    text("comment", "Notes."),
    whole("expire", "When it ends (epoch); 0 is never.", minimum=0),
    flag("privsep", "Has privileges of its own.", default=1),
)
_ADMIN = {"check": ["userid-group", ["User.Modify"], "groups_param", "update"]}
_BOTH = {
    "check": [
        "and",
        ["userid-param", "Realm.AllocateUser"],
        ["userid-group", ["User.Modify"], "groups_param", "create"],
    ]
}
_OWN = {"check": ["or", ["userid-param", "self"], ["userid-group", ["User.Modify"]]]}
_PASSWORD = {
    "check": [
        "or",
        ["userid-param", "self"],
        ["and", ["userid-param", "Realm.AllocateUser"], ["userid-group", ["User.Modify"]]],
    ]
}
_USER = "/access/users/{userid}"
_TOKEN = f"{_USER}/token/{{tokenid}}"

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/access", listing("users", "groups", "roles", "acl", "domains", "openid",
                                       "tfa", "ticket", "password"),
             about="What there is.", returns=index("subdir")),
    endpoint("GET", "/access/users", _users, about="Accounts that the caller may see.",
             protected=True, returns=index("userid"),
             parameters=(flag("enabled", "Enabled or disabled ones alone."),
                         flag("full", "With groups and tokens.", default=0))),
    endpoint("POST", "/access/users", _create_user, about="Add an account.", permissions=_BOTH,
             protected=True,
             parameters=(PATH_PARAMETERS["userid"], *_EDIT,
                         text("password", "First password.", min_length=8, max_length=64))),
    endpoint("GET", _USER, _get_user, about="An account.", returns="object",
             permissions={"check": ["userid-group", ["User.Modify", "Sys.Audit"]]}),
    endpoint("PUT", _USER, _update_user, about="Change an account.", permissions=_ADMIN,
             protected=True,
             parameters=(*_EDIT, flag("append", "Keep the other groups.", requires="groups"),)),
    endpoint("DELETE", _USER, _delete_user, about="Remove an account.", protected=True,
             permissions={"check": ["and", ["userid-param", "Realm.AllocateUser"],
                                    ["userid-group", ["User.Modify"]]]}),
    endpoint("PUT", "/access/password", _set_password, about="Set a password; no token may.",
             permissions=_PASSWORD, protected=True, allow_token=False,
             parameters=(text("confirmation-password", "Password of the caller.", min_length=5,
                              max_length=64),
                         text("password", "The new one.", optional=False, min_length=8,
                              max_length=64),
                         PATH_PARAMETERS["userid"])),
    endpoint("GET", f"{_USER}/token", _tokens, about="Tokens of an account.", permissions=_OWN,
             returns=index("tokenid")),
    endpoint("GET", _TOKEN, _get_token, about="A token.", permissions=_OWN, returns="object"),
    endpoint("POST", _TOKEN, _create_token, about="Make a token; its secret is shown once.",
             permissions=_OWN, protected=True, returns="object", parameters=_TOKEN_EDIT),
    endpoint("PUT", _TOKEN, _update_token, about="Change a token.", permissions=_OWN,
             protected=True, returns="object",
             parameters=(*_TOKEN_EDIT, text("delete", "Settings to remove.",
                                            format="pve-configid-list"))),
    endpoint("DELETE", _TOKEN, _delete_token, about="Remove a token.", permissions=_OWN,
             protected=True),
    endpoint("GET", "/access/groups", _groups, about="Groups.", returns=index("groupid")),
    endpoint("GET", "/access/groups/{groupid}", _get_group, about="A group.", returns="object",
             permissions=perm("/access/groups", "Sys.Audit", "Group.Allocate", any_of=True)),
    endpoint("GET", "/access/domains", _realms, about="Realms, for a login form.",
             permissions=EVERYONE, returns=index("realm")),
    endpoint("GET", "/access/domains/{realm}", _get_realm, about="A realm.", returns="object",
             permissions=perm("/access/realm", "Realm.Allocate", "Sys.Audit", any_of=True)),
)  # fmt: skip
