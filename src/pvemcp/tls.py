"""The service's own certificate: loaded, renewed while connections stay, and refused in words."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pvemcp.errors import Misconfigured

logger = logging.getLogger(__name__)

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only, as everything in TLS 1.3 has."""
PERIOD = 2.0
"""Seconds between two looks at the files."""
_PLAIN = b"This port speaks HTTPS: begin the URL with https://\n"
PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_PLAIN), _PLAIN)
)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_REASONS = {
    "KEY_VALUES_MISMATCH": "the key was not made for this certificate",
    "EE_KEY_TOO_SMALL": "the key of the certificate is too short",
    "CA_MD_TOO_WEAK": "the signature of the certificate is too weak",
}
HINT = "Both must be PEM files, the key without a password and made for the certificate."


def server_context(cert: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return what a server needs to show `cert`. Raises Misconfigured, and never asks.

    With `client_ca` only clients with a certificate of that authority come in. `cert` and `key` may
    be one file, which is then read once: its two halves belong together.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.sslobject_class = _Explaining
    load_pair(context, cert, key)
    if client_ca:
        _require_clients_of(context, client_ca)
    return context


def load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Load certificate chain and key, which may be one file. Raises Misconfigured."""
    try:
        own_certificate(cert)
        with _held(cert) as chain, contextlib.ExitStack() as stack:
            private = chain if _same(cert, key) else stack.enter_context(_held(key))
            context.load_cert_chain(chain, private, password=_no_password)
    except ssl.SSLError as error:
        raise _unusable(cert, key, _reason(error)) from None
    except OSError as error:
        raise _unusable(cert, key, error.strerror or str(error)) from None
    except ValueError as error:
        raise _unusable(cert, key, str(error)) from None


def _same(cert: Path, key: Path) -> bool:
    return cert.resolve() == key.resolve()


@contextlib.contextmanager
def _held(path: Path) -> Iterator[str]:
    """Read a file now, and give the path of a copy that does not change: OpenSSL reads it twice."""
    content = path.read_bytes()
    held = os.memfd_create("pem")
    try:
        with os.fdopen(os.dup(held), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{held}"
    finally:
        os.close(held)


def _require_clients_of(context: ssl.SSLContext, client_ca: Path) -> None:
    try:
        context.load_verify_locations(cadata=client_ca.read_text("ascii", "replace"))
    except (OSError, ValueError) as error:
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error
        raise Misconfigured(
            f"tls_client_ca: {client_ca} cannot be used: {reason}.",
            hint="Name the PEM file of the authority that signs the certificates of clients.",
        ) from None
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would not be judged by the authority of the day.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


class _Explaining(ssl.SSLObject):
    """A handshake that ends with its reason: asyncio alone closes without sending the alert."""

    outgoing: ssl.MemoryBIO
    _failed = False

    def do_handshake(self) -> None:
        """Go on; after a failure, let asyncio send the reason and wait for the client's end."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if self._failed:
                raise
            self._failed = True
            if error.reason == "HTTP_REQUEST":
                self.outgoing.read()
                self.outgoing.write(PLAIN_ANSWER)
            raise ssl.SSLWantReadError from error


class _Context(ssl.SSLContext):
    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any
    ) -> ssl.SSLObject:
        """Begin a connection, as asyncio does."""
        begun = super().wrap_bio(incoming, outgoing, *args, **kwargs)
        if isinstance(begun, _Explaining):
            begun.outgoing = outgoing
        return begun


class Certificate:
    """The files of a certificate, and the context that follows them.

    Raises Misconfigured when they cannot be used at the start. Later, a pair that cannot be used is
    reported and changes nothing.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._files = (cert, key, client_ca)
        self._seen = self._signature()
        self._met = self._said = ""
        self.context = server_context(*self._files)
        """For the next connection; the others keep theirs."""

    def look(self) -> None:
        """Load the files anew if they changed."""
        seen = self._signature()
        if seen == self._seen:
            return
        try:
            self.context = server_context(*self._files)
        except Misconfigured as fault:
            # Of two files one may be new and the other not yet: it is said the second time.
            if self._met == str(fault) != self._said:
                logger.warning("the certificate stays as it was: %s", fault)
                self._said = str(fault)
            self._met = str(fault)
            return
        self._seen, self._met, self._said = seen, "", ""
        logger.info("the certificate %s is renewed for new connections", self._files[0])

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(PERIOD)
            self.look()

    def _signature(self) -> list[tuple[int, ...]]:
        return [_identity(path) for path in self._files if path]


def _identity(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
