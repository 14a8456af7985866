"""Tells clients that their list of tools has changed, in both protocol eras."""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.subscriptions import InMemorySubscriptionBus, ToolsListChanged
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from pvemcp.call import ToolsChanged


class AnnouncingServer(Server[Any]):
    """Declares to the clients of the session protocol, too, that lists of tools change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """Return what a session begins with."""
        options = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(options, experimental_capabilities, extensions)


def tools_changed(
    ctx: ServerRequestContext[Any, Any], bus: InMemorySubscriptionBus
) -> ToolsChanged:
    """Return what tells the client of a request: those since 2026-07-28 listen to the bus."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return ctx.session.send_tool_list_changed

    async def publish() -> None:
        await bus.publish(ToolsListChanged())

    return publish
