"""Jobs of the cluster: backups and replication."""

from __future__ import annotations

import hashlib
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import (
    Ask,
    Endpoint,
    choice,
    endpoint,
    flag,
    index,
    perm,
    real,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.refusal import failed, forbidden, rejected
from pvemcp.sim.validate import split_list

_STRUCTURED = ("fleecing", "performance", "prune-backups")
"""Property strings when they are written, objects when they are read."""
_CHOICES = {"vmid": ("all", "exclude", "pool"), "all": ("vmid", "pool"),
            "pool": ("vmid", "all", "exclude")}  # fmt: skip
"""What a choice of guests takes the place of."""
_CONTROL = frozenset(("id", "delete", "digest", "guest"))


def _settings(ask: Ask) -> dict[str, Any]:
    return {key: value for key, value in ask.args.items() if key not in _CONTROL}


# Backups -------------------------------------------------------------------------------------


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


def _written(ask: Ask) -> dict[str, Any]:
    given = _settings(ask)
    for name in _STRUCTURED:
        if name in given:
            given[name] = dict(each.split("=", 1) for each in str(given[name]).split(","))
    return given


def _make_job(ask: Ask) -> None:
    name, given = ask.args.get("id") or ask.world.uuid(), _written(ask)
    if name in ask.world.backup_jobs:
        raise failed(f"Job '{name}' already exists")
    if not {"schedule", "starttime"} & given.keys():
        raise rejected({"schedule": "neither 'starttime' nor 'schedule' were set"})
    ask.world.backup_jobs[name] = {"type": "vzdump", "enabled": 1, **given}


def _set_job(ask: Ask) -> None:
    jobs, name = ask.world.backup_jobs, ask.args["id"]
    if name not in jobs:
        raise failed("no such vzdump job")
    gone = split_list(ask.args.get("delete", ""))
    given = _written(ask)
    chosen = next((way for way in _CHOICES if given.get(way)), "")
    gone += _CHOICES.get(chosen, ())
    jobs[name] = {k: v for k, v in jobs[name].items() if k not in gone} | given


def _drop_job(ask: Ask) -> None:
    _job(ask)
    del ask.world.backup_jobs[ask.args["id"]]


# Replication ---------------------------------------------------------------------------------


def _guest_of(ask: Ask, *privileges: str) -> int:
    vmid = int(ask.args["id"].partition("-")[0])
    if not ask.may(f"/vms/{vmid}", *privileges):
        raise forbidden(f"/vms/{vmid}, {privileges[0]}")
    return vmid


def _replications(ask: Ask) -> list[dict[str, Any]]:
    jobs = ask.world.replication.values()
    return [dict(job) for job in jobs if ask.may(f"/vms/{job['guest']}", "VM.Audit")]


def _digest(ask: Ask) -> str:
    said = repr(sorted(ask.world.replication.items()))
    return hashlib.sha1(said.encode(), usedforsecurity=False).hexdigest()


def _replication(ask: Ask) -> dict[str, Any]:
    job = ask.world.replication.get(ask.args["id"])
    if job is None:
        raise failed(f"no such replication job '{ask.args['id']}'")
    _guest_of(ask, "VM.Audit")
    return {**job, "digest": _digest(ask)}


def _make_replication(ask: Ask) -> None:
    world, name, vmid = ask.world, ask.args["id"], _guest_of(ask, "VM.Replicate")
    guest, target = world.guests.get(vmid), ask.args["target"]
    if guest is None:
        raise failed(f"Guest '{vmid}' does not exist.")
    if target not in world.nodes:
        raise failed(f"Target '{target}' does not exist.")
    if target == guest.node:
        raise failed("Source and target must not be identical")
    if name in world.replication:
        raise failed(f"replication job '{name}' already exists")
    number = int(name.partition("-")[2])
    made = {"id": name, "guest": vmid, "jobnum": number, "source": guest.node, **_settings(ask)}
    world.replication[name] = made


def _set_replication(ask: Ask) -> None:
    _guest_of(ask, "VM.Replicate")
    jobs, name = ask.world.replication, ask.args["id"]
    if name not in jobs:
        raise failed(f"no such job '{name}'")
    if ask.args.get("digest") not in (None, _digest(ask)):
        raise failed("detected modified configuration - file changed by other user? Try again.")
    gone = split_list(ask.args.get("delete", ""))
    jobs[name] = {k: v for k, v in jobs[name].items() if k not in gone} | _settings(ask)


def _drop_replication(ask: Ask) -> None:
    """Mark a job for removal: its next run removes it. By force it is gone at once."""
    _guest_of(ask, "VM.Replicate")
    jobs, name = ask.world.replication, ask.args["id"]
    if ask.args.get("force"):
        jobs.pop(name, None)
        return
    if name not in jobs:
        raise failed(f"no such job '{name}'")
    jobs[name]["remove_job"] = "local" if ask.args.get("keep") else "full"

    def run() -> None:
        jobs.pop(name, None)

    ask.world.tasks.later(60, run)


# Declarations --------------------------------------------------------------------------------

_DAYS: dict[str, Any] = {"format": "pve-day-of-week-list", "requires": "starttime"}
_BACKUP: tuple[Parameter, ...] = (
    *(flag(name, "Whether it is so.", default=usual) for name, usual in
      (("all", 0), ("quiet", 0), ("remove", 1), ("repeat-missed", 0), ("stdexcludes", 1),
       ("stop", 0))),
    flag("enabled", "Whether it runs.", default="1"),
    flag("protected", "Of the backups.", requires="storage"),
    *(whole(name, "A limit.", minimum=0, default=usual) for name, usual in
      (("bwlimit", 0), ("lockwait", 180), ("stopwait", 10))),
    whole("ionice", "Priority.", minimum=0, maximum=8, default=7),
    whole("maxfiles", "Superseded by prune-backups.", minimum=1),
    *(whole(name, "Threads.", default=usual) for name, usual in (("pigz", 0), ("zstd", 1))),
    choice("compress", "How.", ("0", "1", "gzip", "lzo", "zstd"), default="0"),
    choice("mode", "How.", ("snapshot", "suspend", "stop"), default="snapshot"),
    choice("mailnotification", "When.", ("always", "failure"), default="always"),
    choice("notification-mode", "How.", ("auto", "legacy-sendmail", "notification-system"),
           default="auto"),
    choice("pbs-change-detection-mode", "How.", ("legacy", "data", "metadata")),
    text("comment", "Notes.", max_length=512),
    *(text(name, "A folder or script.") for name in ("dumpdir", "script", "tmpdir")),
    text("exclude", "Not these guests.", format="pve-vmid-list"),
    text("vmid", "These guests.", format="pve-vmid-list"),
    Parameter("exclude-path", "array", optional=True, description="Not these files.",
              items={"type": "string"}),
    text("fleecing", "Of VMs.", format="backup-fleecing"),
    text("performance", "Of VMs.", format="backup-performance"),
    text("prune-backups", "What to keep.", format="prune-backups", default="keep-all=1"),
    text("mailto", "Who is told.", format="email-or-username-list"),
    text("node", "On this node only.", format="pve-node"),
    text("notes-template", "Notes of backups.", max_length=1024, requires="storage"),
    text("pool", "Guests of this pool."),
    text("schedule", "When it runs.", format="pve-calendar-event", max_length=128),
    text("starttime", "When it runs.", pattern=r"\d{1,2}:\d{1,2}"),
    text("storage", "Where to.", format="pve-storage-id"),
)  # fmt: skip
_JOB = text("id", "The job.", optional=False, max_length=50, pattern=r"\S+")
_REPLICATION: tuple[Parameter, ...] = (
    text("comment", "Notes.", max_length=4096),
    flag("disable", "Whether it is off."),
    real("rate", "Limit in MB/s.", minimum=1),
    choice("remove_job", "How it is removed.", ("local", "full")),
    text("schedule", "When it runs.", format="pve-calendar-event", max_length=128,
         default="*/15"),
    text("source", "Where from.", format="pve-node"),
)  # fmt: skip
_ID = text("id", "Guest and number, such as 100-0.", optional=False,
           format="pve-replication-job-id", pattern=r"[1-9][0-9]{2,8}-\d{1,9}")  # fmt: skip
_GONE: dict[str, Any] = {"about": "Settings to remove.", "format": "pve-configid-list"}
_AUDIT, _MODIFY = perm("/", "Sys.Audit"), perm("/", "Sys.Modify")

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/cluster/backup", _jobs, about="Backup jobs.", permissions=_AUDIT,
             returns=index("id")),
    endpoint("POST", "/cluster/backup", _make_job, about="Make a job.", permissions=_MODIFY,
             protected=True,
             parameters=(text("id", "The job.", format="pve-configid"), *_BACKUP,
                         text("dow", "On these days.", **_DAYS,
                              default="mon,tue,wed,thu,fri,sat,sun"))),
    endpoint("GET", "/cluster/backup/{id}", _job, about="A backup job.", permissions=_AUDIT,
             parameters=(_JOB,), returns="object"),
    endpoint("PUT", "/cluster/backup/{id}", _set_job, about="Change a job.",
             permissions=_MODIFY, protected=True,
             parameters=(_JOB, *_BACKUP, text("dow", "On these days.", **_DAYS),
                         text("delete", **_GONE))),
    endpoint("DELETE", "/cluster/backup/{id}", _drop_job, about="Remove a job.",
             permissions=_MODIFY, protected=True, parameters=(_JOB,)),
    endpoint("GET", "/cluster/replication", _replications, about="Replication jobs.",
             returns=index("id")),
    endpoint("POST", "/cluster/replication", _make_replication, about="Make a job.",
             protected=True,
             parameters=(_ID, choice("type", "Of one kind.", ("local",), optional=False),
                         text("target", "Where to.", optional=False, format="pve-node"),
                         *_REPLICATION)),
    endpoint("GET", "/cluster/replication/{id}", _replication, about="A replication job.",
             parameters=(_ID,), returns="object"),
    endpoint("PUT", "/cluster/replication/{id}", _set_replication, about="Change a job.",
             protected=True,
             parameters=(_ID, *_REPLICATION, text("delete", **_GONE, max_length=4096),
                         text("digest", "Refuse when it has changed.", max_length=64))),
    endpoint("DELETE", "/cluster/replication/{id}", _drop_replication,
             about="Mark a job for removal.", protected=True,
             parameters=(_ID, flag("force", "Now, without cleaning up.", default=0),
                         flag("keep", "Keep what was replicated.", default=0))),
)  # fmt: skip
