"""Any method of the PVE API: three tools, split by effect so that each tool's hints are true."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from pvemcp.call import Effect, planned
from pvemcp.errors import Invalid
from pvemcp.pve.client import Answer, Pve
from pvemcp.pve.description import Match
from pvemcp.pve.effects import why
from pvemcp.pve.request import fill, prepare
from pvemcp.pve.upid import Upid
from pvemcp.tools.filtered import gaps
from pvemcp.tools.render import json_within_budget, plain, record, within_budget
from pvemcp.tools.rows import Page, Query, select, write
from pvemcp.tools.tasks import Wait, finish
from pvemcp.tools.tool import Format, Started, Where, conditions, tool

Params = dict[str, Any] | None

_CONFIG = re.compile(r"/(?:qemu|lxc)/\d+/config/?$")
_PENDING = "though a running guest takes some changes only at its next start: guest_get shows them"
_AUTOSTART = "Its start is a task of its own, which may fail: see task_list(guest=VMID)."


@tool(always=True)
async def api_read(
    pve: Pve,
    path: Annotated[str, Field(description="/nodes/pve1/qemu/100/config")],
    params: Params = None,
    where: Where = None,
    sort: str = "",
    fields: list[str] | None = None,
    limit: Annotated[int, Field(ge=1, le=1000)] = 40,
    cursor: str = "",
    format: Format = "text",
) -> str:
    """GET any path of the PVE API. Find paths with api_search."""
    data = (await pve.request("GET", path, params or {})).data
    data, rest = _unfolded(data) if format == "text" else (data, {})
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        query = Query(conditions(where), sort, fields or (), limit, cursor)
        match = (await pve.description()).match("GET", fill(path, dict(params or {})))
        listed = await _list(pve, match, params, data, query, format=format)
        return f"{record(rest)}\n{listed}" if rest else listed
    if where or sort or cursor:
        raise Invalid("where, sort and cursor go with lists", hint=f"{path} is not a list.")
    absent: list[str] = []
    if fields and isinstance(data, dict):
        absent = [name for name in fields if name not in data]
        data = {name: data.get(name) for name in fields if name in data or format == "json"}
    rest_hint = "narrow it with fields, or with the method's own parameters"
    if format == "json":
        return json_within_budget(data, rest=rest_hint)
    unset = f"\nnot set: {', '.join(absent)}" if absent else ""
    return within_budget(f"{_plain(data)}{unset}", rest=rest_hint)


def _unfolded(data: Any) -> tuple[Any, dict[str, Any]]:
    """Return the list that an answer is about, and what stands beside it.

    A pool, for example, is one row whose members are a list: nobody could page through that.
    """
    row = data[0] if isinstance(data, list) and len(data) == 1 else data
    if not isinstance(row, dict):
        return data, {}
    lists = [
        name
        for name, value in row.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    ]
    if len(lists) != 1:
        return data, {}
    return row[lists[0]], {name: value for name, value in row.items() if name != lists[0]}


async def _list(
    pve: Pve,
    match: Match,
    params: Params,
    rows: list[dict[str, Any]],
    query: Query,
    *,
    format: Format,
) -> str:
    declared = (match.method.returns.get("items") or {}).get("properties") or ()
    page = select(rows, query, key="", known=declared)  # PVE leaves out fields that are not set
    notes = await gaps(pve, match.method, {**(params or {}), **match.values})
    head = f"{page.total} item{'s' * (page.total != 1)}" if rows else "empty list"
    columns = query.fields or _columns(page, empty=format == "json")
    return write(page, columns, format=format, head=head, notes=notes, cells=plain)


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
    if planned(answer.upid):
        return "planned"
    if answer.upid:
        ended = await finish(pve, answer.upid, wait=wait)
        return f"{ended}\n{_AUTOSTART}" if _starts_too(answer.upid, params, ended) else ended
    done = "done" + (
        f", {_PENDING}" if _CONFIG.search(path) and "revert" not in (params or {}) else ""
    )
    return within_budget(f"{done}\n{_plain(answer.data)}" if answer.data else done, rest="")


def _starts_too(upid: str, params: Params, ended: str | Started) -> bool:
    """Tell whether a guest was made that PVE now starts, in another task that may fail."""
    made = Upid.parse(upid).type in ("qmcreate", "qmrestore", "vzcreate", "vzrestore")
    return made and isinstance(ended, str) and str((params or {}).get("start")) in ("1", "True")
