"""Virtual machines: list, status, configuration."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.configs import show_config, show_pending
from pvemcp.sim.declare import Ask, Endpoint, endpoint, flag, index, listing, perm, text
from pvemcp.sim.guests import current, list_row, nics, the_guest

GUEST = "/nodes/{node}/qemu/{vmid}"
AUDIT = perm("/vms/{vmid}", "VM.Audit")
_INDEX = (
    "config", "cloudinit", "pending", "status", "unlink", "vncproxy", "termproxy", "migrate",
    "resize", "move", "rrd", "rrddata", "monitor", "agent", "snapshot", "spiceproxy", "sendkey",
    "firewall", "mtunnel", "remote_migrate",
)  # fmt: skip
_STATUS = ("current", "start", "stop", "reset", "shutdown", "suspend", "reboot")


def _list(ask: Ask) -> list[dict[str, Any]]:
    rows = []
    for guest in ask.world.guests_on(ask.node, "qemu"):
        if not ask.may(f"/vms/{guest.vmid}", "VM.Audit"):
            continue
        row = list_row(ask.world, guest)
        if ask.args.get("full"):
            row["qmpstatus"] = "paused" if guest.paused else row["status"]
            if guest.running and (cards := nics(ask.world, guest)):
                row["nics"] = cards
        rows.append(row)
    return rows


def _status_index(ask: Ask) -> list[dict[str, str]]:
    the_guest(ask, "qemu")
    return [{"subdir": name} for name in _STATUS]


def _current(ask: Ask) -> dict[str, Any]:
    return current(ask.world, the_guest(ask, "qemu"))


def _config(ask: Ask) -> dict[str, Any]:
    return show_config(ask, the_guest(ask, "qemu"))


def _pending(ask: Ask) -> list[dict[str, Any]]:
    return show_pending(the_guest(ask, "qemu"))


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint(
        "GET",
        "/nodes/{node}/qemu",
        _list,
        about="VMs of a node that the caller may see.",
        parameters=(flag("full", "Ask running VMs for all they know."),),
        protected=True,
        returns=index("vmid", "name", "status"),
    ),
    endpoint(
        "GET", GUEST, listing(*_INDEX), about="What there is below a VM.", returns=index("subdir")
    ),
    endpoint(
        "GET",
        f"{GUEST}/status",
        _status_index,
        about="What there is below status.",
        returns=index("subdir"),
    ),
    endpoint(
        "GET",
        f"{GUEST}/status/current",
        _current,
        about="State of a VM.",
        permissions=AUDIT,
        protected=True,
        returns="object",
    ),
    endpoint(
        "GET",
        f"{GUEST}/config",
        _config,
        about="Configuration of a VM with its pending changes applied.",
        permissions=AUDIT,
        returns="object",
        parameters=(
            flag("current", "Without the pending changes.", default=0),
            text("snapshot", "That of a snapshot.", format="pve-configid", max_length=40),
        ),
    ),
    endpoint(
        "GET",
        f"{GUEST}/pending",
        _pending,
        about="Present and pending values of a VM.",
        permissions=AUDIT,
        returns=index("key", "value", "pending", "delete"),
    ),
)
