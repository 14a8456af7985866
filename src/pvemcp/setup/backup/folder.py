"""Where backups go: a folder, or a directory storage of PVE; their names, and how many stay."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pvemcp.errors import Invalid, Unavailable
from pvemcp.setup.backup.sealing import FIRST_LINE
from pvemcp.setup.backup.written import unwritable
from pvemcp.setup.pvesh import Pvesh

SUBFOLDER = "pvemcp-backup"
_NAME = re.compile(r"pvemcp-(?P<host>[A-Za-z0-9-]+)-(?P<date>\d{8}T\d{6}Z)\.age")
_STORAGE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]")
_MOUNTED = frozenset({"nfs", "cifs", "cephfs", "glusterfs"})
"""Storages that PVE mounts: an empty folder in their place is on the host's own disk."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One backup file, by its name. `made` is in seconds since the epoch."""

    path: Path
    host: str
    made: float
    size: int


def file_name(host: str, made: float) -> str:
    """Return the name of a backup."""
    short = re.sub(r"[^A-Za-z0-9-]", "-", host.partition(".")[0]) or "host"
    return f"pvemcp-{short}-{datetime.fromtimestamp(made, UTC):%Y%m%dT%H%M%SZ}.age"


def kept_in(folder: Path) -> list[Kept]:
    """Return the backups in a folder, the oldest first. What has another name is not one."""
    try:
        found = [each for path in folder.iterdir() if (each := _kept(path))]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise unwritable(folder, exc) from None
    return sorted(found, key=lambda each: each.made)


def _kept(path: Path) -> Kept | None:
    match = _NAME.fullmatch(path.name)
    if match is None or path.is_symlink() or not path.is_file():
        return None
    try:
        made = datetime.strptime(match["date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return Kept(path, match["host"], made.timestamp(), path.stat().st_size)


def delete_old(folder: Path, host: str, keep: int) -> list[Path]:
    """Delete this host's backups beyond the newest `keep`; return which.

    Only plain files that have the name of this host's backups and begin as one are counted.
    """
    mine = file_name(host, 0.0).rpartition("-")[0] + "-"
    ours = [each for each in kept_in(folder) if each.path.name.startswith(mine) and _is_age(each)]
    old = [each.path for each in ours if f"pvemcp-{each.host}-" == mine][:-keep]
    try:
        for path in old:
            path.unlink()
    except OSError as exc:
        raise unwritable(folder, exc) from None
    return old


def _is_age(kept: Kept) -> bool:
    try:
        with kept.path.open("rb") as file:
            return file.read(len(FIRST_LINE)) == FIRST_LINE
    except OSError:
        return False


def folder_of_storage(storage: str) -> Path:
    """Return our folder in a storage of PVE, which says where it is. Raises a Fault."""
    if not _STORAGE.fullmatch(storage):
        raise Invalid(f"{storage!r} is not the name of a storage.", hint="See: pvesm status")
    return usable(storage, Pvesh().get(f"/storage/{storage}"))


def usable(storage: str, config: Mapping[str, Any]) -> Path:
    """Return our folder in a storage that PVE describes so. Raises a Fault when it has no place."""
    kind, path = str(config.get("type")), config.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise Invalid(
            f"The storage {storage} ({kind}) has no path: files cannot be put there.",
            hint="Name one of type dir, nfs, cifs or cephfs, or a folder with --to.",
        )
    if str(config.get("disable", "0")) == "1":
        raise Invalid(f"The storage {storage} is disabled.", hint="Enable it, or name another.")
    nodes = str(config.get("nodes") or "")
    if nodes and socket.gethostname().partition(".")[0] not in re.split(r"[,;\s]+", nodes):
        raise Invalid(f"The storage {storage} is only on: {nodes}.", hint="Name one of this node.")
    mount = str(config.get("is_mountpoint") or "")
    expected = {"": "", "0": "", "no": "", "1": path, "yes": path}.get(mount, mount)
    if kind in _MOUNTED or expected:
        _require_mount(storage, Path(expected or path))
    return Path(path) / SUBFOLDER


def _require_mount(storage: str, path: Path) -> None:
    if not os.path.ismount(path):
        raise Unavailable(
            f"The storage {storage} is not mounted at {path}.",
            hint="See pvesm status; without the mount the backup would fill this host's own disk.",
        )
