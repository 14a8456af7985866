"""Volumes by their names: whose they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_OWNER = re.compile(
    r"(?:vm|base|subvol|basevol)-(\d+)-|vzdump-(?:qemu|lxc)-(\d+)-|/(?:vm|ct)/(\d+)/"
)
_DRIVE = re.compile(r"(?:scsi|virtio|sata|ide|efidisk|tpmstate|mp|unused)\d+|rootfs")
_DISK = re.compile(
    r"[^:/=]+:(?!(?:iso|vztmpl|backup|snippets|import)/)(?:.*/)?"
    r"(?:(?:vm|base|subvol|basevol)-(\d+)-[^/]*|(\d+)/[^/]+)"
)


def owner(volid: str) -> int:
    """Return the vmid that a volume's name holds, or 0.

    A linked clone names the volume that it is made from, and then its own.
    """
    found = _OWNER.findall(volid)
    return int("".join(found[-1])) if found else 0


def takes_disk(params: Mapping[str, Any]) -> bool:
    """Whether settings of a guest give it a disk that is another guest's by its name."""
    own = str(params.get("vmid") or "")
    for name, value in params.items():
        for part in str(value).split(",") if _DRIVE.fullmatch(name) else ():
            volume = part.removeprefix("file=").removeprefix("volume=")
            found = _DISK.fullmatch(volume)
            if found and (found[1] or found[2]) != own:
                return True
    return False
