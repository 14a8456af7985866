"""The journal of changes: list them, look at one, take one back."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from pvemcp.call import Effect, Intent, planned
from pvemcp.errors import Conflict, Fault, NotPlanned, Unavailable
from pvemcp.host.runner import Host
from pvemcp.journal.change import DIGEST, Change, Request, State, compared, told
from pvemcp.journal.changes import Changes, subject_of_change
from pvemcp.pve.client import Pve
from pvemcp.pve.tasks import run_task
from pvemcp.tools.audit import administers
from pvemcp.tools.guests import GuestName, locate
from pvemcp.tools.render import json_within_budget, moment, within_budget
from pvemcp.tools.rows import Page, write
from pvemcp.tools.tasks import Wait, moment_since
from pvemcp.tools.tool import Format, tool
from pvemcp.tools.untrusted import note, quoted
from pvemcp.tools.written import WRITE, put_back, state_now

COLUMNS = ("id", "time", "tool", "what", "outcome", "undo")
_GUEST = re.compile(r"/nodes/[^/]+/(?:qemu|lxc)/[0-9]+")
LOOKED_AT = 20
"""Running changes whose tasks are looked at for one list."""


@tool()
async def change_list(
    pve: Pve,
    changes: Changes,
    guest: GuestName | None = None,
    since: Annotated[str, Field(description="90m, 24h, 7d or a date")] = "",
    limit: Annotated[int, Field(ge=1, le=500)] = 20,
    format: Format = "text",
) -> str:
    """List your changes to PVE (all, if you administer PVE), and whether each can be undone."""
    target = ""
    if guest is not None:
        found = await locate(pve, guest)
        target = f"guest {found.type}/{found.vmid}"
    after = moment_since(since) if since else 0.0
    listed = changes.book.list(grant=await _whose(pve), since=after, target=target, limit=limit + 1)
    more, listed = len(listed) > limit, listed[:limit]
    running = [c for c in listed if c.outcome == "running"][:LOOKED_AT]
    ended = {c.id: await changes.completed(pve, c) for c in running}
    rows = [_row(ended.get(change.id, change)) for change in listed]
    page = Page(rows, len(rows) + more, "")
    head = f"the newest {len(rows)} changes" if more else _counted(len(rows))
    return write(page, COLUMNS, format=format, head=head, notes=[])


def _counted(number: int) -> str:
    return f"{number} change{'s' * (number != 1)}"


async def _whose(pve: Pve) -> str | None:
    """Return the grant whose changes a caller sees; None: all, for who administers PVE."""
    who = pve.call.principal
    return None if await administers(pve) else who.owner


def _row(change: Change) -> dict[str, Any]:
    return {
        "id": change.id,
        "time": moment(change.time),
        "tool": change.tool,
        "what": f"{change.verb} {change.path}",
        "outcome": f"{change.outcome}, undone" if change.undone_by else change.outcome,
        "undo": "no" if change.recipe.why_not or change.undone_by else "yes",
    }


@tool()
async def change_show(
    pve: Pve, host: Host, changes: Changes, change: str, format: Format = "text"
) -> str:
    """Show a change: before and after, how it is undone, what has moved since."""
    found = await changes.completed(pve, await _own(pve, changes, change))
    moved = await _moved(pve, host, found) if found.after is not None else []
    if format == "json":
        note(pve.call, f"{found.id} values")
        shown = {
            **_row(found),
            "call": found.call,
            "parameters": dict(found.shown),
            "before": _shown(found.before),
            "after": _shown(found.after),
            "undo": {
                "requests": list(map(str, found.recipe.requests)),
                "lost": found.recipe.lost,
                "why_not": found.recipe.why_not,
            },
            "moved": moved,
        }
        return json_within_budget(shown, rest="")
    lines = told(found, moment(found.time))
    if moved and not found.recipe.why_not:
        lines += ["since then, so that it cannot be undone now:", *(f"  {each}" for each in moved)]
    text = quoted(pve.call, f"{found.id} values", "\n".join(lines))
    if not moved and not found.recipe.why_not:
        text += f'\nnothing has moved since: change_undo(change="{found.id}")'
    return within_budget(text, rest="")


async def _own(pve: Pve, changes: Changes, id_: str) -> Change:
    return changes.book.get(id_, grant=await _whose(pve))


def _shown(state: State | None) -> State | None:
    return state and {name: each for name, each in state.items() if not name.startswith("_")}


async def _moved(pve: Pve, host: Host, change: Change) -> list[str]:
    try:
        now = await _now(pve, host, change)
    except Fault as fault:
        return [f"its state cannot be read: {fault.message}"]
    return compared(change.after, now, change.recipe.keys)


async def _now(pve: Pve, host: Host, change: Change) -> State:
    if change.verb == WRITE:
        return await state_now(pve, host, change)
    return await (await subject_of_change(pve, change)).read(pve)


@tool(effect=Effect.CHANGE, reach=Effect.DESTROY)
async def change_undo(pve: Pve, host: Host, changes: Changes, change: str, wait: Wait = 120) -> str:
    """Take one of your changes back, unless its target has moved on since."""
    found = await changes.completed(pve, await _own(pve, changes, change))
    _refuse(found)
    now = await _now(pve, host, found)
    if moved := compared(found.after, now, found.recipe.keys):
        raise Conflict(
            f"{found.target} has moved on since {found.id}; nothing was done:\n" + "\n".join(moved),
            hint="Undo the later changes first (change_list), or change it by hand.",
        )
    pve.call.undoes = found.id
    if found.verb == WRITE:
        await put_back(pve, host, changes, found.recipe.requests[0])
    else:
        await _sent(pve, found, now, wait=wait)
    if pve.call.planning is None:
        changes.book.undone(found, pve.call)
    lost = "".join(f"\nnot brought back: {line}" for line in found.recipe.lost)
    return f"{found.id} is undone: {found.target}{lost}"


def _refuse(change: Change) -> None:
    if change.undone_by:
        raise Conflict(
            f"{change.id} was undone already, by the call {change.undone_by}",
            hint="That undo is a change itself, which can be undone: change_list.",
        )
    if change.outcome == "running":
        raise Conflict(f"{change.id} is still under way: {change.upid}", hint="Wait for its task.")
    if change.recipe.why_not:
        raise Conflict(f"{change.id} cannot be undone: {change.recipe.why_not}")


async def _sent(pve: Pve, change: Change, now: State, *, wait: float) -> None:
    first, *rest = change.recipe.requests
    if _guest_in(first.path) == _guest_in(change.path):
        first = await _guarded(pve, first, now)
    for request in (first, *rest):
        await _send(pve, request, wait=wait)


def _guest_in(path: str) -> str:
    found = _GUEST.match(path)
    return found[0] if found else ""


async def _guarded(pve: Pve, request: Request, now: State) -> Request:
    """Let PVE refuse it too, when somebody else is quicker: with the digest of what was seen."""
    match = (await pve.description()).match(request.verb, request.path)
    if DIGEST in now and any(p.name == DIGEST for p in match.method.parameters):
        return replace(request, params={**request.params, DIGEST: now[DIGEST]})
    return request


async def _send(pve: Pve, request: Request, *, wait: float) -> None:
    answer = await pve.request(request.verb, request.path, request.params)
    if not planned(answer.upid) and not answer.upid:
        return
    end = await run_task(pve, answer.upid, wait=wait)
    if end.status == "running":
        raise Unavailable(
            f"{request.verb} {request.path} goes on as the task {end.upid}; what follows it was "
            "not done",
            hint="Look at the task, then at the target.",
        )


@tool(effect=Effect.CHANGE)
async def change_confirm(pve: Pve, changes: Changes, change: str) -> str:
    """Let a change stand that could have locked you out, within its time, over a new connection."""
    found = await _own(pve, changes, change)
    intent = Intent("RUN", f"change/{found.id}/confirm", Effect.CHANGE)
    if pve.call.planning is not None:
        changes.commits.get(found.id)
        pve.call.planning.append(intent)
        return "planned"
    if not pve.call.license.take(intent):
        raise NotPlanned(f"the confirmation of {found.id} was not planned")
    await pve.get("/version")  # PVE answers, too
    await changes.commits.confirm(found.id, opened=pve.call.principal.opened)
    return f"{found.id} stands"
