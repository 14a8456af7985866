"""Enters a container of this node: `guest.py [--privileged] VMID COMMAND…` (an operation).

Refuses privileged containers, whose root is the host's, unless exec.toml says --privileged. Exits
with 125 when it refuses, so that this cannot be taken for the command's own exit code 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFIGS = Path("/etc/pve/lxc")
REFUSED = 125


def main(arguments: list[str], configs: Path = CONFIGS) -> None:
    """Become `pct exec`, or say why not."""
    privileged = arguments[0] == "--privileged"
    vmid, *argv = arguments[privileged:]
    try:
        config = (configs / f"{vmid}.conf").read_bytes()
    except OSError:
        refuse(f"container {vmid} is not on this node")
    if not privileged and (not says_unprivileged(config) or shares_users(vmid)):
        refuse(
            f"container {vmid} is privileged: root in it is root of the host. An administrator "
            "can allow it with --privileged in the operation guest-exec of exec.toml."
        )
    os.execvp("pct", ["pct", "exec", vmid, "--", *argv])  # noqa: S606, S607 - the whole purpose


def says_unprivileged(config: bytes) -> bool:
    """Read it as PVE does: a line feed ends a line, and nothing else that a value may hold."""
    current = (b"\n" + config).partition(b"\n[")[0]  # what follows are snapshots
    return b"unprivileged: 1" in current.split(b"\n")


def shares_users(vmid: str) -> bool:
    """Whether the container runs with the host's users: its configuration may say otherwise now."""
    try:
        asked = ("lxc-info", "-n", vmid, "-p", "-H")
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
        pid = int(told)
        return Path(f"/proc/{pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
    except (OSError, ValueError):  # it does not run, so nothing can be entered
        return False


def refuse(reason: str) -> None:
    """Exit with the reason on stderr."""
    sys.stderr.write(f"pvemcp: {reason}\n")
    sys.exit(REFUSED)


if __name__ == "__main__":
    main(sys.argv[1:])
