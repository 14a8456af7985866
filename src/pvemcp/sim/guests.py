"""Guests as the API shows them: what qemu and lxc have in common."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.declare import Ask
from pvemcp.sim.refusal import TaskFailure, failed, rejected
from pvemcp.sim.usage import guest_usage, max_cpus, max_memory, root_disk
from pvemcp.sim.world import Guest, GuestType, World

PRESSURES = (
    "pressurecpufull", "pressurecpusome", "pressureiofull", "pressureiosome",
    "pressurememoryfull", "pressurememorysome",
)  # fmt: skip


def missing(node: str, type_: GuestType, vmid: int) -> str:
    """Return PVE's words for a guest that is not on the node (wrong node or type: the same)."""
    folder = "qemu-server" if type_ == "qemu" else "lxc"
    return f"Configuration file 'nodes/{node}/{folder}/{vmid}.conf' does not exist"


def lookup(world: World, node: str, type_: GuestType, vmid: int) -> Guest | None:
    """Return the guest when it is of this type and on this node."""
    guest = world.guests.get(vmid)
    if guest is None or guest.type != type_ or guest.node != node:
        return None
    return guest


def the_guest(ask: Ask, type_: GuestType) -> Guest:
    """Return the guest that the path names. Raises the 500 of a missing configuration."""
    guest = lookup(ask.world, ask.node, type_, ask.vmid)
    if guest is None:
        raise failed(missing(ask.node, type_, ask.vmid))
    return guest


def guest_in_task(world: World, node: str, type_: GuestType, vmid: int) -> Guest:
    """Return the guest, or fail the task as PVE's worker does."""
    guest = lookup(world, node, type_, vmid)
    if guest is None:
        raise TaskFailure(missing(node, type_, vmid))
    return guest


def lock_text(guest: Guest) -> str:
    """Return PVE's complaint about a lock."""
    return f"{guest.word} is locked ({guest.lock})"


def refuse_locked(guest: Guest) -> None:
    """Raise the 500 for a locked configuration."""
    if guest.lock:
        raise failed(lock_text(guest))


def check_digest(ask: Ask, guest: Guest) -> None:
    """Raise the 500 when the caller's digest is not the present one."""
    digest = ask.args.get("digest")
    if digest and digest != guest.digest():
        raise failed("checksum mismatch (file change by other user?)")


def refuse_root_only(ask: Ask, *names: str) -> None:
    """Refuse parameters that only root@pam may use; its tokens may not."""
    for name in names:
        if name in ask.args and not ask.who.is_root:
            raise rejected({name: "Only root may use this option."})


def ha_state(world: World, guest: Guest) -> str:
    """Return the HA state that the resource list shows; empty when it is not managed."""
    resource = world.ha.get(sid(guest))
    return resource.state if resource else ""


def sid(guest: Guest) -> str:
    """Return the id of the guest as an HA resource."""
    return f"{'vm' if guest.type == 'qemu' else 'ct'}:{guest.vmid}"


def pid_of(guest: Guest) -> int:
    """Return the process id of a running guest."""
    return 2000 + guest.vmid * 3 % 30000


def list_row(world: World, guest: Guest) -> dict[str, Any]:
    """Return a guest as GET /nodes/{node}/qemu or lxc lists it."""
    use = guest_usage(world, guest)
    row: dict[str, Any] = {
        "vmid": guest.vmid,
        "name": guest.name,
        "status": "running" if guest.running else "stopped",
        "cpus": max_cpus(world, guest),
        "maxmem": max_memory(guest),
        "maxdisk": root_disk(guest),
        **{key: use[key] for key in ("cpu", "mem", "disk", "netin", "netout", "uptime")},
    }
    if guest.type == "lxc":
        swap = int(guest.config.get("swap", 0)) * 1024**2
        row |= {"type": "lxc", "maxswap": swap, "swap": 0}
        row |= {key: use[key] for key in ("diskread", "diskwrite")}
    else:
        row["memhost"] = use["mem"]
    if guest.running:
        row["pid"] = pid_of(guest)
        row |= dict.fromkeys(PRESSURES, 0 if guest.type == "qemu" else None)
    for key in ("tags", "template", "lock"):
        if guest.config.get(key):
            row[key] = guest.config[key]
    return row


def nics(world: World, guest: Guest) -> dict[str, Any]:
    """Return the traffic of a running VM by tap device."""
    use = guest_usage(world, guest)
    traffic = {"netin": use["netin"], "netout": use["netout"]}
    return {
        f"tap{guest.vmid}i{key[3:]}": traffic
        for key in guest.config
        if key.startswith("net") and key[3:].isdecimal()
    }


def current(world: World, guest: Guest) -> dict[str, Any]:
    """Return a guest as GET status/current shows it."""
    row = list_row(world, guest)
    resource = world.ha.get(sid(guest))
    row["ha"] = {"managed": 1, "state": resource.state} if resource else {"managed": 0}
    if guest.type == "qemu":
        row["qmpstatus"] = "paused" if guest.paused else row["status"]
        if agent_enabled(guest):
            row["agent"] = 1
        if guest.running and (cards := nics(world, guest)):
            row["nics"] = cards
    return row


def agent_enabled(guest: Guest) -> bool:
    """Whether the configuration has the guest agent on: `1` or `enabled=1,…`."""
    first = str(guest.config.get("agent", "0")).split(",")[0]
    return first.removeprefix("enabled=") in {"1", "on", "yes", "true"}


def resource_row(world: World, guest: Guest, *, pool: str = "") -> dict[str, Any]:
    """Return a guest as GET /cluster/resources lists it; little is known on a lost node."""
    row: dict[str, Any] = {
        "id": f"{guest.type}/{guest.vmid}",
        "type": guest.type,
        "vmid": guest.vmid,
        "node": guest.node,
    }
    if pool:
        row["pool"] = pool
    if world.online(guest.node) and guest.vmid not in world.faults.unsampled:
        row |= _measured(world, guest)
    else:
        row["status"] = "unknown"
    for key in ("tags", "lock"):
        if guest.config.get(key):
            row[key] = guest.config[key]
    if state := ha_state(world, guest):
        row["hastate"] = state
    return row


def _measured(world: World, guest: Guest) -> dict[str, Any]:
    use = guest_usage(world, guest)
    return {
        "name": guest.name,
        "status": "running" if guest.running else "stopped",
        "template": int(guest.template),
        "maxcpu": max_cpus(world, guest),
        "maxmem": max_memory(guest),
        "maxdisk": root_disk(guest),
        "memhost": use["mem"] if guest.type == "qemu" else 0,
        **use,
    }


def start_guest(world: World, guest: Guest) -> None:
    """Bring a guest up: pending changes take effect."""
    apply_pending(guest)
    guest.running, guest.paused = True, False
    guest.started = world.clock.now()


def stop_guest(guest: Guest) -> None:
    """Take a guest down."""
    guest.running = guest.paused = False
    guest.runs.clear()
    apply_pending(guest)


def apply_pending(guest: Guest) -> None:
    """Make the waiting changes part of the configuration."""
    for key, value in guest.pending.items():
        if value is None:
            guest.config.pop(key, None)
        else:
            guest.config[key] = value
    guest.pending.clear()
