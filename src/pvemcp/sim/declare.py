"""How an endpoint is declared: once, for routing, checking and the published description."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pvemcp.pve.schema import Method, Parameter

if TYPE_CHECKING:
    from pvemcp.sim.permissions import Identity
    from pvemcp.sim.world import World

Permissions = Mapping[str, Any]

EVERYONE: Permissions = {"user": "world"}
"""No login needed."""
ANY_USER: Permissions = {"user": "all"}
"""Any login: the answer is filtered, or the handler checks."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that passed its checks: what a handler sees."""

    world: World
    who: Identity
    args: Mapping[str, Any]

    @property
    def node(self) -> str:
        """The node named in the path."""
        return str(self.args["node"])

    @property
    def vmid(self) -> int:
        """The guest named in the path."""
        return int(self.args["vmid"])

    def may(self, path: str, *privileges: str) -> bool:
        """Whether the caller holds any of the privileges on the path."""
        return self.world.access.allows(self.who, path, privileges, any_of=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """Data with further top-level keys beside it, such as `total`; or ready-made bytes."""

    data: Any
    beside: Mapping[str, Any] = field(default_factory=dict)
    encoded: bytes = b""


Handler = Callable[[Ask], Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method of the API and the function that answers it."""

    method: Method
    handler: Handler


def perm(path: str, *privileges: str, any_of: bool = False) -> Permissions:
    """Return the permission `all (or any) of these privileges on this ACL path`."""
    check: list[Any] = ["perm", path, list(privileges)]
    return {"check": [*check, "any", 1] if any_of else check}


def endpoint(
    verb: str,
    path: str,
    handler: Handler,
    *,
    about: str,
    permissions: Permissions | None = ANY_USER,
    parameters: Sequence[Parameter] = (),
    protected: bool = False,
    local: bool = False,
    returns: Mapping[str, Any] | str = "null",
    allow_token: bool = True,
) -> Endpoint:
    """Declare one method. Path parameters with a well-known name need no declaration.

    `permissions` None means root@pam alone; `local` keeps a request on the node that received it
    although its path names a node.
    """
    declared = {parameter.name for parameter in parameters}
    known = [PATH_PARAMETERS[name] for name in placeholders(path) if name not in declared]
    method = Method(
        path=path,
        verb=verb,
        name=_name(verb, path),
        description=about,
        parameters=(*known, *parameters),
        permissions=permissions,
        protected=protected,
        proxy_to="" if local or "{node}" not in path else "node",
        allow_token=allow_token,
        returns={"type": returns} if isinstance(returns, str) else returns,
    )
    return Endpoint(method=method, handler=handler)


def _name(verb: str, path: str) -> str:
    words = [part.strip("{}") for part in path.split("/") if part]
    return "_".join([verb.lower(), *words[-2:]])


def placeholders(path: str) -> list[str]:
    """Return the names between braces, in order."""
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def text(name: str, about: str, *, optional: bool = True, **more: Any) -> Parameter:
    """Declare a string."""
    return Parameter(name, "string", optional=optional, description=about, **more)


def whole(name: str, about: str, *, optional: bool = True, **more: Any) -> Parameter:
    """Declare an integer."""
    return Parameter(name, "integer", optional=optional, description=about, **more)


def real(name: str, about: str, *, optional: bool = True, **more: Any) -> Parameter:
    """Declare a number."""
    return Parameter(name, "number", optional=optional, description=about, **more)


def flag(name: str, about: str, *, optional: bool = True, **more: Any) -> Parameter:
    """Declare a boolean."""
    return Parameter(name, "boolean", optional=optional, description=about, **more)


def choice(
    name: str, about: str, values: Sequence[Any], *, optional: bool = True, **more: Any
) -> Parameter:
    """Declare a string out of a closed set."""
    return Parameter(
        name, "string", optional=optional, description=about, enum=tuple(values), **more
    )


def listing(*names: str, key: str = "subdir") -> Handler:
    """Return the handler of an index: what there is below a path."""

    def handle(_ask: Ask) -> list[dict[str, str]]:
        return [{key: name} for name in names]

    return handle


def index(*fields: str) -> Mapping[str, Any]:
    """Return the description of a list of objects with these fields."""
    return {"type": "array", "items": {"type": "object", "properties": {f: {} for f in fields}}}


VMID_LIMITS: Mapping[str, Any] = {"minimum": 100, "maximum": 999999999, "format": "pve-vmid"}
NODE = text("node", "Name of the node.", optional=False, format="pve-node")
VMID = whole("vmid", "Id of the guest.", optional=False, **VMID_LIMITS)
STORAGE = text("storage", "Name of the storage.", optional=False, format="pve-storage-id")
SNAPNAME = text(
    "snapname", "Name of the snapshot.", optional=False, format="pve-configid", max_length=40
)

PATH_PARAMETERS: Mapping[str, Parameter] = {
    "node": NODE,
    "vmid": VMID,
    "storage": STORAGE,
    "snapname": SNAPNAME,
    "upid": text("upid", "The task.", optional=False),
    "service": text("service", "Name of a service of the node.", optional=False),
    "poolid": text("poolid", "Name of the pool.", optional=False, format="pve-poolid"),
    "userid": text(
        "userid", "User as name@realm.", optional=False, format="pve-userid", max_length=64
    ),
    "tokenid": text(
        "tokenid",
        "Name of the token.",
        optional=False,
        pattern=r"(?^:[A-Za-z][A-Za-z0-9\.\-_]+)",
    ),
    "roleid": text("roleid", "Name of the role.", optional=False, format="pve-roleid"),
    "groupid": text("groupid", "Name of the group.", optional=False, format="pve-groupid"),
    "realm": text("realm", "Name of the realm.", optional=False, format="pve-realm", max_length=32),
    "sid": text(
        "sid", "HA resource such as vm:100.", optional=False, format="pve-ha-resource-or-vm-id"
    ),
    "volume": text("volume", "Volume id, or its part after the colon.", optional=False),
    "pos": whole("pos", "Position of the rule.", optional=True, minimum=0),
    "id": text("id", "Id of the job.", optional=False, max_length=50),
    "iface": text(
        "iface",
        "Name of the interface.",
        optional=False,
        format="pve-iface",
        min_length=2,
        max_length=20,
    ),
}
"""Parameters that stand in paths; a declaration that differs is given with the endpoint."""
