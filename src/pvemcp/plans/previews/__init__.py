"""Previews by PVE method: `preview` finds the one for an intent."""

from __future__ import annotations

from pvemcp.call import Intent
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.plain import plain
from pvemcp.pve.client import Pve


async def preview(pve: Pve, intent: Intent) -> Preview:
    """Look up what an intent means. Never raises a Fault: what cannot be seen is `unseen`."""
    return await plain(pve, intent)
