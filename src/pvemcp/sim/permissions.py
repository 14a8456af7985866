"""Who may do what: accounts, access control lists and PVE's way of resolving them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pvemcp.sim.roles import BUILT_IN, PRIVILEGES

Kind = Literal["user", "group", "token"]
_ACL_PATH = re.compile(r"[A-Za-z0-9.\-_/]+")
ROOT = "root@pam"


@dataclass(slots=True)
class Token:
    """An API token; `expire` 0 means never."""

    tokenid: str
    secret: str = field(repr=False)
    privsep: bool = True
    expire: int = 0
    comment: str = ""


@dataclass(slots=True)
class User:
    """An account; `expire` 0 means never."""

    userid: str
    password: str = field(default="", repr=False)
    totp: str = field(default="", repr=False)
    """Base32 secret of the second factor, or empty."""
    enable: bool = True
    expire: int = 0
    details: dict[str, str] = field(default_factory=dict)
    """comment, email, firstname, lastname."""
    groups: set[str] = field(default_factory=set)
    tokens: dict[str, Token] = field(default_factory=dict)

    def valid(self, now: float) -> bool:
        """Whether the account is enabled and not expired."""
        return self.enable and not (self.expire and self.expire < now)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request: a user, or one of the user's tokens. `id` is empty without a login."""

    id: str
    user: str = ""
    token: str = ""

    @property
    def is_root(self) -> bool:
        """The account root@pam itself; its tokens are not."""
        return self.id == ROOT


NOBODY = Identity("")
Roles = dict[str, bool]
"""Role to whether it propagates."""


def normal_path(path: str) -> str:
    """Return the ACL path without doubled or trailing slashes; empty when it cannot be one."""
    joined = "/" + "/".join(part for part in path.split("/") if part)
    return joined if _ACL_PATH.fullmatch(joined) else ""


