"""PVE tasks: list, look into, wait for, stop; and how every change waits for its own."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Invalid
from pvemcp.pve.client import Answer, Pve
from pvemcp.pve.tasks import NO_ANSWER, TaskEnd, Upid, run_task, task_log
from pvemcp.tools.conditions import SECONDS
from pvemcp.tools.guests import GuestName, locate
from pvemcp.tools.render import duration, json_within_budget, moment, within_budget
from pvemcp.tools.rows import Page, write
from pvemcp.tools.tool import Format, Started, tool

GRACE = 1.0
"""Seconds that a client with MCP tasks waits for a quick task before it gets the task's id."""

Wait = Annotated[int, Field(ge=0, le=3600, description="seconds")]
State = Literal["any", "running", "ok", "error", "warning"]


async def finish(pve: Pve, upid: str, *, wait: float) -> str | Started:
    """Follow a task to its end and say how it ended, within `wait` seconds.

    Raises TaskFailed with PVE's reason. A client with MCP tasks gets the task instead.
    """
    detach = pve.call.detachable and wait > GRACE
    end = await run_task(pve, upid, wait=GRACE if detach else wait)
    if end.status == "running" and detach:
        return Started(upid)
    return ending(end)


def ending(end: TaskEnd) -> str:
    """Write how a task ended, or that it still runs and how to follow it."""
    what = headline(Upid.parse(end.upid))
    ran = "" if end.seconds is None else f" after {duration(end.seconds)}"
    if end.status == "running":
        line = end.log_tail[-1] if end.log_tail else ""
        if line.startswith(NO_ANSWER):
            return f'{what}: state unknown\n{line}\nLater: task_get(upid="{end.upid}", wait=60).'
        last = f"\nlast line: {line}" if line else ""
        follow = f'It goes on; follow it with task_get(upid="{end.upid}", wait=60).'
        return f"{what}: still running{ran}{last}\n{follow}"
    text = f"{what}: {end.exitstatus}{ran}\n{end.upid}"
    if end.status == "warnings":
        text = "\n".join([text, *(line for line in end.log_tail if "WARN" in line.upper())])
    return text


def headline(upid: Upid) -> str:
    """Name a task: its type, what it works on, its node."""
    return f"{upid.type} {upid.id} on {upid.node}".replace("  ", " ")


@tool()
async def task_list(
    pve: Pve,
    node: Annotated[str, Field(description="gives the whole history")] = "",
    guest: GuestName | None = None,
    state: State = "any",
    type: Annotated[str, Field(description="such as vzdump")] = "",
    since: Annotated[str, Field(description="90m, 24h, 7d or a date")] = "",
    limit: Annotated[int, Field(ge=1, le=500)] = 20,
    format: Format = "text",
) -> str:
    """List PVE tasks, newest first, with their exit status."""
    after = moment_since(since) if since else 0
    vmid = None
    if guest is not None:
        found = await locate(pve, guest)
        node, vmid = node or found.node, found.vmid
    got, seen = Answer([]), []
    if node:
        got = await _of_node(pve, node, state, type=type, vmid=vmid, after=after, limit=limit)
    if not node or vmid is not None:  # a guest may have been on other nodes before
        latest = (await pve.request("GET", "/cluster/tasks")).data
        seen = [row for row in latest if vmid is None or str(row.get("id")) == str(vmid)]
    merged = {str(row["upid"]): row for row in [*seen, *got.data]}
    rows = [_row(r) for r in merged.values() if _wanted(r, state, type=type, after=after)]
    rows.sort(key=lambda row: -row["starttime"])
    # PVE counts all that match beside the rows, except where the choice is ours.
    count = len(rows) if state == "running" else max(len(rows), got.total or 0)
    page = Page(rows[:limit], count, "")
    blind = await pve.blind(f"/nodes/{node}" if node else "/nodes", "Sys.Audit")
    note = [f"{blind} PVE leaves out tasks of others."] if blind else []
    if count > limit:
        note.append(f"{limit} of {count} shown; ask with a higher limit, or since and state.")
    if not node:
        note.append("Only the latest of each node; give node or guest for the history.")
    elif vmid is not None:
        note.append(f"All from {node}; from other nodes only the latest.")
    if not rows and type:
        types = sorted({str(row.get("type")) for row in merged.values()})
        note.append(f"Types seen: {', '.join(types) or 'none'}.")
    fields = ("type", "id", "node", "user", "starttime", "took", "status", "upid")
    return write(
        page, fields, format=format, head=f"{page.total} task{'s' * (page.total != 1)}", notes=note
    )


