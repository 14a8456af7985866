"""What can be taken back, told before it is done: by method and parameters alone.

The journal itself decides afterwards, by what it saw (see subjects.py). The table is
`undoable.toml`, beside this file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_GUEST = r"/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}"
_DISK = re.compile(r"(?:scsi|virtio|sata|ide|efidisk|tpmstate|mp|unused)\d+|rootfs")
BACK = "change_undo writes the former values back"


@dataclass(frozen=True, slots=True)
class Promise:
    """Whether a write can be taken back. One of the two is empty."""

    how: str = ""
    why_not: str = ""

    @property
    def text(self) -> str:
        """Say it in one line, as a plan shows it."""
        return self.how or f"not possible, {self.why_not}"


def promise(verb: str, template: str, params: Mapping[str, Any]) -> Promise:
    """Tell how a write could be taken back, or why it could not be."""
    if verb == "RUN":
        return Promise(why_not="what a command does is not known")
    if re.fullmatch(rf"{_GUEST}/config", template):
        return _config(params)
    if verb == "POST" and re.fullmatch(r"/nodes/\{node\}/(?:qemu|lxc)", template):
        return _created(params)
    method = f"{verb} {template}"
    for pattern, found in _table():
        if pattern.fullmatch(method):
            return found
    return Promise(why_not="no way back is known for this method")


def _config(params: Mapping[str, Any]) -> Promise:
    force = str(params.get("force", "")) in ("1", "True")
    gone = [name for name in _names(params.get("delete")) if _DISK.fullmatch(name)]
    forced = [name for name in gone if force or name.startswith("unused")]
    if forced:
        return Promise(why_not=f"the volume of {', '.join(forced)} is deleted")
    return Promise(how=BACK)


def _created(params: Mapping[str, Any]) -> Promise:
    if params.get("force") and (params.get("archive") or params.get("restore")):
        return Promise(
            why_not="what the guest had before is overwritten, its snapshots too; make a backup of "
            "it first"
        )
    return Promise(how="change_undo destroys the new guest, after asking")


def _names(value: Any) -> list[str]:
    listed = value if isinstance(value, (list, tuple)) else re.split(r"[,; ]+", str(value or ""))
    return [str(name) for name in listed if name]


@cache
def _table() -> tuple[tuple[re.Pattern[str], Promise], ...]:
    text = files("pvemcp.journal").joinpath("undoable.toml").read_text("utf-8")
    return tuple(
        (_pattern(method), Promise(rule.get("how", ""), rule.get("why_not", "")))
        for rule in tomllib.loads(text)["rule"]
        for method in rule["methods"]
    )


def _pattern(method: str) -> re.Pattern[str]:
    return re.compile(re.escape(method).replace(r"\*", ".*"))
