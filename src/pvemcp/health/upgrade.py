"""The check of the last upgrade: did the new version become ready, was it taken back?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pvemcp import __version__
from pvemcp.health.check import Check, bad, good, warning

OUTCOME = Path("/var/lib/pvemcp-upgrade/last.json")
"""Written by the package's scripts, as host/upgrade.py says."""
NAME = "upgrade"


def check_upgrade(outcome: Path = OUTCOME) -> Iterator[Check]:
    """Judge what became of the last upgrade; nothing where there was none."""
    try:
        told = json.loads(outcome.read_text("utf-8"))
        when = f"{datetime.fromtimestamp(told['time']).astimezone():%Y-%m-%d %H:%M}"
        version, before = str(told["version"]), str(told["from"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield warning(NAME, f"{outcome} cannot be read: {error}", f"Delete it: rm {outcome}")
        return
    match told["outcome"]:
        case "rolled back":
            yield warning(
                NAME,
                f"version {before} was taken back on {when}; {version} is installed again",
                f"Before you install {before} again, read why: journalctl -u pvemcp. "
                f"To forget it: rm {outcome}",
            )
        case "failed":
            back = f"To go back to {before}: pvemcp rollback." if before else ""
            yield bad(
                NAME,
                f"version {version}, installed on {when}, did not become ready",
                f"See journalctl -u pvemcp -n 50. {back} If it runs now: rm {outcome}",
            )
        case _:
            yield good(NAME, f"version {__version__}, since {when}")
