"""The service itself: its PVE, its address, its certificate, its state."""
# ruff: noqa: RUF009 - setting is dataclasses.field with a help text

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pvemcp.settings import values
from pvemcp.settings.setting import setting
from pvemcp.settings.sources import SYSTEM_STATE


@dataclass(frozen=True)
class Serving:
    """Part of Settings: the service itself: its PVE, its address, its certificate, its state."""

    pve_url: str = setting(
        "https://localhost:8006",
        values.url,
        "Where the Proxmox VE API answers: scheme, host and port. Plain http only to this machine.",
    )
    pve_token_id: str = setting(
        "",
        values.token_id,
        "The PVE API token for grants that carry none of their own: `USER@REALM!NAME`.",
    )
    pve_token_secret: str = setting(
        "",
        values.secret,
        "The secret of that token. A secret file is the better place for it.",
        hidden=True,
    )
    pve_token_secret_file: Path | None = setting(
        None,
        values.path,
        "File that holds the secret alone, not readable by everybody (mode 0600 or 0640).",
    )
    pve_ca_file: Path | None = setting(
        None,
        values.path,
        "PEM file of the authority that signed PVE's certificate; on a host it is "
        "`/etc/pve/pve-root-ca.pem`. Without it the system's authorities count.",
    )
    pve_fingerprint: str = setting(
        "",
        values.fingerprint,
        "SHA-256 fingerprint of PVE's certificate, as its GUI shows it under Certificates. Pins "
        "that one certificate.",
    )
    pve_concurrency: int = setting(
        8, values.integer(1, 64), "How many requests to PVE may be under way at once (1 to 64)."
    )
    listen: str = setting(
        "127.0.0.1:8080",
        values.listen,
        "Address and port of the service; IPv6 as `[::1]:8080`. Beyond loopback it needs a "
        "certificate and at least one grant.",
    )
    tls_cert: Path | None = setting(
        None,
        values.path,
        "PEM file with the service's own certificate and its chain. A changed file counts for new "
        "connections within seconds.",
    )
    tls_key: Path | None = setting(
        None,
        values.path,
        "PEM file with the private key of `tls_cert`; it may be the same file.",
    )
    tls_client_ca: Path | None = setting(
        None,
        values.path,
        "PEM file of an authority: only clients with a certificate of it may connect, and they "
        "still need a grant.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        values.names,
        "Names under which clients reach the service, besides its own address; a request with "
        "another Host header is refused. In the environment: separated by commas.",
    )
    state_dir: Path = setting(
        SYSTEM_STATE,
        values.absolute,
        "Folder of the database: grants, audit, keys. Default: `$STATE_DIRECTORY` under systemd, "
        "`/var/lib/pvemcp` for root or where it is writable, else `~/.local/state/pvemcp`.",
    )
    log_level: str = setting("info", values.level, "One of debug, info, warning, error.")
