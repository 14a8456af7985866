"""What `pvemcp connect` says about the certificate of the service."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import click

from pvemcp.cli import words
from pvemcp.errors import Invalid, Missing
from pvemcp.settings import Settings


def authority(context: click.Context) -> str:
    """Return the certificate (PEM) that clients must be given. Raises Faults."""
    from pvemcp.trust import Signer, trust_of  # noqa: PLC0415 - slow to import

    settings = words.settings(context)
    if settings.tls_cert is None:
        raise Missing("The service has no certificate.", hint="Set tls_cert and tls_key.")
    try:
        found = trust_of(settings.tls_cert)
    except (OSError, ValueError) as error:
        raise Missing(
            f"{settings.tls_cert} cannot be read: {error}.", hint="Run as root."
        ) from None
    if found.signer is Signer.PUBLIC:
        raise Invalid("Clients trust this certificate already.", hint="Leave --ca-out out.")
    if not found.authority:
        raise Missing(
            f"The certificate of {found.issuer} is not on this host.",
            hint="Ask who runs that authority for it.",
        )
    return found.authority


def trust_notes(
    settings: Settings, url: str, file: Path | None, *, claude: bool
) -> tuple[str, ...] | None:
    """Return what to do about the certificate; None when that cannot be told from here."""
    if settings.tls_cert is None or not url.startswith("https:"):
        return None
    from pvemcp.trust import notes, trust_of  # noqa: PLC0415 - slow to import

    try:
        found = trust_of(settings.tls_cert)
    except (OSError, ValueError):
        return None
    host = urlsplit(url).hostname or ""
    return notes(found, host, file=str(file.absolute()) if file else "", claude=claude)
