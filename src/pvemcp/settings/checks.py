"""What must not stand together in the settings, and the files behind them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pvemcp.settings.files import read_secret, refuse_open_file
from pvemcp.settings.values import wrong

if TYPE_CHECKING:
    from pvemcp.settings import Settings


def refuse_contradictions(given: Settings) -> None:
    _refuse_contradictory_token(given)
    _refuse_half_an_ssh(given)
    if bool(given.tls_cert) != bool(given.tls_key):
        lacking, present = ("tls_key", "tls_cert") if given.tls_cert else ("tls_cert", "tls_key")
        raise wrong(lacking, f"is missing while {present} is set.", "Set both, or neither.")
    if given.tls_client_ca and not given.tls_cert:
        raise wrong(
            "tls_cert",
            "is missing while tls_client_ca is set.",
            "Set tls_cert and tls_key: clients show a certificate only to a service with one.",
        )
    if given.pve_ca_file and given.pve_fingerprint:
        raise wrong(
            "pve_fingerprint",
            "is set together with pve_ca_file.",
            "Keep one of them: the fingerprint trusts one certificate, the file its authority.",
        )
    if given.pve_url.startswith("http:") and (given.pve_ca_file or given.pve_fingerprint):
        raise wrong(
            "pve_url",
            "is plain http, which has no certificate to check.",
            "Use https://, or drop pve_ca_file and pve_fingerprint.",
        )


def _refuse_half_an_ssh(given: Settings) -> None:
    if given.ssh_host and given.ssh_key_path is None:
        raise wrong(
            "ssh_key_path",
            f"is missing while ssh_host is {given.ssh_host}.",
            "Make a key (ssh-keygen -t ed25519), or drop ssh_host.",
        )
    usual = type(given)()
    for name in ("ssh_key_path", "ssh_user", "ssh_port", "ssh_known_hosts"):
        if not given.ssh_host and getattr(given, name) != getattr(usual, name):
            raise wrong("ssh_host", f"is missing while {name} is set.", f"Set it, or drop {name}.")


def _refuse_contradictory_token(given: Settings) -> None:
    if given.pve_token_secret and given.pve_token_secret_file:
        raise wrong(
            "pve_token_secret",
            "is set together with pve_token_secret_file.",
            "Keep one of them; the file is the better place.",
        )
    has_secret = bool(given.pve_token_secret or given.pve_token_secret_file)
    if given.pve_token_id and not has_secret:
        raise wrong(
            "pve_token_secret",
            f"is missing for the token {given.pve_token_id}.",
            "Set pve_token_secret_file (or pve_token_secret) to what PVE showed once when the "
            "token was made.",
        )
    if has_secret and not given.pve_token_id:
        raise wrong(
            "pve_token_id", "is missing while its secret is set.", "Set it to USER@REALM!NAME."
        )


def read_files(settings: Settings) -> str:
    """Check the files that settings name; return the PVE token's secret, if one holds it."""
    for name in ("pve_ca_file", "tls_cert", "tls_key", "tls_client_ca", "ssh_key_path"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            problem = "cannot be read" if os.access(path, os.F_OK) else "does not exist"
            raise wrong(name, f"{path} {problem}.", "Correct the path or its permissions.")
        if path and path.is_dir():
            raise wrong(name, f"{path} is a folder.", "Name the file in it.")
    for name in ("tls_key", "ssh_key_path", "alert_webhook_header_file"):
        if path := getattr(settings, name):
            refuse_open_file(name, path)
    if not settings.pve_token_secret_file:
        return ""
    return read_secret("pve_token_secret_file", settings.pve_token_secret_file)


def require_safe_listen(settings: Settings) -> None:
    """Refuse to listen beyond loopback without TLS. Raises Misconfigured saying what to set."""
    if not settings.loopback_only and not settings.tls_cert:
        raise wrong(
            "listen",
            f"{settings.listen} is reachable from other machines, which needs TLS.",
            "Set tls_cert and tls_key (PVEMCP_TLS_CERT, PVEMCP_TLS_KEY), or listen on "
            "127.0.0.1:8080.",
        )


def require_token(settings: Settings) -> tuple[str, str]:
    """Return id and secret of the configured PVE token. Raises Misconfigured without one."""
    if not settings.pve_token_id:
        raise wrong(
            "pve_token_id",
            "no PVE API token is set.",
            "Make one in the PVE GUI (Datacenter, Permissions, API Tokens), then set "
            "PVEMCP_PVE_TOKEN_ID=USER@REALM!NAME and PVEMCP_PVE_TOKEN_SECRET_FILE.",
        )
    return settings.pve_token_id, settings.pve_token_secret
