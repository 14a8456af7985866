"""Measured values over time, made up out of the clock."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.declare import Ask, Endpoint, Handler, choice, endpoint, index, perm
from pvemcp.sim.guests import PRESSURES, the_guest
from pvemcp.sim.refusal import failed
from pvemcp.sim.usage import max_cpus, max_memory, node_usage, root_disk, storage_used
from pvemcp.sim.world import Guest, GuestType, Storage, World

# Seen on PVE 9: a point a minute for an hour and a day, then coarser.
_FRAMES = {
    "hour": (60, 60),
    "day": (60, 1440),
    "week": (1800, 336),
    "month": (1800, 1440),
    "year": (21600, 1440),
    "decade": (604800, 520),
}
"""Time frame to (seconds between two points, number of points)."""


def _times(ask: Ask) -> list[int]:
    step, count = _FRAMES[ask.args["timeframe"]]
    last = ask.world.clock.seconds() // step * step
    return [last - step * (count - 1 - n) for n in range(count)]


def _wave(seed: int, at: int) -> float:
    """Return a steady made-up number from 0 to 1 for a time."""
    return (seed * 7919 + at // 60 * 31) % 997 / 997


def _guest_point(world: World, guest: Guest, at: int) -> dict[str, Any]:
    point: dict[str, Any] = {
        "time": at,
        "maxcpu": max_cpus(world, guest),
        "maxmem": max_memory(guest),
        "maxdisk": root_disk(guest),
        "disk": 0,
    }
    if not guest.running or at < guest.started:
        return point
    wave = _wave(guest.vmid, at)
    point |= {
        "cpu": wave / 3,
        "mem": max_memory(guest) * (0.3 + wave / 3),
        "netin": wave * 20000,
        "netout": wave * 9000,
    }
    if guest.type == "lxc":
        return point | {"diskread": wave * 4000, "diskwrite": wave * 8000}
    return point | {"memhost": point["mem"], **dict.fromkeys(PRESSURES, 0)}


def _guest(type_: GuestType) -> Handler:
    def handle(ask: Ask) -> list[dict[str, Any]]:
        guest = the_guest(ask, type_)
        return [_guest_point(ask.world, guest, at) for at in _times(ask)]

    return handle


def _node(ask: Ask) -> list[dict[str, Any]]:
    node = ask.world.nodes.get(ask.node)
    if node is None:
        raise failed(f"no such cluster node '{ask.node}'")
    use = node_usage(ask.world, node)
    points = []
    for at in _times(ask):
        wave = _wave(node.nodeid, at)
        points.append({
            "time": at, "maxcpu": node.cpus, "cpu": wave / 2, "iowait": wave / 100,
            "loadavg": wave * node.cpus / 2, "memtotal": node.memory, "memused": use["mem"],
            "memavailable": node.memory - use["mem"], "swaptotal": 0, "swapused": 0,
            "roottotal": node.disk, "rootused": use["disk"], "netin": wave * 1e6,
            "netout": wave * 5e5, "arcsize": 0, "pressurecpusome": wave, "pressureiosome": 0,
            "pressureiofull": 0, "pressurememorysome": 0, "pressurememoryfull": 0,
        })  # fmt: skip
    return points


def _storage(ask: Ask) -> list[dict[str, Any]]:
    storage: Storage | None = ask.world.storages.get(ask.args["storage"])
    if storage is None:
        raise failed(f"storage '{ask.args['storage']}' does not exist")
    used = storage_used(storage)
    return [{"time": at, "total": storage.total, "used": used} for at in _times(ask)]


_FUNCTION = choice("cf", "How points are joined.", ("AVERAGE", "MAX"))
_FRAME = choice("timeframe", "How far back.", tuple(_FRAMES)[:5], optional=False)
_LONG = choice("timeframe", "How far back.", tuple(_FRAMES), optional=False)
_STORE = perm("/storage/{storage}", "Datastore.Audit", "Datastore.AllocateSpace", any_of=True)

ENDPOINTS: tuple[Endpoint, ...] = (
    *(
        endpoint("GET", f"/nodes/{{node}}/{type_}/{{vmid}}/rrddata", _guest(type_),
                 about="Measured values of a guest.", protected=True, returns=index("time"),
                 permissions=perm("/vms/{vmid}", "VM.Audit"), parameters=(_FUNCTION, _FRAME),
                 local=True)
        for type_ in ("qemu", "lxc")
    ),
    endpoint("GET", "/nodes/{node}/rrddata", _node, about="Measured values of a node.",
             protected=True, permissions=perm("/nodes/{node}", "Sys.Audit"),
             parameters=(_FUNCTION, _LONG), returns=index("time"), local=True),
    endpoint("GET", "/nodes/{node}/storage/{storage}/rrddata", _storage,
             about="Measured values of a storage.", protected=True, permissions=_STORE,
             parameters=(_FUNCTION, _FRAME), returns=index("time")),
)  # fmt: skip
