"""The whole PVE API in five tools, split by effect so that each tool's hints are true."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from pvemcp.call import Effect
from pvemcp.errors import Invalid
from pvemcp.pve.client import Answer, Pve
from pvemcp.pve.effects import effect_of, forbidden, unavailable, why, worst_effect
from pvemcp.pve.request import prepare
from pvemcp.pve.schema import Method, Parameter
from pvemcp.pve.upid import Upid
from pvemcp.tools.render import plain, record, to_json, within_budget
from pvemcp.tools.rows import Page, Query, select, write
from pvemcp.tools.tasks import Wait, finish
from pvemcp.tools.tool import Format, Started, tool

Params = dict[str, Any] | None
Verb = Literal["GET", "POST", "PUT", "DELETE"]

_SEEN_BY: Sequence[tuple[str, str, str]] = (
    ("/qemu", "/vms", "VM.Audit"),
    ("/lxc", "/vms", "VM.Audit"),
    ("/cluster/resources", "/vms", "VM.Audit"),
    ("/storage", "/storage", "Datastore.Audit"),
    ("/pools", "/pool", "Pool.Audit"),
    ("/access", "/access", "Sys.Audit"),
    ("/sdn", "/sdn", "SDN.Audit"),
    ("/cluster/mapping", "/mapping", "Mapping.Audit"),
    ("/cluster/notifications", "/mapping/notifications", "Mapping.Audit"),
)
"""Which privilege on which ACL path shows all rows of a list, by a part of its API path."""


_AUTOSTART = "Its start is a task of its own, which may fail: see task_list(guest=VMID)."


@tool(always=True)
async def api_search(pve: Pve, query: str, limit: Annotated[int, Field(ge=1, le=50)] = 12) -> str:
    """Find PVE API methods by words of path, parameters or purpose."""
    description = await pve.description()
    found = description.search(query, limit)
    if not found:
        raise Invalid(f"no method matches {query!r}", hint="Try fewer or more general words.")
    lines = [f"{m.verb} {m.path}  {_purpose(m)} [{_effect(m)}; {privileges(m)}]" for m in found]
    return "\n".join([*lines, "Details: api_describe(path, method)."])


@tool()
async def api_describe(pve: Pve, path: str, method: Verb = "GET") -> str:
    """Describe a PVE API method: effect, privileges, parameters, result."""
    found = (await pve.description()).match(method, path).method
    lines = [f"{found.verb} {found.path}", found.description.strip(), f"effect: {_effect(found)}"]
    reason = forbidden(found.verb, found.path) or unavailable(found.verb, found.path, {})
    if reason:
        lines.append(f"not available through this service: {reason}")
    lines.append(f"needs: {privileges(found)}")
    if not found.allow_token:
        lines.append("PVE refuses API tokens here.")
    lines.append("parameters:" if found.parameters else "parameters: none")
    ordered = sorted(found.parameters, key=lambda p: (p.optional, p.name))
    lines += [f"  {_parameter(p)}" for p in ordered]
    lines.append(f"returns: {_returns(found.returns)}")
    return within_budget("\n".join(lines), rest="the parameters above come first by need")


@tool(always=True)
async def api_read(
    pve: Pve,
    path: Annotated[str, Field(description="/nodes/pve1/qemu/100/config")],
    params: Params = None,
    where: Annotated[list[str] | None, Field(description="as in inventory_find")] = None,
    sort: str = "",
    fields: list[str] | None = None,
    limit: Annotated[int, Field(ge=1, le=1000)] = 40,
    cursor: str = "",
    format: Format = "text",
) -> str:
    """GET any path of the PVE API. Find paths with api_search."""
    data = (await pve.request("GET", path, params or {})).data
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        query = Query(where or (), sort, fields or (), limit, cursor)
        return await _list(pve, path, data, query, format=format)
    if where or sort or cursor:
        raise Invalid("where, sort and cursor go with lists", hint=f"{path} is not a list.")
    absent: list[str] = []
    if fields and isinstance(data, dict):
        absent = [name for name in fields if name not in data]
        data = {name: data.get(name) for name in fields if name in data or format == "json"}
    text = to_json(data) if format == "json" else _plain(data)
    if absent and format == "text":
        text += f"\nnot set: {', '.join(absent)}"
    return within_budget(text, rest="narrow it with fields, or with the method's own parameters")


async def _list(
    pve: Pve, path: str, rows: list[dict[str, Any]], query: Query, *, format: Format
) -> str:
    page = select(rows, query, key="", known=await _declared(pve, path))
    acl, privilege = next(
        ((acl, privilege) for part, acl, privilege in _SEEN_BY if part in path), ("/", "Sys.Audit")
    )
    blind = await pve.blind(acl, privilege)
    head = f"{page.total} item{'s' * (page.total != 1)}" if rows else "empty list"
    notes = [blind] if blind else []
    columns = query.fields or _columns(page, empty=format == "json")
    return write(page, columns, format=format, head=head, notes=notes, cells=plain)


async def _declared(pve: Pve, path: str) -> Collection[str]:
    """Return the fields that the method may answer with: PVE leaves out those that are not set."""
    method = (await pve.description()).match("GET", path).method
    return (method.returns.get("items") or {}).get("properties") or ()


def _columns(page: Page, *, empty: bool) -> list[str]:
    """Return the fields that some row has, in a steady order: first those that identify it.

    `empty` keeps those that are empty in every row.
    """
    names = {
        name for row in page.rows for name, value in row.items() if empty or value not in (None, "")
    }
    first = ["vmid", "id", "name", "node", "type", "storage", "volid", "userid", "iface", "status"]
    return [n for n in first if n in names] + sorted(n for n in names if n not in first)


def _plain(data: Any) -> str:
    match data:
        case None:
            return "done, no value"
        case dict() if not data:
            return "empty"
        case dict():
            return record(data)
        case list():
            return "\n".join(plain("", item) for item in data) or "empty list"
        case _:
            return str(data)


@tool(effect=Effect.CHANGE)
async def api_change(
    pve: Pve, method: Literal["POST", "PUT"], path: str, params: Params = None, wait: Wait = 60
) -> str | Started:
    """Call a PVE API method that changes something, and follow its task."""
    prepared = prepare(await pve.description(), method, path, params=params or {})
    if prepared.effect > Effect.CHANGE:
        reason = why(method, prepared.method.path, prepared.checked)
        raise Invalid(f"{method} {path}: {reason}", hint="Call api_destroy for it.")
    return await _write(pve, method, path, params, wait=wait)


@tool(effect=Effect.DESTROY)
async def api_destroy(
    pve: Pve,
    path: str,
    method: Literal["DELETE", "POST", "PUT"] = "DELETE",
    params: Params = None,
    wait: Wait = 60,
) -> str | Started:
    """Call a PVE API method that deletes, overwrites or cuts off, and follow its task."""
    return await _write(pve, method, path, params, wait=wait)


async def _write(pve: Pve, method: str, path: str, params: Params, *, wait: float) -> str | Started:
    answer: Answer = await pve.request(method, path, params or {})
    if answer.upid:
        ended = await finish(pve, answer.upid, wait=wait)
        return f"{ended}\n{_AUTOSTART}" if _starts_too(answer.upid, params, ended) else ended
    return within_budget(f"done\n{_plain(answer.data)}" if answer.data else "done", rest="")


def _starts_too(upid: str, params: Params, ended: str | Started) -> bool:
    """Tell whether a guest was made that PVE now starts, in another task that may fail."""
    made = Upid.parse(upid).type in ("qmcreate", "qmrestore", "vzcreate", "vzrestore")
    return made and isinstance(ended, str) and str((params or {}).get("start")) in ("1", "True")


def _purpose(method: Method) -> str:
    line = method.description.strip().split("\n", 1)[0]
    return line if len(line) <= 100 else f"{line[:97]}..."


def _effect(method: Method) -> str:
    if forbidden(method.verb, method.path):
        return "forbidden"
    usual, worst = effect_of(method.verb, method.path, {}), worst_effect(method.verb, method.path)
    return str(usual) if usual == worst else f"{usual}, with some parameters {worst}"


def privileges(method: Method) -> str:
    """Write which privileges a method needs, from PVE's permission tree."""
    if method.permissions is None:
        return "root@pam only, no API token"
    match method.permissions:
        case {"check": check}:
            return _check(check)
        case {"user": "world"}:
            return "nothing"
        case {"user": _}:
            return "any user; PVE checks or filters inside"
        case _:
            return str(method.permissions.get("description") or "see PVE's documentation")