def _levels(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    return ["/", *("/" + "/".join(parts[: n + 1]) for n in range(len(parts)))]


class Access:
    """Users, tokens, groups, roles and access control lists of a cluster."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.groups: dict[str, str] = {}
        """Group to comment."""
        self.custom_roles: dict[str, frozenset[str]] = {}
        self.acl: dict[str, dict[tuple[Kind, str], Roles]] = {}
        self.pool_of: Mapping[int, str] = {}
        """Guest to pool: the ACL of a pool adds to those of its guests."""
        self._cache: dict[tuple[str, str], Mapping[str, bool]] = {}

    def forget(self) -> None:
        """Drop what was resolved: to be called after any change of accounts, lists or pools."""
        self._cache.clear()

    def identity(self, authid: str) -> Identity:
        """Return the identity of `user@realm` or `user@realm!token`."""
        user, _, token = authid.partition("!")
        return Identity(authid, user, token)

    def role(self, roleid: str) -> frozenset[str] | None:
        """Return the privileges of a role, None when it does not exist."""
        return BUILT_IN.get(roleid, self.custom_roles.get(roleid))

    def find_token(self, who: Identity) -> Token | None:
        """Return the token behind an identity."""
        user = self.users.get(who.user)
        return user.tokens.get(who.token) if user and who.token else None

    def grant(
        self, path: str, ugid: str, roleid: str, *, kind: Kind, propagate: bool = True
    ) -> None:
        """Add a role for a user, group or token on a path."""
        entries = self.acl.setdefault(normal_path(path), {})
        entries.setdefault((kind, ugid), {})[roleid] = propagate
        self.forget()

    def revoke(self, path: str, ugid: str, roleid: str, *, kind: Kind) -> None:
        """Take a role away; nothing happens when it is not there."""
        entries = self.acl.get(path, {})
        entries.get((kind, ugid), {}).pop(roleid, None)
        if not entries.get((kind, ugid), {1: True}):
            del entries[kind, ugid]
        if path in self.acl and not entries:
            del self.acl[path]
        self.forget()

    def forget_holder(self, kind: Kind, ugid: str) -> None:
        """Drop every entry of a user, group or token that is gone."""
        for path in list(self.acl):
            self.acl[path].pop((kind, ugid), None)
            if not self.acl[path]:
                del self.acl[path]
        self.forget()

    def forget_role(self, roleid: str) -> None:
        """Drop every entry with a role that is gone."""
        for path in list(self.acl):
            for kind, ugid in list(self.acl[path]):
                self.revoke(path, ugid, roleid, kind=kind)
        self.forget()

    def allows(
        self, who: Identity, path: str, privileges: Collection[str], *, any_of: bool = False
    ) -> bool:
        """Whether the identity holds all (or any) of the privileges on the path."""
        if who.is_root:
            return True
        clean = normal_path(path)
        if not clean:
            return False
        held = self.privileges(who, clean)
        found = (name in held for name in privileges)
        return any(found) if any_of else all(found)

    def privileges(self, who: Identity, path: str) -> Mapping[str, bool]:
        """Return the privileges on a normal path, each with whether it propagates."""
        key = (who.id, path)
        if (cached := self._cache.get(key)) is None:
            cached = self._cache[key] = self._resolve(who, path)
        return cached

    def _resolve(self, who: Identity, path: str) -> Mapping[str, bool]:
        if who.is_root:
            return dict.fromkeys(PRIVILEGES, True)
        if not who.token:
            return self._of_principal(("user", who.id), path)
        owned = self.privileges(Identity(who.user, who.user), path)
        token = self.find_token(who)
        if token is None:
            return {}
        if not token.privsep:
            return owned
        own = self._of_principal(("token", who.id), path)
        return {name: flag and owned[name] for name, flag in own.items() if name in owned}

    def _of_principal(self, principal: tuple[Kind, str], path: str) -> Mapping[str, bool]:
        roles = self._roles(principal, path)
        if "NoAccess" in roles:
            return {}
        held = self._expand(roles)
        for name, flag in self._expand(self._pool_roles(principal, path)).items():
            held.setdefault(name, flag)
        return held

    def _expand(self, roles: Roles) -> dict[str, bool]:
        held: dict[str, bool] = {}
        for roleid, propagate in roles.items():
            for name in self.role(roleid) or ():
                held[name] = held.get(name, False) or propagate
        return held

    def _pool_roles(self, principal: tuple[Kind, str], path: str) -> Roles:
        vmid = path.removeprefix("/vms/")
        pool = self.pool_of.get(int(vmid)) if vmid.isdecimal() else None
        roles = self._roles(principal, f"/pool/{pool}") if pool else {}
        return {} if "NoAccess" in roles else roles

    def _roles(self, principal: tuple[Kind, str], path: str) -> Roles:
        """Walk down the path: what stands deeper for the principal replaces what was inherited."""
        found: Roles = {}
        for level in _levels(path):
            entries = self.acl.get(level)
            if not entries:
                continue
            direct = _effective(entries.get(principal, {}), final=level == path)
            found = direct or self._group_roles(principal, entries, level == path) or found
        return found

    def _group_roles(
        self,
        principal: tuple[Kind, str],
        entries: Mapping[tuple[Kind, str], Roles],
        final: bool,  # noqa: FBT001
    ) -> Roles:
        user = self.users.get(principal[1]) if principal[0] == "user" else None
        merged: Roles = {}
        for group in user.groups if user else ():
            merged.update(_effective(entries.get(("group", group), {}), final=final))
        return merged

    def known_paths(self) -> Iterable[str]:
        """Return the paths that GET /access/permissions lists: fixed ones and those with a list."""
        fixed = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")
        return sorted({*fixed, *self.acl, *(f"/vms/{vmid}" for vmid in self.pool_of)})


def _effective(roles: Roles, *, final: bool) -> Roles:
    return {role: propagate for role, propagate in roles.items() if final or propagate}
