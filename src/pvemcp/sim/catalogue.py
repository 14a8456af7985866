"""Every endpoint that the simulator knows; any other path answers 501."""

from __future__ import annotations

from pvemcp.sim import (
    access,
    agent,
    clone,
    cluster,
    edits,
    lxc,
    nodes,
    power,
    qemu,
    snapshots,
    tasklist,
)
from pvemcp.sim.declare import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *nodes.ENDPOINTS,
    *cluster.ENDPOINTS,
    *tasklist.ENDPOINTS,
    *qemu.ENDPOINTS,
    *lxc.ENDPOINTS,
    *power.ENDPOINTS,
    *edits.ENDPOINTS,
    *snapshots.ENDPOINTS,
    *clone.ENDPOINTS,
    *agent.ENDPOINTS,
    *access.ENDPOINTS,
)
