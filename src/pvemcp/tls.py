"""The service's own certificate and key, and when a certificate is valid."""

from __future__ import annotations

import re
import ssl
from datetime import datetime
from pathlib import Path

from pvemcp.errors import Misconfigured

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_REASONS = {
    "KEY_VALUES_MISMATCH": "the key was not made for this certificate",
    "EE_KEY_TOO_SMALL": "the key of the certificate is too short",
    "CA_MD_TOO_WEAK": "the signature of the certificate is too weak",
}
HINT = "Both must be PEM files, the key without a password and made for the certificate."


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Load certificate chain and key for a server. Raises Misconfigured, and never asks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        own_certificate(cert)
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise _unusable(cert, key, _reason(error)) from None
    except OSError as error:
        raise _unusable(cert, key, error.strerror or str(error)) from None
    except ValueError as error:
        raise _unusable(cert, key, str(error)) from None
    return context


def own_certificate(cert: Path) -> bytes:
    """Return the first certificate of a PEM file in DER. Raises OSError, ValueError."""
    found = _PEM.search(cert.read_text("ascii", "replace"))
    if found is None:
        raise ValueError(f"{cert.name} holds no certificate")
    return ssl.PEM_cert_to_DER_cert(found[0])


def validity(certificate: bytes) -> tuple[datetime, datetime]:
    """Return from when to when a certificate (DER) is valid. Raises ValueError."""
    from cryptography import x509  # noqa: PLC0415 - 7 MB, for a service that may have no TLS

    found = x509.load_der_x509_certificate(certificate)
    return found.not_valid_before_utc, found.not_valid_after_utc


def _no_password() -> str:
    """Stand in for OpenSSL's question on the terminal: a key with a password is refused."""
    raise ValueError("the key has a password")


def _reason(error: ssl.SSLError) -> str:
    if not error.reason:
        return "one of them is not readable as PEM"
    return _REASONS.get(error.reason, error.reason.replace("_", " ").lower())


def _unusable(cert: Path, key: Path, reason: str) -> Misconfigured:
    return Misconfigured(
        f"tls_cert: {cert} with the key {key} cannot be used: {reason}.", hint=HINT
    )
