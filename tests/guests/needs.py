"""What real guests need of this computer."""

from __future__ import annotations

import os
import shutil

from tests.host.images import SYSTEM_PATH

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "lxc-start": "lxc",
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
    "ldd": "libc-bin",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}
"""Programs, and the Debian packages that have them."""


def missing() -> str:
    """Say what this computer lacks, or ""."""
    if os.geteuid() != 0:
        return "real guests need root"
    lacking = [tool for tool in TOOLS if not shutil.which(tool, path=SYSTEM_PATH)]
    packages = sorted({TOOLS[tool] for tool in lacking})
    install = f"apt-get install --no-install-recommends {' '.join(packages)}"
    return f"real guests need {', '.join(lacking)}: {install}" if lacking else ""
