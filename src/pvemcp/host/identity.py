"""How nodes know each other: by the certificates that the cluster's authority gave them.

Proxmox VE's node certificates are for servers only (extendedKeyUsage=serverAuth), so TLS takes
none from a client. Hence TLS proves the node that is called, and the caller proves itself inside:
it signs, with its certificate's key, what that node made up and that node's own certificate. A
proof is therefore of no use on another connection or to another node.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pvemcp.errors import Denied, Misconfigured

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.padding import PSS
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256

CERT, KEY, AUTHORITY = "peer.crt", "peer.key", "ca.crt"
CONTEXT = b"pvemcp peer 1"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
REPAIR = "On that node: pvecm updatecerts --force; then systemctl restart pveproxy pvemcp-mirror."


class _NotRsa(Exception):  # noqa: N818
    """A key of another kind than Proxmox VE makes."""


@dataclass(frozen=True, slots=True)
class Identity:
    """This node's certificate and the cluster's authority.

    `certificate` is in DER; `server` and `client` are TLS with them, 1.3 only.
    """

    certificate: bytes
    key: RSAPrivateKey
    authority: x509.Certificate
    server: ssl.SSLContext
    client: ssl.SSLContext


def load(folder: Path) -> Identity:
    """Load them from the mirror. Raises Misconfigured."""
    from cryptography import x509  # noqa: PLC0415 - 7 MB, which a node alone does not need
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415

    cert, key, authority = (folder / name for name in (CERT, KEY, AUTHORITY))
    try:
        first = _PEM.search(cert.read_bytes())
        if first is None:
            raise ValueError(f"{cert} holds no certificate")
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        if not isinstance(private, RSAPrivateKey):
            raise _NotRsa
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(cert, key)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(authority)
        for each in (server, client):
            each.minimum_version = ssl.TLSVersion.TLSv1_3
        return Identity(
            ssl.PEM_cert_to_DER_cert(first[0].decode("ascii")),
            private,
            x509.load_pem_x509_certificate(authority.read_bytes()),
            server,
            client,
        )
    except OSError as error:
        problem = f"{error.filename or folder}: {error.strerror or error}"
    except _NotRsa:
        problem = f"the key {key} is not RSA"
    except (ValueError, TypeError) as error:
        problem = str(error)
    raise Misconfigured(
        f"this node's cluster certificate cannot be used: {problem}",
        hint="See systemctl status pvemcp-mirror; pvecm updatecerts makes what is missing.",
    )


def proof(identity: Identity, *, own: str, to: str, nonce: bytes, server: bytes) -> bytes:
    """Sign that `own` calls `to`, whose certificate (DER) is `server`, and which said `nonce`."""
    return identity.key.sign(_said(own, to, nonce, server), *_scheme())


def check(
    identity: Identity, certificate: bytes, signature: bytes, *, name: str, to: str, nonce: bytes
) -> None:
    """Raise Denied unless the node `name` proves itself to this one, `to`."""
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415

    try:
        found = x509.load_der_x509_certificate(certificate)
        found.verify_directly_issued_by(identity.authority)
        _require_current(found, name)
        if name not in _names(found):
            raise _refused(f"it is not the certificate of {name}")
        public = found.public_key()
        if not isinstance(public, RSAPublicKey):
            raise _refused("its key is not RSA")
        public.verify(signature, _said(name, to, nonce, identity.certificate), *_scheme())
    except InvalidSignature:
        raise _refused("the cluster's authority did not sign it, or its key is not there") from None
    except (ValueError, TypeError):
        raise _refused("it is not one of this cluster's authority") from None


def _require_current(certificate: x509.Certificate, name: str) -> None:
    now = datetime.now(UTC)
    if now < certificate.not_valid_before_utc:
        raise _refused(f"it is not valid yet; compare the clocks of {name} and this node")
    if now > certificate.not_valid_after_utc:
        raise _refused("it has expired")


def _names(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509  # noqa: PLC0415 - as above

    try:
        kind = x509.SubjectAlternativeName
        return certificate.extensions.get_extension_for_class(kind).value.get_values_for_type(
            x509.DNSName
        )
    except x509.ExtensionNotFound:
        return []


def _refused(why: str) -> Denied:
    return Denied(f"the caller's certificate is refused: {why}", hint=REPAIR)


def _said(own: str, to: str, nonce: bytes, server: bytes) -> bytes:
    return b"\0".join(
        (CONTEXT, own.encode(), to.encode(), nonce.hex().encode(), hashlib.sha256(server).digest())
    )


def _scheme() -> tuple[PSS, SHA256]:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    sha256 = hashes.SHA256()
    return padding.PSS(mgf=padding.MGF1(sha256), salt_length=padding.PSS.DIGEST_LENGTH), sha256
