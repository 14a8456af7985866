"""A call is opened: who makes it, with which client, and what that client says of its request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from pvemcp.access.presence import VISIT
from pvemcp.access.sessions import Visit
from pvemcp.announcing import tools_changed
from pvemcp.call import Call, Principal, Progress
from pvemcp.unseen import clean

Context = ServerRequestContext[Any, Any]

TASKS = "io.modelcontextprotocol/tasks"


def opened(
    ctx: Context,
    principal: Principal,
    tool: str,
    arguments: dict[str, Any],
    *,
    shown: Callable[[str], str],
    bus: InMemorySubscriptionBus,
) -> Call:
    """Return the call of a request; `arguments` are redacted already, `shown` hides secrets."""
    client = ctx.session.client_params
    info = client.client_info if client else None
    return Call(
        principal,
        tool=clean(tool[:64]),
        arguments=arguments,
        client=clean(f"{info.name} {info.version}"[:100]) if info else "",
        detachable=declares_tasks(ctx),
        session=_session(ctx),
        tool_use=_said(ctx, "claudecode/toolUseId"),
        trace=_said(ctx, "traceparent"),
        progress=_progress(ctx, shown),
        tools_changed=tools_changed(ctx, bus),
    )


def declares_tasks(ctx: Context) -> bool:
    """Whether the client knows the tasks extension."""
    declared = ctx.session.client_capabilities
    extensions = (declared.extensions or {}) if declared else {}
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and TASKS in extensions


def _session(ctx: Context) -> str:
    """Return the id of the session, as `pvemcp sessions` shows it; none over stdio."""
    visit = ctx.request.scope.get(VISIT) if ctx.request is not None else None
    return visit.session.id if isinstance(visit, Visit) and visit.session is not None else ""


def _said(ctx: Context, name: str) -> str:
    """Return a text that the client put into the request's _meta."""
    value = (ctx.meta or {}).get(name)
    return clean(value[:128]) if isinstance(value, str) else ""


def _progress(ctx: Context, shown: Callable[[str], str]) -> Progress:
    """Report progress to this request's client; MCP wants a figure that only grows."""
    highest = -1.0

    async def report(progress: float, total: float | None, message: str) -> None:
        nonlocal highest
        highest = progress if progress > highest else highest + 1e-6
        await ctx.session.report_progress(highest, total, shown(message))

    return report
