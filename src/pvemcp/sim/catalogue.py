"""Every endpoint that the simulator knows; any other path answers 501."""

from __future__ import annotations

from pvemcp.sim import access, cluster, lxc, nodes, power, qemu, tasklist
from pvemcp.sim.declare import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *nodes.ENDPOINTS,
    *cluster.ENDPOINTS,
    *tasklist.ENDPOINTS,
    *qemu.ENDPOINTS,
    *lxc.ENDPOINTS,
    *power.ENDPOINTS,
    *access.ENDPOINTS,
)
