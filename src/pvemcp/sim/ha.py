"""High availability, backup jobs, the cluster log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pvemcp.sim.declare import (
    Ask,
    Endpoint,
    choice,
    endpoint,
    index,
    listing,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.refusal import failed, rejected
from pvemcp.sim.world import HaResource, World

_AUDIT = perm("/", "Sys.Audit")


def _digest(value: Any) -> str:
    return hashlib.sha1(repr(value).encode(), usedforsecurity=False).hexdigest()


# Resources -----------------------------------------------------------------------------------


def _resource_row(world: World, resource: HaResource) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sid": resource.sid,
        "type": resource.sid.partition(":")[0],
        "state": resource.state,
        "digest": _digest(sorted(world.ha)),
    }
    if resource.comment:
        row["comment"] = resource.comment
    for key in ("max_restart", "max_relocate"):
        if getattr(resource, key) != 1:
            row[key] = getattr(resource, key)
    return row


def _resources(ask: Ask) -> list[dict[str, Any]]:
    rows = [_resource_row(ask.world, resource) for resource in ask.world.ha.values()]
    return [row for row in rows if ask.args.get("type", row["type"]) == row["type"]]


def _resource(ask: Ask) -> dict[str, Any]:
    wanted = ask.args["sid"]
    for name in (wanted, f"vm:{wanted}", f"ct:{wanted}"):
        if name in ask.world.ha:
            return _resource_row(ask.world, ask.world.ha[name])
    raise failed(f"no such resource '{wanted}'")


def _ctime(at: float) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(at))


def _current(ask: Ask) -> list[dict[str, Any]]:
    world, now = ask.world, ask.world.clock.seconds()
    quorate = not world.faults.quorum_lost
    local, stamp = world.local.name, _ctime(now)
    rows: list[dict[str, Any]] = [
        {"id": "quorum", "type": "quorum", "node": local, "quorate": int(quorate),
         "status": "OK" if quorate else "No quorum on node"},
        {"id": "master", "type": "master", "node": local, "timestamp": now,
         "status": f"{local} (active, {stamp})"},
        {"id": "fencing", "type": "fencing", "node": local, "armed-state": "armed",
         "status": "armed (CRM watchdog active)"},
    ]  # fmt: skip
    for name in world.nodes:
        alive = world.online(name)
        state = f"active, watchdog active, {stamp}" if alive else "old timestamp - dead?, -"
        rows.append({"id": f"lrm:{name}", "type": "lrm", "node": name, "timestamp": now,
                     "status": f"{name} ({state})"})  # fmt: skip
    return [*rows, *(_service(world, resource) for resource in world.ha.values())]


def _service(world: World, resource: HaResource) -> dict[str, Any]:
    node = world.guests[int(resource.sid.partition(":")[2])].node
    row: dict[str, Any] = {
        "id": f"service:{resource.sid}",
        "type": "service",
        "sid": resource.sid,
        "node": node,
        "state": resource.state,
        "crm_state": resource.state,
        "request_state": resource.state,
        "status": f"{resource.sid} ({node}, {resource.state})",
        "max_restart": resource.max_restart,
        "max_relocate": resource.max_relocate,
        "failback": 1,
    }
    return {**row, "comment": resource.comment} if resource.comment else row


# Backup jobs and the log ---------------------------------------------------------------------


def _jobs(ask: Ask) -> list[dict[str, Any]]:
    next_run = (ask.world.clock.seconds() // 86400 + 1) * 86400 + 9000
    return [
        {"id": name, **job, "next-run": next_run} for name, job in ask.world.backup_jobs.items()
    ]


def _job(ask: Ask) -> dict[str, Any]:
    name = ask.args["id"]
    if name not in ask.world.backup_jobs:
        raise rejected({"id": f"No such job '{name}'"})
    return {"id": name, **ask.world.backup_jobs[name]}


def _log(ask: Ask) -> list[dict[str, Any]]:
    """Return the newest lines first: all with Sys.Syslog, else one's own."""
    all_ = ask.may("/", "Sys.Syslog")
    lines = (line for line in reversed(ask.world.log) if all_ or line["user"] == ask.who.id)
    return [_log_row(line) for line in islice(lines, ask.args.get("max", 500))]


def _log_row(line: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in line.items() if key != "number"}
    number = line["number"]
    return {**row, "id": f"{number}:{line['node']}", "uid": str(number), "pid": 1190,
            "tag": "pvedaemon"}  # fmt: skip


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/cluster/ha", listing("status", "resources", "groups", "rules", key="id"),
             about="What there is.", permissions=_AUDIT, returns=index("id")),
    endpoint("GET", "/cluster/ha/resources", _resources, about="Guests under HA.",
             permissions=_AUDIT, returns=index("sid"),
             parameters=(choice("type", "Of one kind.", ("ct", "vm")),)),
    endpoint("GET", "/cluster/ha/resources/{sid}", _resource, about="A guest under HA.",
             permissions=_AUDIT, returns="object"),
    endpoint("GET", "/cluster/ha/status", listing("current", "manager_status", "disarm-ha",
                                                  "arm-ha", key="name"),
             about="What there is.", returns=index("name")),
    endpoint("GET", "/cluster/ha/status/current", _current, about="State of HA.",
             permissions=_AUDIT, returns=index("id")),
    endpoint("GET", "/cluster/backup", _jobs, about="Backup jobs.", permissions=_AUDIT,
             returns=index("id")),
    endpoint("GET", "/cluster/backup/{id}", _job, about="A backup job.", permissions=_AUDIT,
             parameters=(text("id", "The job.", optional=False, max_length=50,
                              pattern=r"\S+"),), returns="object"),
    endpoint("GET", "/cluster/log", _log, about="The cluster log, newest first.",
             parameters=(whole("max", "At most so many.", minimum=1),), returns=index("id")),
)  # fmt: skip
