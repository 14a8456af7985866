"""Where the backups of a node's guests are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemcp.pve.client import Pve


async def backup_places(pve: Pve, node: str) -> list[str]:
    """Return the storages of a node that hold backups; servers that others see too come first."""
    rows = [
        row
        for row in await pve.resources()
        if row.get("type") == "storage"
        and row.get("node") == node
        and "backup" in str(row.get("content", "")).split(",")
    ]
    rows.sort(key=lambda row: (row.get("plugintype") != "pbs", not row.get("shared")))
    return [str(row["storage"]) for row in rows]
