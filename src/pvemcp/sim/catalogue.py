"""Every endpoint that the simulator knows; any other path answers 501."""

from __future__ import annotations

from pvemcp.sim import (
    access,
    accounts,
    agent,
    backup,
    clone,
    cluster,
    edits,
    firewall,
    ha,
    host,
    login,
    lxc,
    nodes,
    pools,
    power,
    qemu,
    rrd,
    snapshots,
    storage,
    tasklist,
)
from pvemcp.sim.declare import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *nodes.ENDPOINTS,
    *host.ENDPOINTS,
    *cluster.ENDPOINTS,
    *ha.ENDPOINTS,
    *firewall.ENDPOINTS,
    *tasklist.ENDPOINTS,
    *qemu.ENDPOINTS,
    *lxc.ENDPOINTS,
    *power.ENDPOINTS,
    *edits.ENDPOINTS,
    *snapshots.ENDPOINTS,
    *clone.ENDPOINTS,
    *agent.ENDPOINTS,
    *backup.ENDPOINTS,
    *rrd.ENDPOINTS,
    *storage.ENDPOINTS,
    *pools.ENDPOINTS,
    *login.ENDPOINTS,
    *accounts.ENDPOINTS,
    *access.ENDPOINTS,
)
