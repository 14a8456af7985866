"""What a client must trust to accept the service's certificate: who signed it, and its name."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MIRRORED = Path("/run/pvemcp-mirror/ca.crt")
AUTHORITIES = (MIRRORED, Path("/etc/pve/pve-root-ca.pem"))
"""Where the certificate of a cluster's own authority is: for the service, and for root."""


class Signer(Enum):
    """Who signed a certificate."""

    PUBLIC = "a public authority"
    PRIVATE = "an authority of its own"
    ITSELF = "itself"
    UNKNOWN = "an authority that is not on this host"


@dataclass(frozen=True, slots=True)
class Trust:
    """`authority` (PEM) is what a client must be given; empty when nothing, or not known."""

    signer: Signer
    issuer: str
    names: tuple[str, ...]
    authority: str = ""
    fingerprint: str = ""
    """SHA-256 of the authority's certificate, as PVE and openssl write it."""

    def covers(self, host: str) -> bool:
        """Whether the certificate was made for this name or address."""
        name = host.lower()
        return any(name == own or _matches(own, name) for own in map(str.lower, self.names))


def _matches(pattern: str, name: str) -> bool:
    return pattern.startswith("*.") and name.partition(".")[2] == pattern[2:]


def trust_of(cert: Path, authorities: Sequence[Path] = AUTHORITIES) -> Trust:
    """Judge the first certificate of a PEM file. Raises OSError, ValueError."""
    from cryptography import x509  # noqa: PLC0415 - slow to import

    chain = x509.load_pem_x509_certificates(cert.read_bytes())
    top = _top(chain)
    issuer, names = top.issuer.rfc4514_string(), _names(chain[0])
    if _is_public(top):
        return Trust(Signer.PUBLIC, issuer, names)
    if _signed(top, top):
        kind = Signer.ITSELF if top == chain[0] else Signer.PRIVATE
        return _private(kind, top, issuer, names)
    for path in authorities:
        try:
            [authority, *_] = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            continue
        if _signed(top, authority):
            return _private(Signer.PRIVATE, authority, issuer, names)
    return Trust(Signer.UNKNOWN, issuer, names)


def _private(kind: Signer, authority: Certificate, issuer: str, names: tuple[str, ...]) -> Trust:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - slow

    der = authority.public_bytes(Encoding.DER)
    digest = hashlib.sha256(der).digest()
    shown = ":".join(f"{byte:02X}" for byte in digest)
    return Trust(kind, issuer, names, ssl.DER_cert_to_PEM_cert(der), shown)


def _top(chain: list[Certificate]) -> Certificate:
    """Return the last certificate of a file that leads on from its first one."""
    top = chain[0]
    for above in chain[1:]:
        if _signed(top, above):
            top = above
    return top


def _signed(certificate: Certificate, by: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - slow to import

    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_public(top: Certificate) -> bool:
    """Whether this machine's own list of authorities, as other systems have it, leads to it."""
    from cryptography import x509  # noqa: PLC0415 - slow to import

    issuer = top.issuer.public_bytes()
    for der in ssl.create_default_context().get_ca_certs(binary_form=True):
        if issuer in der and _signed(top, x509.load_der_x509_certificate(der)):
            return True
    return False


def _names(certificate: Certificate) -> tuple[str, ...]:
    from cryptography import x509  # noqa: PLC0415 - slow to import

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    addresses = [str(ip_address(str(one))) for one in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def notes(trust: Trust, host: str, *, file: str = "", claude: bool = False) -> tuple[str, ...]:
    """Return what to tell a person whose client reaches the service as `host`.

    `file` is where the authority was written to.
    """
    found = [*_authority_notes(trust, host, file=file, claude=claude)]
    if not trust.covers(host):
        names = ", ".join(trust.names) or "none"
        found.append(
            f"The certificate was not made for {host}: clients will refuse it. Its names: {names}. "
            "Give one of them with --url https://NAME:PORT/mcp."
        )
    return tuple(found)


def _authority_notes(trust: Trust, host: str, *, file: str, claude: bool) -> tuple[str, ...]:
    if trust.signer is Signer.PUBLIC:
        return (f"Clients trust the certificate: it is signed by {trust.issuer}.",)
    if trust.signer is Signer.UNKNOWN:
        unknown = f"The certificate is signed by {trust.issuer}, which is not on this host"
        return (f"{unknown}: unless the client knows it, name its file in NODE_EXTRA_CA_CERTS.",)
    place = file or "pvemcp-ca.pem"
    also = ", or in `env` of ~/.claude/settings.json" if claude else ""
    signed = "no authority" if trust.signer is Signer.ITSELF else trust.issuer
    fetch = (
        f"It is in {file}: copy it to the client's machine."
        if file
        else f"On the client's machine: ssh root@{host} pvemcp connect json --ca-out - > {place}"
    )
    return (
        f"The certificate is signed by {signed}, so the client must be told to trust it. {fetch}",
        f'Before the client starts: export NODE_EXTRA_CA_CERTS="$PWD/{Path(place).name}"{also}.',
        f"SHA-256 fingerprint of that file's certificate: {trust.fingerprint}",
    )
