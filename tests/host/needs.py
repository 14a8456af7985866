"""What the tests on a machine need of this computer, and whether they are wanted at all."""

from __future__ import annotations

import os
import shutil

from tests.host.images import SUITES, SYSTEM_PATH, Suite

WANTED = "PVEMCP_TEST_HOST"
CHOSEN = "PVEMCP_HOST_SUITES"
EVERYTHING = "PVEMCP_HOST_EVERYTHING"
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""Programs, and the Debian packages that have them."""


def wanted() -> bool:
    """Return whether the tests may boot machines."""
    return os.environ.get(WANTED) == "1"


def once(suite: Suite, on: Suite) -> str:
    """Say why a test that says the same on both Debians is left out on one, or ""."""
    if suite == on or os.environ.get(EVERYTHING) == "1":
        return ""
    return f"tried on {on}; {EVERYTHING}=1 tries it on both"


def missing() -> str:
    """Say what this computer lacks, or ""."""
    if os.geteuid() != 0:
        return "machines need root"
    lacking = [tool for tool in TOOLS if not shutil.which(tool, path=SYSTEM_PATH)]
    packages = sorted({TOOLS[tool] for tool in lacking})
    install = f"apt-get install {' '.join(packages)}"
    return f"machines need {', '.join(lacking)}: {install}" if lacking else ""


def suites() -> list[Suite]:
    """Return the suites to test on. Raises ValueError for one that there is not."""
    chosen = [name for name in os.environ.get(CHOSEN, "").replace(",", " ").split() if name]
    if unknown := [name for name in chosen if name not in SUITES]:
        raise ValueError(f"{CHOSEN} has {', '.join(unknown)}: there are {', '.join(SUITES)}")
    return [suite for suite in SUITES if not chosen or suite in chosen]
