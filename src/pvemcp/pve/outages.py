"""Requests without an answer: what that means for a read, and what for a write."""

from __future__ import annotations

import os
import time

import aiohttp

from pvemcp.errors import Fault, Unavailable, Uncertain


def outage(error: BaseException, verb: str, *, place: str, started: float, seen: str = "") -> Fault:
    """Translate what aiohttp raised. `seen` is the certificate fingerprint that PVE showed."""
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        return _other_certificate(place, seen)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _bad_certificate(error, place, seen)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return Unavailable(
            f"no TLS connection to {place}: {_cause(error)}",
            hint="Nothing was sent. Check that PVEMCP_PVE_URL has PVE's port, which is 8006.",
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unavailable(
            f"the name in {place} has no address", hint="Check PVEMCP_PVE_URL and the DNS."
        )
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return Unavailable(
            f"PVE at {place} cannot be reached: {_cause(error)}",
            hint="Nothing was sent. Check that pveproxy runs there (systemctl status pveproxy), "
            "and the firewall.",
        )
    if verb == "GET":
        return Unavailable(
            f"PVE at {place} gave no answer: {_cause(error)}",
            hint="Only read; it is safe to try again.",
        )
    return uncertain(f"PVE at {place} gave no answer: {_cause(error)}", started=started)


def uncertain(text: str, *, node: str = "", started: float) -> Uncertain:
    """Return the Fault of a write whose answer was lost. `started` is in seconds of the epoch."""
    clock = time.strftime("%H:%M:%S UTC", time.gmtime(started))
    tasks = f"/nodes/{node}/tasks?source=all" if node else "/cluster/tasks"
    return Uncertain(
        f"{text.rstrip('.!')}. It was sent at {clock} and may or may not have happened",
        hint=f"Do not repeat it yet. Read GET {tasks} for a task since then, or the target itself, "
        "and repeat only if nothing happened.",
    )


def _other_certificate(place: str, seen: str) -> Fault:
    return Unavailable(
        f"PVE at {place} shows another certificate than the pinned one: {seen}",
        hint="Nothing was sent. If the certificate was renewed, compare this fingerprint with "
        "`pvenode cert info` on the node and set PVEMCP_PVE_FINGERPRINT to it; otherwise someone "
        "stands in between.",
    )


def _bad_certificate(error: BaseException, place: str, seen: str) -> Fault:
    pin = (
        f" Or compare the fingerprint {seen} with `pvenode cert info` there and set "
        f"PVEMCP_PVE_FINGERPRINT={seen}."
    )
    return Unavailable(
        f"the TLS certificate of PVE at {place} is not trusted: {_cause(error)}",
        hint="Nothing was sent. Set PVEMCP_PVE_CA_FILE to a copy of the node's "
        f"/etc/pve/pve-root-ca.pem.{pin if seen else ''}",
    )


def _cause(error: BaseException) -> str:
    """Say in a few words what happened, without aiohttp's own vocabulary."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return getattr(error.certificate_error, "verify_message", "") or "verification failed"
    if isinstance(error, aiohttp.ClientConnectorError) and not error.os_error.strerror:
        return "the connection was closed before TLS was up"
    if isinstance(error, TimeoutError):
        return "time-out"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the answer is not TLS" if "WRONG_VERSION" in str(error) else "handshake failed"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    return (str(error) or type(error).__name__)[:200]
