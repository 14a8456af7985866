"""Pools of guests and storages."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.cluster import storage_rows
from pvemcp.sim.declare import (
    PATH_PARAMETERS,
    Ask,
    Endpoint,
    choice,
    endpoint,
    flag,
    index,
    perm,
    text,
)  # fmt: skip
from pvemcp.sim.guests import resource_row
from pvemcp.sim.refusal import failed
from pvemcp.sim.validate import split_list
from pvemcp.sim.world import Pool


def _pool(ask: Ask, message: str = "pool '{}' does not exist") -> Pool:
    poolid = ask.args["poolid"]
    if poolid not in ask.world.pools:
        raise failed(message.format(poolid))
    return ask.world.pools[poolid]


def _list(ask: Ask) -> list[dict[str, Any]]:
    if "poolid" in ask.args:
        return [{"poolid": ask.args["poolid"], **_get(ask)}]
    rows: list[dict[str, Any]] = []
    for pool in ask.world.pools.values():
        if ask.may(f"/pool/{pool.poolid}", "Pool.Audit"):
            comment = {"comment": pool.comment} if pool.comment else {}
            rows.append({"poolid": pool.poolid, **comment})
    return rows


def _get(ask: Ask) -> dict[str, Any]:
    pool, kind = _pool(ask), ask.args.get("type")
    members: list[dict[str, Any]] = []
    for vmid in sorted(pool.vms):
        guest = ask.world.guests[vmid]
        if kind in {None, guest.type}:
            row = resource_row(ask.world, guest)
            # Seen on PVE 9.1: the members of a pool come without their tags.
            members.append({k: v for k, v in row.items() if k != "tags"})
    if kind in {None, "storage"}:
        for name in sorted(pool.storages):
            members += storage_rows(ask.world, ask.world.storages[name])
    shown: dict[str, Any] = {"members": members}
    if pool.comment:
        shown["comment"] = pool.comment
    return shown


def _get_named(ask: Ask) -> dict[str, Any]:
    return {"poolid": ask.args["poolid"], **_get(ask)}


def _create(ask: Ask) -> None:
    world, poolid = ask.world, ask.args["poolid"]
    if poolid in world.pools:
        raise failed(f"create pool failed: pool '{poolid}' already exists")
    world.pools[poolid] = Pool(poolid, ask.args.get("comment", ""))


def _update(ask: Ask) -> None:
    pool = _pool(ask, "update pools failed: pool '{}' does not exist")
    remove = bool(ask.args.get("delete"))
    for text_ in split_list(ask.args.get("vms", "")):
        if remove:
            _drop_guest(ask, pool, int(text_))
        else:
            _add_guest(ask, pool, int(text_))
    for name in split_list(ask.args.get("storage", "")):
        _change_storage(pool, name, remove=remove)
    pool.comment = ask.args.get("comment", pool.comment)


def _add_guest(ask: Ask, pool: Pool, vmid: int) -> None:
    world = ask.world
    if vmid not in world.guests:
        raise failed(f"update pools failed: VM {vmid} does not exist")
    if vmid in pool.vms:
        raise failed(f"update pools failed: VM {vmid} is already a pool member")
    other = world.pool_of(vmid)
    if other and not ask.args.get("allow-move"):
        raise failed(
            f"update pools failed: VM {vmid} belongs already to pool '{other}'"
            " and 'allow-move' is not set"
        )
    world.join_pool(pool.poolid, vmid)


def _drop_guest(ask: Ask, pool: Pool, vmid: int) -> None:
    if vmid not in pool.vms:
        raise failed(f"update pools failed: VM {vmid} is not a pool member")
    ask.world.leave_pool(vmid)


def _change_storage(pool: Pool, name: str, *, remove: bool) -> None:
    if (name in pool.storages) != remove:
        word = "not a" if remove else "already a"
        raise failed(f"update pools failed: Storage '{name}' is {word} pool member")
    (pool.storages.discard if remove else pool.storages.add)(name)


def _delete(ask: Ask) -> None:
    pool = _pool(ask, "delete pool failed: pool '{}' does not exist")
    if pool.vms or pool.storages:
        raise failed(f"delete pool failed: pool '{pool.poolid}' is not empty")
    del ask.world.pools[pool.poolid]


_ALLOCATE = perm("/pool/{poolid}", "Pool.Allocate")
_ID = PATH_PARAMETERS["poolid"]
_KIND = choice("type", "Members of one kind.", ("qemu", "lxc", "storage"))
_EDIT = (
    flag("allow-move", "Take guests out of other pools.", default=0),
    text("comment", "Notes."),
    flag("delete", "Take the named members out.", default=0),
    text("storage", "Storages.", format="pve-storage-id-list"),
    text("vms", "Guests.", format="pve-vmid-list"),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/pools", _list, about="Pools that the caller may see.",
             returns=index("poolid"),
             parameters=(text("poolid", "This one.", format="pve-poolid"),
                         choice("type", "Members of one kind.", ("qemu", "lxc", "storage"),
                                requires="poolid"))),
    endpoint("POST", "/pools", _create, about="Add a pool.", permissions=_ALLOCATE,
             protected=True, parameters=(_ID, text("comment", "Notes."))),
    endpoint("PUT", "/pools", _update, about="Change a pool.", permissions=_ALLOCATE,
             protected=True, parameters=(_ID, *_EDIT)),
    endpoint("DELETE", "/pools", _delete, about="Remove an empty pool.", permissions=_ALLOCATE,
             protected=True, parameters=(_ID,)),
    endpoint("GET", "/pools/{poolid}", _get_named, about="A pool and its members.",
             permissions=perm("/pool/{poolid}", "Pool.Audit"), parameters=(_KIND,),
             returns="object"),
    endpoint("PUT", "/pools/{poolid}", _update, about="Change a pool.", permissions=_ALLOCATE,
             protected=True, parameters=_EDIT),
    endpoint("DELETE", "/pools/{poolid}", _delete, about="Remove an empty pool.",
             permissions=_ALLOCATE, protected=True),
)  # fmt: skip