async def _of_node(
    pve: Pve, node: str, state: State, *, type: str, vmid: int | None, after: int, limit: int
) -> Answer:
    asked: dict[str, Any] = {
        "node": node,
        "source": "active" if state == "running" else "all",
        "limit": limit,
    }
    if state in ("ok", "error", "warning"):
        asked["statusfilter"] = state
    asked |= {key: value for key, value in (("typefilter", type), ("vmid", vmid)) if value}
    if after:
        asked["since"] = after
    return await pve.request("GET", "/nodes/{node}/tasks", asked)


def _wanted(row: Mapping[str, Any], state: State, *, type: str, after: int) -> bool:
    if (type and row.get("type") != type) or int(row["starttime"]) < after:
        return False
    status = str(row.get("status") or "")
    match state:
        case "any":
            return True
        case "running":
            return not row.get("endtime")
        case "ok":
            return status == "OK"
        case "warning":
            return status.startswith("WARNINGS")
        case "error":
            ended = bool(row.get("endtime"))
            return ended and status != "OK" and not status.startswith("WARNINGS")


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    started, ended = int(row["starttime"]), row.get("endtime")
    user = str(row.get("user", ""))
    if row.get("tokenid"):
        user += f"!{row['tokenid']}"
    took = duration((int(ended) if ended else time.time()) - started)
    status = row.get("status") if ended else "running"
    return {**row, "starttime": started, "user": user, "took": took, "status": status}


def moment_since(since: str) -> int:
    """Return the moment that `since` means, in seconds since the epoch: an age or a date (UTC)."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", since):
        try:
            return int(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp())
        except ValueError:
            raise Invalid(f"since={since!r} is not a date", hint="Write 2026-11-30.") from None
    return int(time.time()) - _age(since)


def _age(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if unit not in SECONDS or not re.fullmatch(r"[0-9]{1,6}", number):
        raise Invalid(f"since={text!r} is not an age", hint="Write 90m, 24h, 7d or 2026-11-30.")
    return int(number) * SECONDS[unit]


@tool(always=True)
async def task_get(
    pve: Pve,
    upid: str,
    wait: Wait = 0,
    log_lines: Annotated[int, Field(ge=0, le=1000)] = 15,
    format: Format = "text",
) -> str:
    """Show a PVE task: state, exit status, end of its log; wait follows it to its end."""
    parsed = Upid.parse(upid)
    if wait:
        await run_task(pve, upid, wait=wait)
    status = await pve.get("/nodes/{node}/tasks/{upid}/status", node=parsed.node, upid=upid)
    log = await task_log(pve, upid, tail=log_lines) if log_lines else []
    if format == "json":
        return json_within_budget({"status": status, "log": log}, rest="ask for fewer log_lines")
    return within_budget(_text(parsed, status, log), rest="ask for fewer log_lines")


def _text(upid: Upid, status: Mapping[str, Any], log: Sequence[str]) -> str:
    running = status.get("status") == "running"
    state = "running" if running else str(status.get("exitstatus") or "ended, no exit status")
    user = str(status.get("user")) + (f"!{status['tokenid']}" if status.get("tokenid") else "")
    started = float(status.get("starttime") or 0)
    lines = [f"{headline(upid)}: {state}", f"started {moment(started)} by {user}"]
    if running:
        lines.append(f"runs for {duration(max(0.0, time.time() - started))}")
    return "\n".join([*lines, "log:", *log] if log else lines)


@tool(effect=Effect.DESTROY)
async def task_stop(pve: Pve, upid: str) -> str:
    """Stop a running PVE task. What it had begun stays half done; it may leave a lock."""
    parsed = Upid.parse(upid)
    path = "/nodes/{node}/tasks/{upid}"
    before = await pve.get(f"{path}/status", node=parsed.node, upid=upid)
    if before.get("status") != "running":
        raise Conflict(
            f"{headline(parsed)} has ended: {before.get('exitstatus')}", hint="Nothing to stop."
        )
    await pve.delete(path, node=parsed.node, upid=upid)
    return f"{headline(parsed)}: asked to stop; task_get(upid, wait=10) shows its end"
