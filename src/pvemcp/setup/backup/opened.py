"""Opens a backup, and believes nothing of it before it is checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pvemcp.errors import Invalid, Missing
from pvemcp.setup.backup import archive, database, manifest, signing
from pvemcp.setup.backup.archive import damaged
from pvemcp.setup.backup.make import DATABASE, RIGHTS, SIGNING_KEY
from pvemcp.setup.backup.manifest import Manifest
from pvemcp.setup.backup.places import DROP_IN, FILE_LIMIT
from pvemcp.setup.backup.sealing import FIRST_LINE, Identity, Passphrase, unseal

MOST_SEALED = 1024**3
"""Bytes of a file that is read."""
_PLAIN = {"settings.toml", "exec.toml", "firewall.nft", "cluster/clients.json", SIGNING_KEY, RIGHTS}


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup whose files are those of its manifest."""

    manifest: Manifest
    members: dict[str, bytes]
    origin_checked: bool
    """Its maker is known: by its signature, or by the passphrase."""


def sealed_by_passphrase(path: Path) -> bool:
    """Whether a passphrase opens the file. Raises Missing, and Invalid for what is no backup."""
    begin = _read(path, 256)
    if not begin.startswith(FIRST_LINE):
        raise Invalid(
            f"{path} is not a backup: it does not begin as one.", hint="See: pvemcp backup list"
        )
    return begin.startswith(FIRST_LINE + b"-> scrypt ")


def open_backup(
    path: Path, key: Callable[[], Identity | Passphrase], *, own_signer: str = ""
) -> Backup:
    """Decrypt and check a backup. Raises a Fault for whatever is not as it was made.

    `own_signer` is the public key of this host: it counts where the key file names no signer.
    """
    sealed = _read(path, MOST_SEALED)
    opener = key()
    members = archive.unpack(unseal(sealed, opener))
    described = members.pop(manifest.NAME, b"")
    signature = members.pop(manifest.SIGNATURE, b"")
    signer = opener.signer or own_signer if isinstance(opener, Identity) else ""
    if signer:
        signing.check(described, signature, signer)
    found = manifest.parse(described)
    if dict(found.members) != manifest.listed(members):
        raise damaged("its files are not those of its manifest")
    _refuse_strange(members)
    if database.schema(members[DATABASE]) != found.schema:
        raise damaged("its database is not that of its manifest")
    return Backup(found, members, origin_checked=bool(signer) or isinstance(opener, Passphrase))


def _refuse_strange(members: dict[str, bytes]) -> None:
    if DATABASE not in members:
        raise damaged("there is no database in it")
    for name, content in members.items():
        known = name in _PLAIN or name == DATABASE or name.startswith("files/")
        if not known and not DROP_IN.fullmatch(name):
            raise damaged(f"it holds {name}")
        if name != DATABASE and len(content) > FILE_LIMIT:
            raise damaged(f"{name} is too large")


def _read(path: Path, most: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hold us up
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Invalid(f"{path} is not a file.", hint="Name a backup: pvemcp backup list")
            if most == MOST_SEALED < found.st_size:
                raise damaged(f"it has more than {MOST_SEALED:,} bytes")
            return file.read(most)
    except FileNotFoundError:
        raise Missing(f"There is no file {path}.", hint="See: pvemcp backup list") from None
    except OSError as exc:
        raise Invalid(f"{path} cannot be read: {exc.strerror}.", hint="Run as root.") from None
