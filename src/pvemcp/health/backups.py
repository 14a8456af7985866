"""The check of the daily backup."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from pvemcp import backup_status
from pvemcp.health.check import Check, bad, good, warning
from pvemcp.settings import Settings
from pvemcp.settings.sources import SYSTEM_STATE


def check_backups(settings: Settings) -> Iterator[Check]:
    """Judge how the last one ended. An own installation without a recipient wants none."""
    status = backup_status.read(settings)
    if not settings.backup_recipient and not (status and status.error):
        if settings.state_dir == SYSTEM_STATE:
            yield warning("backup", "the daily backup is off", "Turn it on: pvemcp backup init")
        return
    if wrong := backup_status.problem(settings, time.time()):
        yield bad("backup", wrong, "See journalctl -u pvemcp-backup; try it: pvemcp backup")
        return
    if status is None or status.made is None:
        yield warning("backup", "none was made yet", "The timer makes one a day: pvemcp backup")
        return
    made = datetime.fromtimestamp(status.made, UTC)
    yield good("backup", f"{status.file}, made {made:%Y-%m-%d %H:%M} UTC")
