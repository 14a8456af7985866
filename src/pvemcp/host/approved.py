"""Runs one command that a person approved as root: `approved.py ID` (an operation of root's).

The command is not what the caller says but what `pvemcp approvals approve` put into FOLDER, which
only root can write. Taking the file away uses the approval up, so it runs once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

FOLDER = Path("/var/lib/pvemcp-helper/approved")
REFUSED = 77


def main(id_: str, folder: Path = FOLDER) -> int:
    """Become the command; return REFUSED when there is no such approval, or it is too old."""
    place, taken = folder / f"{id_}.json", folder / f"{id_}.{os.getpid()}"
    try:
        place.rename(taken)  # of two at once, one has it
        found = json.loads(taken.read_bytes())
        taken.unlink()
    except FileNotFoundError:
        sys.stderr.write("no person has approved this on this host, or it was used already\n")
        return REFUSED
    if time.time() > found["expires"]:
        sys.stderr.write("the approval has expired\n")
        return REFUSED
    return become(found)


def become(found: dict[str, Any]) -> NoReturn:
    """Replace this process by the command."""
    os.chdir(found["cwd"] or "/root")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)  # nobody approved what it could read there
    environment = {**os.environ, **found["env"]}
    os.execve("/bin/bash", ["bash", "-c", found["shell"]], environment)  # noqa: S606 - its purpose


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
