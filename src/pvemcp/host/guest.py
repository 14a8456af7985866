"""Enters a container of this node: `guest.py [--privileged] VMID COMMAND…` (an operation).

Refuses privileged containers, whose root is the host's, unless exec.toml says --privileged. Exits
with 125 when it refuses, so that this cannot be taken for the command's own exit code 0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONFIGS = Path("/etc/pve/lxc")
REFUSED = 125


def main(arguments: list[str]) -> None:
    """Become `pct exec`, or say why not."""
    privileged = arguments[0] == "--privileged"
    vmid, *argv = arguments[privileged:]
    try:
        config = (CONFIGS / f"{vmid}.conf").read_text("utf-8")
    except OSError:
        refuse(f"container {vmid} is not on this node")
    current = config.partition("\n[")[0].splitlines()  # what follows are snapshots
    if not privileged and "unprivileged: 1" not in current:
        refuse(
            f"container {vmid} is privileged: root in it is root of the host. An administrator "
            "can allow it with --privileged in the operation guest-exec of exec.toml."
        )
    os.execvp("pct", ["pct", "exec", vmid, "--", *argv])  # noqa: S606, S607 - the whole purpose


def refuse(reason: str) -> None:
    """Exit with the reason on stderr."""
    sys.stderr.write(f"pvemcp: {reason}\n")
    sys.exit(REFUSED)


if __name__ == "__main__":
    main(sys.argv[1:])
