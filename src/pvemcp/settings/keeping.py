"""What is kept, where, and how long."""
# ruff: noqa: RUF009 - setting is dataclasses.field with a help text

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pvemcp.settings import values
from pvemcp.settings.setting import setting


@dataclass(frozen=True)
class Keeping:
    """Part of Settings: what is kept, where, and how long."""

    audit_keep_days: int = setting(
        365,
        values.integer(0, 36500),
        "Days that the audit goes back; older calls are deleted. 0 keeps them for ever.",
    )
    audit_max_mb: int = setting(
        512,
        values.integer(16, 1024 * 1024),
        "Most megabytes that the database may fill (16 to 1048576): beyond it the oldest calls "
        "are deleted, whatever their age, and of changes the oldest beyond half of it.",
    )
    recordings_max_mb: int = setting(
        512,
        values.integer(1, 1024 * 1024),
        "Most megabytes that recordings of shells may fill: beyond it the oldest are deleted. They "
        "go with the audit's days, too.",
    )
    audit_anchor_file: Path | None = setting(
        None, values.absolute, "File to which the audit's head is appended; best append only."
    )
    audit_syslog: str = setting(
        "",
        values.syslog,
        "Syslog on another machine to which the audit's head goes each minute: "
        "`tls://log.example.org:6514`, `tcp://…` or `udp://…`.",
    )
    audit_syslog_rows: bool = setting(
        False,  # noqa: FBT003 - a fact
        values.switch,
        "Whether every record of the audit goes there, too, as a line of JSON.",
    )
    audit_syslog_ca: Path | None = setting(
        None,
        values.path,
        "PEM file of the authority that signed the syslog's certificate. Default: the system's.",
    )
    changes_keep_days: int = setting(
        90, values.integer(0, 36500), "Days that the journal of changes goes back; 0: for ever."
    )
    backup_recipient: str = setting(
        "",
        values.recipient,
        "Who can open the daily backups: `age1…`, as `pvemcp backup init` makes it. Without it "
        "there are none.",
    )
    backup_to: str = setting(
        "",
        values.backup_target,
        "Where backups go: a folder, or `storage:NAME` for a directory storage of PVE. Default: "
        "`/var/backups/pvemcp`, of an own installation `backups` in the state folder.",
    )
    backup_keep: int = setting(
        14,
        values.integer(1, 10000),
        "How many of its daily backups a host keeps there (1 to 10000).",
    )
