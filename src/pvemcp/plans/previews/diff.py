"""From what to what: the keys of a config, and what of it is lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvemcp.plans.preview import Change
from pvemcp.plans.previews.looking import line, value

_NOT_CONFIG = frozenset(
    {"node", "vmid", "digest", "revert", "force", "skiplock", "background_delay"}
)
_FLAGS = ("0", "1", "True", "False")
"""`delete` of a pool's members or of a moved disk's source is no list of names."""
DISK = re.compile(r"(?:ide|sata|scsi|virtio|unused|mp|efidisk|tpmstate)[0-9]+|rootfs")


def names(text: object) -> list[str]:
    """Split PVE's list of names: by commas, semicolons or blanks."""
    return [name for name in re.split(r"[\s,;]+", str(text or "")) if name]


def config_changes(
    config: Mapping[str, Any], given: Mapping[str, Any], *, force: bool = False
) -> tuple[list[Change], list[str]]:
    """Return what changes, and which volumes are detached or deleted.

    A disk that leaves the configuration is kept as `unusedN`; with `force`, and when it is such a
    one already, its volume is deleted.
    """
    changes, lost = [], []
    listed = str(given.get("delete")) not in _FLAGS
    for key in names(given.get("delete")) if listed else ():
        key = "ide2" if key == "cdrom" else key  # noqa: PLW2901 - PVE's own alias
        old = config.get(key)
        changes.append(Change(key, "(not set)" if old is None else value(key, old), None))
        if old is not None and DISK.fullmatch(key) and "media=cdrom" not in str(old):
            gone = force or key.startswith("unused")
            lost.append(f"{key} {line(old)} is {'deleted' if gone else 'detached'}")
    for key, new in given.items():
        if key in _NOT_CONFIG or (key == "delete" and listed):
            continue
        old = config.get(key)
        if old is None or str(old) != str(new):
            changes.append(Change(key, None if old is None else value(key, old), value(key, new)))
    if revert := names(given.get("revert")):
        changes += [Change(key, "pending change", "(dropped)") for key in revert]
    return changes, lost
