"""Checks of the cluster: the clients that it shares, and whether its nodes take commands."""

from __future__ import annotations

import asyncio

from pvemcp.access.shared import FILE, REPAIR, parse
from pvemcp.errors import Fault
from pvemcp.health.check import Check, bad, good, warning
from pvemcp.host import members
from pvemcp.host.cluster import Cluster
from pvemcp.host.members import MIRROR
from pvemcp.host.peer import Peer
from pvemcp.settings import Settings


async def check_cluster(settings: Settings) -> list[Check]:
    """Judge what the mirror shows of the cluster, and ask its other nodes; nothing without one."""
    clients = [check] if (check := _clients(settings)) else []
    cluster = Cluster(settings.mirror_dir, settings.peer_port)
    if not settings.peer_port or not (settings.mirror_dir / members.FILE).exists():
        return clients
    nodes = await asyncio.gather(*(_node(cluster, name) for name in cluster.others()))
    return [*clients, *nodes]


def _clients(settings: Settings) -> Check | None:
    path = settings.mirror_dir / FILE
    try:
        found = parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        return warning("shared clients", f"{path}: {error.strerror}", MIRROR)
    except Fault as fault:
        return bad("shared clients", f"{fault.message}; those of before stay in force", REPAIR)
    return good("shared clients", f"{len(found.clients)}, the same on every node")


async def _node(cluster: Cluster, name: str) -> Check:
    try:
        await Peer(cluster, name).allowed()
    except Fault as fault:
        return warning(f"node {name}", f"takes no commands: {fault.message}", fault.hint)
    return good(f"node {name}", "takes commands for its part of the cluster")
