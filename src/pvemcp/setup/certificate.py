"""The step that sees to a certificate: the node's own, or a self-signed one where there is none."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pvemcp.setup.backup.written import write_new
from pvemcp.setup.step import Record
from pvemcp.tls import own_certificate, validity
from pvemcp.trust import trust_of

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

PVE = Path("/etc/pve/local")
KEPT = Path("/var/lib/pvemcp-mirror")
LIFE = dt.timedelta(days=3650)
"""Each client must be told to trust a new one by hand."""
SOON = dt.timedelta(days=30)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class CertificateStep:
    """There is a certificate for the mirror to show.

    `names` are how clients may reach this host, the one that they are told first.
    """

    name = "certificate"

    def __init__(self, names: Sequence[str], pve: Path = PVE, kept: Path = KEPT) -> None:
        self._names = tuple(dict.fromkeys((*names, *LOOPBACK)))
        self._pve = pve
        self._kept = kept / "self-signed.pem"

    def plan(self) -> list[str]:
        """Say whether a certificate is made."""
        if not self._makes():
            return []
        return [f"make a self-signed certificate for {', '.join(self._names)}"]

    def foresee(self) -> Record:
        """Return what `apply` will have done."""
        return {"made": self._makes()}

    def apply(self) -> Record:
        """Make a certificate, if the node has none and there is none that lasts."""
        record = self.foresee()
        if record["made"]:
            cert, key = self_signed(self._names)
            # The mirror takes a pair that fits: it does not mind which half comes first.
            for path, content in ((self._kept.with_suffix(".key"), key), (self._kept, cert)):
                write_new(path, content, make_folder=True, replace=True)
        return record

    def undo(self, record: Record) -> list[str]:
        """Remove the certificate, if set-up made it."""
        if not record["made"] or not self._kept.exists():
            return []
        for path in (self._kept, self._kept.with_suffix(".key")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something else in it
            self._kept.parent.rmdir()
        return [f"removed {self._kept} and its key"]

    def warnings(self) -> list[str]:
        """Return what clients will stumble over, a line each."""
        chosen = self._chosen()
        if chosen is None:
            return []
        try:
            trust, (_, end) = trust_of(chosen), validity(own_certificate(chosen))
        except (OSError, ValueError) as error:
            return [f"{chosen} cannot be read: {error}"]
        found = []
        if end < dt.datetime.now(dt.UTC) + SOON:
            found.append(f"{chosen} ends on {end:%Y-%m-%d}: renew it")
        best = self._names[0]
        if not trust.covers(best):
            found.append(
                f"{chosen} was not made for {best}: clients must use one of its names "
                f"({', '.join(trust.names) or 'it has none'})"
            )
        return found

    def _makes(self) -> bool:
        chosen = self._chosen()
        if chosen is None:
            return True
        if chosen != self._kept:
            return False
        try:
            _, end = validity(own_certificate(chosen))
        except (OSError, ValueError):
            return True
        return end < dt.datetime.now(dt.UTC) + SOON

    def _chosen(self) -> Path | None:
        """Return the certificate that the mirror shows."""
        candidates = [self._pve / "pveproxy-ssl.pem", self._pve / "pve-ssl.pem", self._kept]
        whole = (path for path in candidates if path.exists() and path.with_suffix(".key").exists())
        return next(whole, None)


def self_signed(names: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a certificate for names and addresses, and its key, in PEM."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - slow to import

    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _signed(key, names).public_bytes(pem), private


def _signed(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> x509.Certificate:
    from cryptography import x509  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - slow to import

    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    public = key.public_key()
    purpose = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    return (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFE)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
        .add_extension(purpose, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509  # noqa: PLC0415 - slow to import

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
