"""Where the guests of the fake PVE are. The yardstick imports it, so it costs nothing."""

from __future__ import annotations

NODES = 8
FIRST_VMID = 100
HANG = 2.0
"""Seconds that the hanging node takes for an answer."""


def node_of(vmid: int) -> str:
    """Return the node that a guest is on."""
    return f"pve{1 + vmid % NODES}"
