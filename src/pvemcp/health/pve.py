"""Checks of Proxmox VE: reachable, the right one, its clock, and what the token may do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from pvemcp.access.grants import Grant
from pvemcp.access.policy import permit
from pvemcp.call import ApiToken, Call, Effect, Principal
from pvemcp.errors import Fault, Unauthenticated
from pvemcp.health.check import Check, bad, expiry, good, warning
from pvemcp.pve.client import PveClient
from pvemcp.settings import Settings, require_token

CONNECT_SECONDS = 5.0
API_SECONDS = 15.0
SKEW_SECONDS = 10.0
"""The Date header has whole seconds and the request takes time; beyond this the clocks differ."""
VIEW = ("Sys.Audit", "VM.Audit", "Datastore.Audit")
ESCALATION = ("User.Modify", "Permissions.Modify", "Sys.Modify")
"""On /access each of these is a way to more rights than the token was given."""


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def check_pve(settings: Settings, grants: Sequence[Grant] = ()) -> list[Check]:
    """Connect, look at the certificate, then log in with each token in use.

    Stops at the first step that fails.
    """
    parts = urlsplit(settings.pve_url)
    tls = parts.scheme == "https"
    target = _Target(parts.hostname or "", parts.port or (443 if tls else 80), tls)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            certificate, skew = await _look(target)
    except (OSError, TimeoutError, ValueError) as error:
        return [_unreachable(target, error)]
    found = [good("PVE connection", f"{target} answers")]
    if certificate:
        found += await _judge_certificate(settings, target, certificate)
    found.append(_judge_clock(skew))
    if all(check.ok for check in found):
        found += await _log_in_all(settings, grants)
    return found


@asynccontextmanager
async def _connection(
    target: _Target, context: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _look(target: _Target) -> tuple[bytes | None, float | None]:
    """Return the certificate (DER) and the clock's difference in seconds, as far as they are told.

    Nothing is verified yet, so nothing secret is sent: without a token PVE answers 401 at once.
    """
    context = None
    if target.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with _connection(target, context) as (reader, writer):
        channel = writer.get_extra_info("ssl_object")
        certificate = channel.getpeercert(binary_form=True) if channel else None
        request = f"GET /api2/json/version HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode("ascii"))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = b""
    return certificate, _skew(head.decode("latin-1"), time.time())


def _skew(head: str, now: float) -> float | None:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "date":
            try:
                return parsedate_to_datetime(value.strip()).timestamp() - now
            except ValueError:
                return None
    return None


def _unreachable(target: _Target, error: Exception) -> Check:
    name = "PVE connection"
    if isinstance(error, socket.gaierror):
        return bad(name, f"the name {target.host} is unknown", "Correct pve_url or the DNS entry.")
    if isinstance(error, ssl.SSLError):
        return bad(
            name,
            f"{target} does not speak TLS ({error.reason})",
            "pve_url must name the API's port, normally 8006.",
        )
    return bad(
        name,
        f"{target} cannot be reached: {_reason(error)}",
        "Is pveproxy running there (systemctl status pveproxy), is the port 8006, does a firewall "
        "let it through?",
    )


def _reason(error: Exception) -> str:
    """Say in words why a connection failed; asyncio lists the failures of several addresses."""
    if isinstance(error, TimeoutError):
        return "no answer"
    numbers = dict.fromkeys(re.findall(r"\[Errno (\d+)\]", str(error)))
    return ", ".join(os.strerror(int(number)).lower() for number in numbers) or str(error)


async def _judge_certificate(
    settings: Settings, target: _Target, certificate: bytes
) -> list[Check]:
    name = "PVE certificate"
    digest = hashlib.sha256(certificate).digest()
    seen = ":".join(f"{byte:02X}" for byte in digest)
    if settings.pve_fingerprint:
        problem = "" if seen == settings.pve_fingerprint else "does not match pve_fingerprint"
    else:
        problem = await _verify(settings, target)
    if problem:
        return [
            bad(
                name,
                f"{problem}; the fingerprint seen is {seen}",
                "Compare it with the one in the PVE GUI (node, System, Certificates). If they are "
                f"the same, set PVEMCP_PVE_FINGERPRINT={seen}, or set PVEMCP_PVE_CA_FILE to a "
                "copy of /etc/pve/pve-root-ca.pem. If not, somebody may be in between.",
            )
        ]
    try:
        return [expiry(name, certificate, "Renew it on that node: pvecm updatecerts --force")]
    except ValueError:
        return [good(name, "is the pinned one")]


async def _verify(settings: Settings, target: _Target) -> str:
    """Return why the certificate is not trusted, or an empty string."""
    try:
        context = ssl.create_default_context(cafile=settings.pve_ca_file)
    except (OSError, ssl.SSLError):
        return f"cannot be verified: the CA file {settings.pve_ca_file} is not in PEM"
    # As the client does: PVE's own CA lacks extensions that Python 3.13 asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        async with asyncio.timeout(CONNECT_SECONDS), _connection(target, context):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"is not trusted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"cannot be verified: {error.reason or error}"
    except (OSError, TimeoutError) as error:
        return f"could not be verified: {_reason(error)}"


def _judge_clock(skew: float | None) -> Check:
    name = "clocks"
    if skew is None:
        return good(name, "PVE did not tell its time")
    if abs(skew) <= SKEW_SECONDS:
        return good(name, "this machine and PVE agree")
    direction = "ahead of" if skew > 0 else "behind"
    return warning(
        name,
        f"PVE is {abs(skew):.0f} s {direction} this machine",
        "Let both take the time from the network: systemctl status chrony",
    )


async def _log_in_all(settings: Settings, grants: Sequence[Grant]) -> list[Check]:
    now = time.time()
    valid = [grant for grant in grants if grant.token and not grant.has_expired(now)]
    tokens = {grant.token: grant.name for grant in valid if grant.token}
    with contextlib.suppress(Fault):  # the check of the settings has said so
        tokens.setdefault(ApiToken(*require_token(settings)), "")
    found = await asyncio.gather(*(_log_in(settings, token, tokens[token]) for token in tokens))
    return [check for checks in found for check in checks]


async def _log_in(settings: Settings, token: ApiToken, client: str) -> list[Check]:
    name = "PVE token"
    call = Call(Principal("doctor", Effect.READ, token), "doctor", {})
    try:
        async with asyncio.timeout(API_SECONDS), _client(settings) as pve_client:
            pve = pve_client.bind(call)
            version = await pve.get("/version")
            rights = await pve.get("/access/permissions")
    except Unauthenticated as fault:
        anew = f"Make it anew: pvemcp client revoke {client}, then pvemcp client add."
        return [bad(name, fault.message, anew if client else fault.hint)]
    except Fault as fault:
        return [bad(name, fault.message, fault.hint)]
    except TimeoutError:
        return [
            bad(name, f"no answer within {API_SECONDS:.0f} s", "See: systemctl status pvedaemon")
        ]
    identity = f"{token.id} on Proxmox VE {version.get('version', 'of an unknown version')}"
    return [good(name, identity), *judge_rights(rights, token.id)]


def _client(settings: Settings) -> PveClient:
    return PveClient(
        settings.pve_url,
        ca_file=settings.pve_ca_file,
        fingerprint=settings.pve_fingerprint,
        socket=None,
        concurrency=1,
        permit=permit,
        cache_dir=None,  # run as root, it would leave a file that the service cannot replace
        apidoc_file=None,
    )


def judge_rights(rights: Mapping[str, Mapping[str, Any]], token_id: str) -> list[Check]:
    """Judge what `GET /access/permissions` says: enough to see, nothing to escalate with."""
    return [_judge_view(rights, token_id), _judge_access(rights, token_id)]


def _judge_view(rights: Mapping[str, Mapping[str, Any]], token_id: str) -> Check:
    name = "rights to see"
    # A privilege counts for what is below only when it propagates (value 1).
    missing = [privilege for privilege in VIEW if not rights.get("/", {}).get(privilege)]
    if not rights:
        return bad(
            name,
            f"{token_id} has no rights at all: every list will be empty",
            f"Give it a role: pveum acl modify / --tokens '{token_id}' --roles PVEAuditor (and "
            "the same for its user if the token has privilege separation)",
        )
    if missing:
        return warning(
            name,
            f"{token_id} lacks {', '.join(missing)} on /: lists show only a part",
            "Intended? Else give it the role PVEAuditor on /, with propagation.",
        )
    return good(name, "the whole cluster")


def _judge_access(rights: Mapping[str, Mapping[str, Any]], token_id: str) -> Check:
    name = "rights on /access"
    # An ACL below /access replaces what comes from above (seen on PVE 9.1), so each path counts.
    held = [
        f"{privilege} on {path}"
        for path, privileges in sorted(rights.items())
        if path == "/access" or path.startswith("/access/")
        for privilege in ESCALATION
        if privilege in privileges
    ]
    if not held:
        return good(name, "none that lead to more rights")
    return warning(
        name,
        f"{token_id} could give itself more rights: it has {', '.join(held)}",
        f"Run: pveum acl modify /access --tokens '{token_id}' --roles NoAccess (and for its user "
        "if the token has no privilege separation), and remove every ACL below /access.",
    )
