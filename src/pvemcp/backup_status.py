"""How the last backup ended: a small file that root writes and the service reads.

On a host it is `/var/lib/pvemcp-backup/backup-status.json` (root:pvemcp 0640, in root's folder);
for an installation of a user's own it is in the state folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pvemcp.settings import Settings
from pvemcp.settings.sources import SYSTEM_STATE

SYSTEM_FOLDER = Path("/var/lib/pvemcp-backup")
FILE = "backup-status.json"
LATE = 3 * 86400.0
"""Seconds. The timer makes one a day."""
LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Status:
    """Times are in seconds since the epoch; None is never."""

    tried: float
    """When the last one was begun."""
    made: float | None
    """When the last good one was begun."""
    error: str = ""
    """Why the last one failed; empty when it did not."""
    file: str = ""
    """The last good one."""
    size: int = 0
    daily: bool = True
    """There is to be one every day."""

    def as_bytes(self) -> bytes:
        """Return it as it stands in the file."""
        return json.dumps(asdict(self)).encode()


def path_of(settings: Settings) -> Path:
    """Return where the status of this installation is."""
    folder = SYSTEM_FOLDER if settings.state_dir == SYSTEM_STATE else settings.state_dir
    return folder / FILE


def read(settings: Settings) -> Status | None:
    """Return how the last backup ended; None when there was none, or nobody can tell."""
    try:
        with path_of(settings).open("rb") as file:
            given: dict[str, Any] = json.loads(file.read(LIMIT))
        made = given["made"]
        return Status(
            tried=float(given["tried"]),
            made=None if made is None else float(made),
            error=str(given["error"]),
            file=str(given["file"]),
            size=int(given["size"]),
            daily=given["daily"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def problem(settings: Settings, now: float) -> str:
    """Return what is wrong with the daily backup; empty when nothing is, or it is off.

    It goes by the file alone: a service that has not read its settings since sees it, too.
    """
    status = read(settings)
    if status is None:
        return ""
    if status.error:
        return f"The last backup failed: {status.error}"
    if status.daily and now - (status.tried if status.made is None else status.made) > LATE:
        return "There was no backup for three days: see systemctl status pvemcp-backup.timer."
    return ""
