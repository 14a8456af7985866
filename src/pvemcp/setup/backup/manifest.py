"""The first file of a backup: who made it, when, from what, and the hash of everything in it."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pvemcp import __version__
from pvemcp.errors import Misconfigured
from pvemcp.setup.backup.archive import damaged

NAME = "manifest.json"
SIGNATURE = "manifest.sig"
FORMAT = 1
LIMIT = 256 * 1024
MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. `made` is in seconds since the epoch."""

    made: float
    host: str
    machine: str
    """Which installation of an operating system that is."""
    cluster: str
    """Which cluster; empty where there is no PVE."""
    schema: int
    """Of its database."""
    audit: str
    """`whole`, or `head`: the newest call alone."""
    head: Mapping[str, Any]
    """number, id and time of the newest call; empty without any."""
    paths: Mapping[str, str]
    """Where each file stood."""
    members: Mapping[str, Mapping[str, Any]]
    """size and sha256 of each file in the backup."""
    signer: str = ""
    """Public key of the host, in hexadecimal; empty when it has none."""
    pvemcp: str = __version__
    format: int = FORMAT

    def as_bytes(self) -> bytes:
        """Return it as it stands in the backup, and as it is signed."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


def listed(members: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return size and hash of each file."""
    return {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in members.items()
    }


def parse(content: bytes) -> Manifest:
    """Read a manifest. Raises Invalid, and Misconfigured for one of a newer pvemcp."""
    if len(content) > LIMIT:
        raise damaged("its manifest is too large")
    try:
        given = json.loads(content)
        _refuse_newer(given)
        return Manifest(
            made=float(given["made"]),
            host=_text(given["host"]),
            machine=_text(given["machine"]),
            cluster=_text(given["cluster"]),
            schema=int(given["schema"]),
            audit=_text(given["audit"]),
            head={**given["head"]},
            paths={_text(name): _text(path) for name, path in given["paths"].items()},
            members={_text(name): {**entry} for name, entry in given["members"].items()},
            signer=_text(given["signer"]),
            pvemcp=_text(given["pvemcp"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged("its manifest cannot be read") from None


def _refuse_newer(given: Mapping[str, Any]) -> None:
    if int(given["format"]) > FORMAT:
        raise Misconfigured(
            f"The backup was made by a newer pvemcp ({_text(given['pvemcp'])}).",
            hint="Install that version or a newer one here, then try again.",
        )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError
    return value


def this_machine() -> str:
    """Return what tells this installation of an operating system from all others."""
    try:
        identity = MACHINE_ID.read_bytes().strip()
    except OSError:
        identity = b""
    # machine-id(5) asks for a hash; hosts that are installed anew may have the name of the old.
    return hashlib.sha256(b"pvemcp:" + (identity or socket.gethostname().encode())).hexdigest()
