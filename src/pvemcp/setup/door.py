"""Single HTTPS requests to a PVE whose certificate is verified, for a command that asks a few."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path

from pvemcp.errors import Misconfigured, Unavailable
from pvemcp.pve.transport import Address, Reply, parse_fingerprint, verifying

SECONDS = 60.0
"""A refused login takes PVE three; a cluster that is busy takes longer for a write."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which PVE, and how its certificate is known."""

    url: str
    ca_file: Path | None = None
    fingerprint: str = ""


class Door:
    """Sends requests, each on a connection of its own. Nothing is sent to an unknown certificate.

    Raises Misconfigured for a target that is none, Unavailable when it does not answer.
    """

    def __init__(self, target: Target) -> None:
        self._address = Address.parse(target.url)
        self._pin = parse_fingerprint(target.fingerprint)
        if not self._address.secure:
            raise Misconfigured(
                f"{target.url} is plain http: a password would be readable on the way.",
                hint="Use https://HOST:8006.",
            )
        if self._pin:
            self._context = ssl.create_default_context()
            self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        else:
            self._context = verifying(target.ca_file)

    def send(self, verb: str, target: str, headers: dict[str, str], body: bytes | None) -> Reply:
        """Send one request and read its whole answer, whatever its status."""
        address = self._address
        connection = http.client.HTTPSConnection(
            address.host, address.port, timeout=SECONDS, context=self._context
        )
        try:
            connection.connect()
            self._require_pin(connection)
            connection.request(verb, target, body=body, headers={**headers, "Connection": "close"})
            answer = connection.getresponse()
            reason = answer.reason.encode("latin-1", "replace").decode("utf-8", "replace")
            return Reply(answer.status, reason, answer.read())
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(
                f"The certificate of PVE at {address.base} is not trusted: {error.verify_message}.",
                hint="Nothing was sent. Give --pve-ca-file with a copy of its "
                "/etc/pve/pve-root-ca.pem, or --pve-fingerprint as `pvenode cert info` shows it "
                f"there. The fingerprint seen is {self._seen()}.",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"PVE at {address.base} cannot be reached: {_reason(error)}.",
                hint="Is the host right, the port 8006, and does pveproxy run there?",
            ) from None
        finally:
            connection.close()

    def _require_pin(self, connection: http.client.HTTPSConnection) -> None:
        if not self._pin:
            return
        seen = _digest(connection)
        if not hmac.compare_digest(seen, self._pin):
            raise Unavailable(
                f"PVE at {self._address.base} shows another certificate than the given one: "
                f"{seen.hex(':').upper()}.",
                hint="Nothing was sent. Compare it with `pvenode cert info` on that host; if it is "
                "not the same, somebody is in between.",
            )

    def _seen(self) -> str:
        """Return the fingerprint that is shown; nothing is sent."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        looking = http.client.HTTPSConnection(
            self._address.host, self._address.port, timeout=SECONDS, context=context
        )
        try:
            looking.connect()
            return _digest(looking).hex(":").upper()
        except OSError:
            return "unknown"
        finally:
            looking.close()


def _digest(connection: http.client.HTTPSConnection) -> bytes:
    channel = connection.sock
    certificate = (
        channel.getpeercert(binary_form=True) if isinstance(channel, ssl.SSLSocket) else b""
    )
    return hashlib.sha256(certificate or b"").digest()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
