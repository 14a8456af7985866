"""The value that every check gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pvemcp.tls import validity

SOON = timedelta(days=14)
"""What expires within that time is worth a warning."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. Not `ok`: it must be repaired. `ok` with a `repair`: a warning."""

    name: str
    ok: bool
    message: str
    repair: str = ""


def good(name: str, message: str) -> Check:
    """Return a finding that needs nothing."""
    return Check(name, ok=True, message=message)


def warning(name: str, message: str, repair: str) -> Check:
    """Return a finding that works, but should be looked at."""
    return Check(name, ok=True, message=message, repair=repair)


def bad(name: str, message: str, repair: str) -> Check:
    """Return a finding that must be repaired."""
    return Check(name, ok=False, message=message, repair=repair)


def expiry(name: str, certificate: bytes, repair: str) -> Check:
    """Judge a certificate (DER) by its last day. Raises ValueError for what is none."""
    start, end = validity(certificate)
    now = datetime.now(UTC)
    left = end - now
    if left < timedelta(0):
        return bad(name, f"expired on {end:%Y-%m-%d}", repair)
    if start > now:
        return bad(name, f"is not valid before {start:%Y-%m-%d %H:%M} UTC", "Check this clock.")
    if left < SOON:
        return warning(name, f"expires on {end:%Y-%m-%d}, in {left.days} days", repair)
    return good(name, f"valid until {end:%Y-%m-%d}")
