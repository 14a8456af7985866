"""More power for a while: a person raises the client's ceiling."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pvemcp.access.elevation import Raising
from pvemcp.call import Effect
from pvemcp.tools.tool import tool


@tool(reach=Effect.CHANGE)
async def elevate(
    raising: Raising,
    effect: Literal["change", "destroy"],
    minutes: Annotated[int, Field(ge=1, le=1440)],
    reason: Annotated[str, Field(min_length=1, max_length=500)],
) -> str:
    """Ask a person to raise your grant's ceiling for some minutes; it ends by itself."""
    made = await raising.to(Effect.parse(effect), minutes, reason)
    return f"{made}. List the tools again." if made else ""
