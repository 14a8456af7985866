"""The clients that the nodes of a cluster share, in a restore.

Where the cluster's file is there, it is newer than the backup and stays. Where it is lost, or of
another cluster, that of the backup takes its place, with the PVE tokens that were made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pvemcp.access.grants import CLUSTER
from pvemcp.access.shared import SERIAL, encode, parse
from pvemcp.call import ApiToken
from pvemcp.errors import Misconfigured
from pvemcp.setup.backup import database

AUTHORITY = Path("/etc/pve/pve-root-ca.pem")


def this_cluster() -> str:
    """Return what tells this cluster from all others: it has an authority of its own."""
    try:
        return hashlib.sha256(AUTHORITY.read_bytes()).hexdigest()
    except OSError:
        return ""


def with_tokens(content: bytes, renewed: Mapping[str, ApiToken], present: Path) -> bytes:
    """Return the file of a backup as it counts here, with the tokens that were made anew.

    Its serial is beyond that of the file that it replaces: nodes take it over at once.
    """
    found = parse(content)
    clients = tuple(
        replace(client, token_id=token.id, token_secret=token.secret)
        if (token := renewed.get(client.token_id or ""))
        else client
        for client in found.clients
    )
    serial = max(found.serial, _serial(present)) + 1
    return encode(replace(found, serial=serial, clients=clients))


def _serial(path: Path) -> int:
    try:
        return parse(path.read_bytes()).serial
    except (OSError, Misconfigured):
        return 0


def without_shared(content: bytes) -> bytes:
    """Return a database without the cluster's clients: the service takes them over anew.

    Those that were revoked since the backup must not get in until then.
    """
    with database.opened(content) as db:
        db.execute("DELETE FROM grants WHERE origin = ?", (CLUSTER,))
        db.execute("DELETE FROM state WHERE name = ?", (SERIAL,))
        return db.serialize()