def _check(check: Any) -> str:
    match check:
        case ["and" | "or" as word, *parts]:
            return f" {word} ".join(f"({_check(part)})" for part in parts)
        case ["perm", path, [*names], *options]:
            either = " or " if "any" in options else ", "
            return f"{either.join(map(str, names)) or 'access'} on {path}"
        case ["userid-group", [*names], *_]:
            return f"{', '.join(map(str, names))} on the user's group"
        case ["userid-param", "self"]:
            return "the user itself"
        case ["userid-param", name]:
            return f"{name} on the user's realm"
        case ["perm-modify", path]:
            return f"Permissions.Modify on {path}"
        case _:
            return to_json(check)


def _parameter(p: Parameter) -> str:
    parts = [p.typetext or _type(p)]
    if p.default is not None:
        parts.append(f"default {p.default}")
    if p.requires:
        parts.append(f"with {p.requires}")
    need = "" if p.optional else " (required)"
    about = " ".join(p.description.split())
    about = about if len(about) <= 200 else f"{about[:197]}..."
    return f"{p.name}{need}: {', '.join(parts)}. {about}".rstrip()


def _type(p: Parameter) -> str:
    if p.enum:
        return " | ".join(map(str, p.enum))
    text = p.type
    if p.minimum is not None or p.maximum is not None:
        text += f" {_bound(p.minimum)}..{_bound(p.maximum)}"
    if isinstance(p.format, Mapping):
        text += f" of keys {', '.join(p.format)}"
    elif p.format:
        text += f" ({p.format})"
    return text


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _returns(returns: Mapping[str, Any]) -> str:
    match returns.get("type"):
        case None | "null":
            return "nothing"
        case "array":
            items = returns.get("items") or {}
            names = ", ".join(items.get("properties") or ())
            return f"a list of {items.get('type', 'values')}" + (f" with {names}" if names else "")
        case "object":
            names = ", ".join(returns.get("properties") or ())
            return "an object" + (f" with {names}" if names else "")
        case kind:
            return str(kind)
