"""Makes a backup: everything is read, packed, signed and encrypted in memory, then written once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pvemcp import backup_status
from pvemcp.backup_status import Status
from pvemcp.errors import Fault
from pvemcp.settings import Settings
from pvemcp.setup.backup import archive, database, manifest, signing
from pvemcp.setup.backup.cluster import this_cluster
from pvemcp.setup.backup.folder import delete_old, file_name, folder_of_storage
from pvemcp.setup.backup.places import Places, read_files
from pvemcp.setup.backup.sealing import Passphrase, Recipient, seal
from pvemcp.setup.backup.written import write_new

DATABASE = "database.sqlite"
SIGNING_KEY = "signing.key"
RIGHTS = "pve.json"
STORAGE = "storage:"


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made."""

    path: Path
    size: int
    deleted: tuple[Path, ...] = ()
    """Older ones that went."""


def target(to: str, where: Places) -> Path:
    """Return the folder that a setting or option names: a path, `storage:NAME`, or empty."""
    if to.startswith(STORAGE):
        return folder_of_storage(to.removeprefix(STORAGE))
    return Path(to).absolute() if to else where.backups


def contents(
    where: Places, settings: Settings, *, whole_audit: bool, made: float, rights: bytes = b""
) -> dict[str, bytes]:
    """Return all files of a backup, the manifest first. `rights` are those of clients in PVE.

    Raises a Fault when something that must be in it cannot be read.
    """
    members, paths = read_files(where, settings)
    members[DATABASE] = database.snapshot(where.state, whole_audit=whole_audit)
    secret = signing.signing_key(where.secrets, make=False)
    if secret is not None:
        members[SIGNING_KEY] = secret
    if rights:
        members[RIGHTS] = rights
    described = manifest.Manifest(
        made=made,
        host=socket.gethostname(),
        machine=manifest.this_machine(),
        cluster=this_cluster(),
        schema=database.schema(members[DATABASE]),
        audit="whole" if whole_audit else "head",
        head=database.head(members[DATABASE]),
        paths=paths,
        members=manifest.listed(members),
        signer=signing.public(secret) if secret is not None else "",
    ).as_bytes()
    signature = signing.sign(described, secret) if secret is not None else b""
    return {manifest.NAME: described, manifest.SIGNATURE: signature, **members}


def make(
    folder: Path,
    where: Places,
    settings: Settings,
    lock: Recipient | Passphrase,
    *,
    whole_audit: bool = False,
    keep: int | None = None,
    rights: bytes = b"",
    clock: Callable[[], float] = time.time,
) -> Made:
    """Make a backup in a folder, and note it. Raises a Fault; nothing is then left there.

    With `keep` it is the daily one: the older ones of this host beyond so many are deleted, and a
    failure is noted, too, for nobody sits before it.
    """
    begun = clock()
    try:
        members = contents(where, settings, whole_audit=whole_audit, made=begun, rights=rights)
        sealed = seal(archive.pack(members), lock)
        path = folder / file_name(socket.gethostname(), begun)
        write_new(path, sealed, make_folder=True)
        deleted = delete_old(folder, socket.gethostname(), keep) if keep else []
    except Fault as fault:
        if keep:
            note_failure(settings, where, fault, begun)
        raise
    daily = bool(settings.backup_recipient)
    _note(settings, where, Status(begun, begun, "", str(path), len(sealed), daily))
    return Made(path, len(sealed), tuple(deleted))


def note_failure(settings: Settings, where: Places, fault: Fault, begun: float) -> None:
    """Write down that a daily backup failed, for the service to see."""
    last = backup_status.read(settings)
    good = (last.made, last.file, last.size) if last else (None, "", 0)
    _note(settings, where, Status(begun, good[0], fault.message, good[1], good[2]))


def note_beginning(settings: Settings, where: Places, now: float) -> None:
    """Write down that from now on there is to be one every day, if nothing is noted yet."""
    if backup_status.read(settings) is None:
        _note(settings, where, Status(now, None))


def _note(settings: Settings, where: Places, status: Status) -> None:
    path = backup_status.path_of(settings)
    readers = where.owner[1] if where.owner else None
    write_new(path, status.as_bytes(), make_folder=True, replace=True, readers=readers)
