"""Tasks over the API: lists, status, log, stop."""

from __future__ import annotations

import re
from typing import Any

from pvemcp.sim.declare import (
    NODE,
    VMID_LIMITS,
    Answer,
    Ask,
    Endpoint,
    choice,
    endpoint,
    flag,
    index,
    listing,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.permissions import Identity
from pvemcp.sim.refusal import forbidden, rejected
from pvemcp.sim.tasks import Task
from pvemcp.sim.validate import split_list

_UPID = re.compile(
    r"UPID:([A-Za-z0-9-]+):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:[0-9A-Fa-f]{8}:([^:\s]+):([^:\s]*):"
    r"([^:\s]+):?"
)
_TASK = "/nodes/{node}/tasks/{upid}"


def owns(who: Identity, user: str) -> bool:
    """Whether a task of `user` is the caller's: a token's alone, or a user's with its tokens."""
    return who.id == user or (not who.token and user.startswith(f"{who.id}!"))


def may_see(ask: Ask, task: Task) -> bool:
    """Whether a list shows the task to the caller."""
    return owns(ask.who, task.user) or ask.may(f"/nodes/{task.node}", "Sys.Audit")


def finished_row(task: Task, *, brief: bool = False) -> dict[str, Any]:
    """Return a task as lists show it; `brief` is the form of /cluster/tasks."""
    user, _, token = task.user.partition("!")
    row: dict[str, Any] = {
        "upid": task.upid,
        "node": task.node,
        "type": task.type,
        "id": task.id,
        "user": user,
        "starttime": task.starttime,
    }
    if token:
        row["tokenid"] = token
    if not brief or task.running:
        row["pid"] = task.pid
    if not brief:
        row["pstart"] = task.pstart
    if not task.running:
        row |= {"endtime": task.endtime, "status": task.exitstatus}
        if brief:
            row["saved"] = "1"
    return row


def _list(ask: Ask) -> Answer:
    wanted = [task for task in ask.world.tasks.newest() if task.node == ask.node]
    rows = [finished_row(task) for task in wanted if may_see(ask, task) and _passes(ask, task)]
    start, limit = ask.args.get("start", 0), ask.args.get("limit", 50)
    return Answer(rows[start : start + limit], {"total": len(rows)})


def _passes(ask: Ask, task: Task) -> bool:
    args = ask.args
    return (
        _of_source(args.get("source", "archive"), task)
        and (not args.get("errors") or task.failed)
        and args.get("typefilter", task.type) == task.type
        and str(args.get("vmid", task.id)) == task.id
        and args.get("userfilter", "") in task.user
        and args.get("since", 0) <= task.starttime <= args.get("until", task.starttime)
        and _of_status(args.get("statusfilter", ""), task)
    )


def _of_source(source: str, task: Task) -> bool:
    return source == "all" or (source == "active") == task.running


def _of_status(wanted: str, task: Task) -> bool:
    if not wanted:
        return True
    status = "unknown" if task.running else "ok" if task.exitstatus == "OK" else "error"
    if task.exitstatus.startswith("WARNINGS"):
        status = "warning"
    return status in split_list(wanted)


def _user_of(ask: Ask) -> str:
    """Return the user in a UPID. Raises the 400 of one that cannot be read."""
    match = _UPID.fullmatch(ask.args["upid"])
    if match is None:
        raise rejected({"upid": "unable to parse worker upid"})
    if match[1] != ask.node:
        raise rejected({"upid": "upid does not belong to this node"})
    return match[4]


def _permitted(ask: Ask, privilege: str) -> None:
    path = f"/nodes/{ask.node}"
    if not owns(ask.who, _user_of(ask)) and not ask.may(path, privilege):
        raise forbidden(f"{path}, {privilege}")


def _status(ask: Ask) -> dict[str, Any]:
    _permitted(ask, "Sys.Audit")
    task = ask.world.tasks.get(ask.args["upid"])
    if task is None:
        raise rejected({"upid": "no such task"})
    row = finished_row(task)
    row.pop("endtime", None)
    if not task.running:
        row["exitstatus"] = row.pop("status")
    return {**row, "status": "running" if task.running else "stopped"}


def _log(ask: Ask) -> Answer:
    _permitted(ask, "Sys.Audit")
    task = ask.world.tasks.get(ask.args["upid"])
    lines = task.log if task else ["unable to open file - No such file or directory"]
    start, limit = ask.args.get("start", 0), ask.args.get("limit", 50)
    shown = lines[start : start + limit] if limit else lines[start:]
    rows = [{"n": n, "t": line} for n, line in enumerate(shown, start=start + 1)]
    if not rows and not start:
        rows = [{"n": 1, "t": "no content"}]
    return Answer(rows, {"total": len(lines)})


def _stop(ask: Ask) -> None:
    _permitted(ask, "Sys.Modify")
    if task := ask.world.tasks.get(ask.args["upid"]):
        ask.world.tasks.stop(task)


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint(
        "GET",
        "/nodes/{node}/tasks",
        _list,
        about="Tasks of a node: the caller's own, or all with Sys.Audit.",
        parameters=(
            flag("errors", "Failed ones alone.", default=0),
            whole("limit", "At most so many.", default=50, minimum=0),
            whole("since", "Started at or after this time (epoch)."),
            choice(
                "source", "Ended, running or all.", ("archive", "active", "all"), default="archive"
            ),
            whole("start", "Skip so many.", default=0, minimum=0),
            text(
                "statusfilter", "ok, error, warning, unknown.", format="pve-task-status-type-list"
            ),
            text("typefilter", "Of this type."),
            whole("until", "Started at or before this time (epoch)."),
            text("userfilter", "Of this user."),
            whole("vmid", "Of this guest.", **VMID_LIMITS),
        ),
        returns=index("upid"),
    ),
    endpoint(
        "GET",
        _TASK,
        listing("log", "status", key="name"),
        about="What there is.",
        local=True,
        parameters=(NODE,),
        returns=index("name"),
    ),
    endpoint(
        "DELETE",
        _TASK,
        _stop,
        about="Interrupt a task.",
        protected=True,
    ),
    endpoint(
        "GET",
        f"{_TASK}/status",
        _status,
        about="State of a task.",
        protected=True,
        returns="object",
    ),
    endpoint(
        "GET",
        f"{_TASK}/log",
        _log,
        about="Log of a task.",
        protected=True,
        parameters=(
            flag("download", "As one file."),
            whole("limit", "At most so many lines; 0 is all.", default=50, minimum=0),
            whole("start", "Skip so many lines.", default=0, minimum=0),
        ),
        returns=index("n", "t"),
    ),
)
