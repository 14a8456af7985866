"""The host signs its backups, so that nobody else's are restored as its own.

The secret half stays with root; the public half goes into the key file that is kept elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pvemcp.errors import Denied, Misconfigured
from pvemcp.setup.backup.written import write_new

FILE = "backup-signing.key"


def signing_key(folder: Path, *, make: bool) -> bytes | None:
    """Return the secret key of this host; `make` makes one if there is none. Raises a Fault."""
    path = folder / FILE
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        if not make:
            return None
        found = Ed25519PrivateKey.generate().private_bytes_raw()
        write_new(path, found, make_folder=True)
    except OSError as exc:
        raise Misconfigured(
            f"{path} cannot be read: {exc.strerror}.", hint="Run as root."
        ) from None
    if len(found) != 32:
        raise Misconfigured(f"{path} is damaged.", hint="Delete it, then: pvemcp backup init")
    return found


def public(secret: bytes) -> str:
    """Return the public half, in hexadecimal."""
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()


def sign(content: bytes, secret: bytes) -> bytes:
    """Return the signature of `content`."""
    return Ed25519PrivateKey.from_private_bytes(secret).sign(content)


def check(content: bytes, signature: bytes, signer: str) -> None:
    """Raise Denied unless the owner of the public key signed `content`."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)).verify(signature, content)
    except InvalidSignature:
        raise Denied(
            "The backup was not made by the host that the key file names.",
            hint="Somebody else may have made it. Take a backup from a place that you trust.",
        ) from None
