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
    network,
    nodes,
    pools,
    power,
    qemu,
    rrd,
    sdn_methods,
    snapshots,
    storage,
    tasklist,
)
from pvemcp.sim.declare import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *nodes.ENDPOINTS,
    *host.ENDPOINTS,
    *network.ENDPOINTS,
    *cluster.ENDPOINTS,
    *sdn_methods.ENDPOINTS,
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
