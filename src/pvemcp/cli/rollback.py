"""Command that brings back the version before an upgrade."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pvemcp.errors import Unavailable

SCRIPT = Path("/usr/lib/pvemcp/upgrade.py")
"""It does it alone, so that it also works when the rest of a new version does not."""


@click.command(short_help="Go back to the version before an upgrade.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def rollback(dry_run: bool) -> None:  # noqa: FBT001 - click passes it so
    """Bring back the version before the last upgrade, with its settings and, if needed, its data.

    The upgrade kept them in /var/backups/pvemcp. What is there now is kept beside them. Needs root.
    """
    if not SCRIPT.exists():
        raise Unavailable(
            "This pvemcp was not installed by its Debian package.",
            hint="Install the version that you want with the tool that installed this one.",
        )
    option = ("--dry-run",) if dry_run else ()
    os.execv("/usr/bin/python3", ("python3", "-I", str(SCRIPT), "rollback", *option))  # noqa: S606
