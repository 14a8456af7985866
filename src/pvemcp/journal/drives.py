"""Drives in a guest's configuration: which volumes come, go and are only let go of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DRIVE = re.compile(r"(?:scsi|virtio|sata|ide|efidisk|tpmstate|mp)\d+|rootfs")
_UNUSED = re.compile(r"unused\d+")
_PENDING = " (pending)"


def is_drive(name: str) -> bool:
    """Whether a setting names a disk or mount point in use."""
    return bool(_DRIVE.fullmatch(name))


def is_unused(name: str) -> bool:
    """Whether a setting names a volume that no drive uses."""
    return bool(_UNUSED.fullmatch(name))


def volume_of(value: Any) -> str:
    """Return the guest's own volume in a drive's value; empty for a CD-ROM or a path."""
    text = str(value)
    first = text.split(",", 1)[0]
    name = first.split("=", 1)[1] if first.startswith(("file=", "volume=")) else first
    own = ":" in name and not name.startswith("/") and ":iso/" not in name
    return name if own and "media=cdrom" not in text else ""


def volumes(state: Mapping[str, Any]) -> set[str]:
    """Return all volumes that a configuration names, pending ones too."""
    names = (name for name in state if is_drive(_plain(name)) or is_unused(_plain(name)))
    return {volume_of(state[name]) for name in names} - {""}


def _plain(name: str) -> str:
    return name.removesuffix(_PENDING)


def free_unused(state: Mapping[str, Any]) -> str:
    """Return the name that PVE gives the next volume that is let go of."""
    number = 0
    while f"unused{number}" in state:
        number += 1
    return f"unused{number}"
