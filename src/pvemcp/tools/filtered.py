"""The lists that PVE filters without a word, and the right with which a token sees all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvemcp.pve.client import Pve
from pvemcp.pve.schema import Method

Right = tuple[str, str]
"""An ACL path, which may hold the placeholders of the API path, and a privilege."""

_RIGHTS: Sequence[tuple[str, Right]] = (
    ("/storage/{storage}/content", ("/storage/{storage}", "Datastore.Allocate")),
    ("/cluster/log", ("/", "Sys.Syslog")),
    ("/tasks", ("/nodes", "Sys.Audit")),
    ("/network", ("/sdn/zones", "SDN.Audit")),
    ("/nodes/{node}/qemu", ("/vms", "VM.Audit")),
    ("/nodes/{node}/lxc", ("/vms", "VM.Audit")),
    ("replication", ("/vms", "VM.Audit")),
    ("/storage", ("/storage", "Datastore.Audit")),
    ("/pools", ("/pool", "Pool.Audit")),
    ("/access", ("/access", "Sys.Audit")),
    ("/sdn", ("/sdn", "SDN.Audit")),
    ("/cluster/mapping", ("/mapping", "Mapping.Audit")),
    ("/cluster/notifications", ("/mapping/notifications", "Mapping.Audit")),
    ("", ("/nodes", "Sys.Audit")),
)
"""Which right shows every row, by a part of the method's path; the first that fits."""

_RESOURCES: Mapping[str, Right] = {
    "vm": ("/vms", "VM.Audit"),
    "storage": ("/storage", "Datastore.Audit"),
    "node": ("/nodes", "Sys.Audit"),
    "sdn": ("/sdn", "SDN.Audit"),
}
"""For `/cluster/resources`, by its parameter `type`."""

_KNOWN = frozenset(
    """
    /access/acl /access/groups /access/users /cluster/log /cluster/resources /cluster/tasks /nodes
    /nodes/{node}/lxc /nodes/{node}/network /nodes/{node}/qemu /nodes/{node}/storage
    /nodes/{node}/storage/{storage}/content /nodes/{node}/tasks /pools /storage
    """.split()
)
"""Methods that filter, or leave out figures; not all of their descriptions say so (PVE 9.1)."""


def filters(method: Method) -> bool:
    """Tell whether PVE shows this list to everyone, but to each only a part of it.

    Such methods describe in words what they show; a plain privilege check admits or refuses.
    """
    told = method.permissions or {}
    return method.path in _KNOWN or ("description" in told and told.get("user") != "world")


def rights(method: Method, params: Mapping[str, Any]) -> Sequence[Right]:
    """Return the rights that together show every row."""
    if method.path == "/cluster/resources":
        kind = str(params.get("type") or "")
        return [_RESOURCES[kind]] if kind in _RESOURCES else list(_RESOURCES.values())
    return [next(right for part, right in _RIGHTS if part in method.path)]


async def gaps(pve: Pve, method: Method, params: Mapping[str, Any]) -> list[str]:
    """Say in one sentence each why a list may be incomplete; nothing when it is complete."""
    if not filters(method):
        return []
    found = []
    for acl, privilege in rights(method, params):
        for name in ("storage", "node"):
            acl = acl.replace(f"{{{name}}}", str(params.get(name, "")))  # noqa: PLW2901
        if blind := await pve.blind(acl, privilege):
            found.append(blind)
    return found
