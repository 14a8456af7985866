"""All tools, in the order in which they are listed, and how MCP clients see them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pvemcp.call import Effect
from pvemcp.tools import (
    api,
    audit,
    changes,
    describe,
    elevate,
    explain,
    guest_exec,
    guest_files,
    guests,
    host,
    inventory,
    jobs,
    nodes,
    power,
    shell,
    tasks,
)
from pvemcp.tools.tool import Tool

TOOLS: tuple[Tool, ...] = (
    inventory.cluster_overview,
    inventory.inventory_find,
    guests.guest_get,
    power.guest_power,
    guest_exec.guest_exec,
    guest_files.guest_file_read,
    guest_files.guest_file_write,
    nodes.node_get,
    tasks.task_list,
    tasks.task_get,
    tasks.task_stop,
    changes.change_list,
    changes.change_show,
    changes.change_undo,
    changes.change_confirm,
    audit.audit_search,
    host.host_run,
    host.host_diagnose,
    explain.command_explain,
    shell.shell_open,
    shell.shell_send,
    shell.shell_read,
    shell.shell_close,
    jobs.job_start,
    jobs.job_list,
    jobs.job_read,
    jobs.job_stop,
    describe.api_search,
    describe.api_describe,
    api.api_read,
    api.api_change,
    api.api_destroy,
    elevate.elevate,
)

ASKED = frozenset({"api_destroy", "guest_exec", "guest_file_write"})
"""Of these every call destroys, or may: the policy asks a person, where no rule allows them."""

BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}


@cache
def listing(
    ceiling: Effect,
    *,
    elevates: bool = True,
    held: frozenset[str] | None = None,
    unasked: frozenset[str] = frozenset(),
) -> list[dict[str, Any]]:
    """Return tools/list entries for a caller with this ceiling; the others are not listed.

    The hints say what the tool can do for this caller. `elevates`: its ceiling can be raised.
    `held`: the privileges that its PVE token has anywhere; None: nobody knows, so all count.
    `unasked`: the names of those in ASKED of which the policy lets some call through.
    """
    listed = [
        tool
        for tool in TOOLS
        if tool.effect <= ceiling
        and (held is None or not tool.privileges or not held.isdisjoint(tool.privileges))
    ]
    if not elevates:
        listed.remove(elevate.elevate)
    return [
        _entry(
            tool,
            tool.reach if tool is elevate.elevate else min(tool.reach, ceiling),
            asked=tool is elevate.elevate or tool.name in ASKED - unasked,
        )
        for tool in listed
    ]


def _entry(tool: Tool, reach: Effect, *, asked: bool) -> dict[str, Any]:
    read = reach is Effect.READ
    hints: dict[str, bool] = {"readOnlyHint": read, "openWorldHint": False}
    if not read:
        hints["destructiveHint"] = reach is Effect.DESTROY
    entry: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.schema,
        "annotations": hints,
    }
    meta = {"anthropic/alwaysLoad": True} if tool.always else {}
    if asked:  # Claude Code then asks its user each time, whatever is allowed
        meta["anthropic/requiresUserInteraction"] = True
    return {**entry, "_meta": meta} if meta else entry
