"""The settings: one TOML file and `PVEMCP_*` environment variables, which win over the file.

Every way to get them wrong ends in a Misconfigured that names the setting and the repair. No
pydantic here: the command line must start fast.
"""
# ruff: noqa: RUF009 - _setting is dataclasses.field with a help text

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pvemcp.settings import checks, sources, values
from pvemcp.settings.checks import require_safe_listen, require_token
from pvemcp.settings.files import read_secret, refuse_open_file
from pvemcp.settings.policy import Rule, rules
from pvemcp.settings.sources import CONFIG_VARIABLE, PREFIX, SYSTEM_CONFIG, SYSTEM_STATE
from pvemcp.settings.values import is_loopback, split_listen

__all__ = [
    "CONFIG_VARIABLE",
    "SYSTEM_CONFIG",
    "Settings",
    "is_loopback",
    "read_secret",
    "require_safe_listen",
    "require_token",
]

Parser = Callable[[str, Any], Any]
"""Takes a setting's name and a value as it was given; raises Misconfigured."""


def _setting(default: Any, parse: Parser, text: str, *, hidden: bool = False) -> Any:
    return field(default=default, repr=not hidden, metadata={"parse": parse, "help": text})


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as the reference page shows it."""

    name: str
    env: str
    type: str
    default: str
    help: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that an administrator can set. Made by `load`, which checks it."""

    pve_url: str = _setting(
        "https://localhost:8006",
        values.url,
        "Where the Proxmox VE API answers: scheme, host and port. Plain http only to this machine.",
    )
    pve_token_id: str = _setting(
        "",
        values.token_id,
        "The PVE API token for grants that carry none of their own: `USER@REALM!NAME`.",
    )
    pve_token_secret: str = _setting(
        "",
        values.secret,
        "The secret of that token. A secret file is the better place for it.",
        hidden=True,
    )
    pve_token_secret_file: Path | None = _setting(
        None,
        values.path,
        "File that holds the secret alone, not readable by everybody (mode 0600 or 0640).",
    )
    pve_ca_file: Path | None = _setting(
        None,
        values.path,
        "PEM file of the authority that signed PVE's certificate; on a host it is "
        "`/etc/pve/pve-root-ca.pem`. Without it the system's authorities count.",
    )
    pve_fingerprint: str = _setting(
        "",
        values.fingerprint,
        "SHA-256 fingerprint of PVE's certificate, as its GUI shows it under Certificates. Pins "
        "that one certificate.",
    )
    listen: str = _setting(
        "127.0.0.1:8080",
        values.listen,
        "Address and port of the service; IPv6 as `[::1]:8080`. Beyond loopback it needs a "
        "certificate and at least one grant.",
    )
    tls_cert: Path | None = _setting(
        None,
        values.path,
        "PEM file with the service's own certificate and its chain. A changed file counts for new "
        "connections within seconds.",
    )
    tls_key: Path | None = _setting(
        None,
        values.path,
        "PEM file with the private key of `tls_cert`; it may be the same file.",
    )
    tls_client_ca: Path | None = _setting(
        None,
        values.path,
        "PEM file of an authority: only clients with a certificate of it may connect, and they "
        "still need a grant.",
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        values.names,
        "Names under which clients reach the service, besides its own address; a request with "
        "another Host header is refused. In the environment: separated by commas.",
    )
    state_dir: Path = _setting(
        SYSTEM_STATE,
        values.absolute,
        "Folder of the database: grants, audit, keys. Default: `$STATE_DIRECTORY` under systemd, "
        "`/var/lib/pvemcp` for root or where it is writable, else `~/.local/state/pvemcp`.",
    )
    helper_socket: Path = _setting(
        Path("/run/pvemcp-helper.sock"),
        values.absolute,
        "Socket of the root helper, here or on `ssh_host`.",
    )
    exec_file: Path = _setting(
        Path("/etc/pvemcp/exec.toml"),
        values.absolute,
        "What the helper may run; its own file, only root's.",
    )
    mirror_dir: Path = _setting(
        Path("/run/pvemcp-mirror"),
        values.absolute,
        "Folder in which root shows the service files of `/etc/pve`: certificates, the cluster's "
        "nodes and shared clients.",
    )
    peer_port: int = _setting(
        8081,
        values.integer(0, 65535),
        "Port on which the nodes of a cluster pass commands to each other, the same on all; it is "
        "open on the node's own address while there are other nodes. 0: no commands on others.",
    )
    ssh_host: str = _setting(
        "",
        values.words,
        "PVE host on which commands run, when pvemcp itself is elsewhere. They are run by the "
        "helper there, which the package brings.",
    )
    ssh_user: str = _setting(
        "pvemcp", values.words, "User on `ssh_host`: one whom the helper there serves."
    )
    ssh_port: int = _setting(22, values.integer(1, 65535), "Port of SSH on `ssh_host`.")
    ssh_key_path: Path | None = _setting(
        None, values.path, "Private key for `ssh_host`, without a passphrase (mode 0600)."
    )
    ssh_known_hosts: Path | None = _setting(
        None,
        values.path,
        "File with the host key of `ssh_host`; an unknown key is refused. Default: "
        "`~/.ssh/known_hosts` of the service's user.",
    )
    pve_concurrency: int = _setting(
        8, values.integer(1, 64), "How many requests to PVE may be under way at once (1 to 64)."
    )
    body_limit: int = _setting(
        1024 * 1024,
        values.integer(1024, 64 * 1024 * 1024),
        "Largest request body that is read, in bytes (1024 to 67108864).",
    )
    audit_keep_days: int = _setting(
        365,
        values.integer(0, 36500),
        "Days that the audit goes back; older calls are deleted. 0 keeps them for ever.",
    )
    audit_max_mb: int = _setting(
        512,
        values.integer(16, 1024 * 1024),
        "Most megabytes that the database may fill (16 to 1048576): beyond it the oldest calls "
        "are deleted, whatever their age.",
    )
    backup_recipient: str = _setting(
        "",
        values.recipient,
        "Who can open the daily backups: `age1…`, as `pvemcp backup init` makes it. Without it "
        "there are none.",
    )
    backup_to: str = _setting(
        "",
        values.backup_target,
        "Where backups go: a folder, or `storage:NAME` for a directory storage of PVE. Default: "
        "`/var/backups/pvemcp`, of an own installation `backups` in the state folder.",
    )
    backup_keep: int = _setting(
        14,
        values.integer(1, 10000),
        "How many of its daily backups a host keeps there (1 to 10000).",
    )
    result_limit: int = _setting(
        200_000,
        values.integer(10_000, 10_000_000),
        "Longest text that a call may answer, in characters; the rest is left out, and the answer "
        "says so (10000 to 10000000).",
    )
    requests_per_minute: int = _setting(
        3000,
        values.integer(10, 1_000_000),
        "How many HTTP requests one grant may make in a minute; as many may come at once.",
    )
    calls_per_minute: int = _setting(
        1200,
        values.integer(1, 1_000_000),
        "How many tool calls one grant may make in a minute; as many may come at once.",
    )
    concurrent_calls_per_grant: int = _setting(
        64, values.integer(1, 10_000), "How many calls of one grant may run at once."
    )
    concurrent_calls: int = _setting(
        256, values.integer(1, 10_000), "How many calls of all grants together may run at once."
    )
    sessions_per_grant: int = _setting(
        100, values.integer(1, 10_000), "How many sessions one grant may have (`pvemcp sessions`)."
    )
    sessions: int = _setting(
        1000,
        values.integer(1, 10_000),
        "How many sessions all grants together may have, at about 40 kB each.",
    )
    session_idle: int = _setting(
        1800,
        values.integer(60, 7 * 86_400),
        "Seconds without a request after which a session ends (60 to 604800).",
    )
    approval_time: int = _setting(
        600,
        values.integer(30, 86_400),
        "Seconds in which a plan must be approved by a person, and used (30 to 86400).",
    )
    approvals_waiting: int = _setting(
        20,
        values.integer(1, 1000),
        "Plans of one grant that may wait for a person at once; more are refused.",
    )
    audit_anchor_file: Path | None = _setting(
        None, values.absolute, "File to which the audit's head is appended; best append only."
    )
    policy: tuple[Rule, ...] = _setting(
        (),
        rules,
        "Rules that allow, ask a person, or deny: `[[policy]]` tables (see the how-to). In the "
        "environment: the same as JSON.",
    )
    freeze_after_destroys: int = _setting(
        20,
        values.many,
        "More steps that destroy in a minute freeze a client by themselves; 0: none do.",
    )
    freeze_after_denials: int = _setting(
        60, values.many, "More denied calls in a minute freeze a client by themselves; 0: none do."
    )
    freeze_after_approvals: int = _setting(
        10, values.many, "More refused or wrong approvals in a minute freeze a client; 0: none do."
    )
    elevation_minutes: int = _setting(
        60, values.integer(0, 1440), "Most minutes for which a person can raise a ceiling; 0: none."
    )
    changes_keep_days: int = _setting(
        90, values.integer(0, 36500), "Days that the journal of changes goes back; 0: for ever."
    )
    safety_snapshots: int = _setting(
        3,
        values.integer(0, 100),
        "How many safety snapshots a guest keeps: one is taken before a rollback, and before a "
        "disk is detached, where the storage can. 0 takes none.",
    )
    page: str = _setting(
        "auto",
        values.on_off_auto,
        "The approval page at `/page`: on, off, or auto, which is on when TLS is.",
    )
    page_url: str = _setting(
        "",
        values.public_url,
        "How persons reach the service with a browser, such as `https://pve1.example.org:8080`. "
        "Default: as clients reach it.",
    )
    confirm_seconds: int = _setting(
        60,
        values.integer(0, 600),
        "Seconds in which a change that can lock people out (network, firewall, certificate) must "
        "be confirmed over a new connection, or it is taken back (up to 600; 0: none is).",
    )
    confirm_weak: bool = _setting(
        True,  # noqa: FBT003 - a fact
        values.switch,
        "Whether such a change may be made where no root helper can take it back.",
    )
    metrics_listen: str = _setting(
        "",
        values.loopback,
        "Address and port on loopback, such as `127.0.0.1:9418`, where `/metrics` answers without "
        "a grant. Without it they are at `/metrics` of the service, for holders of a grant.",
    )
    alert_mail: bool = _setting(
        True,  # noqa: FBT003 - a fact
        values.switch,
        "Whether alerts go to root by mail, and so to PVE's notification targets; needs the "
        "helper of the package.",
    )
    alert_webhook: str = _setting(
        "",
        values.webhook,
        "https URL to which alerts are posted as JSON; it is treated as a secret.",
        hidden=True,
    )
    alert_webhook_header_file: Path | None = _setting(
        None,
        values.path,
        "File with one header line for it, such as `Authorization: Bearer …` (mode 0600 or 0640).",
    )
    alert_after: int = _setting(
        120,
        values.integer(1, 86_400),
        "Seconds that a check of `/readyz` must fail before somebody is told.",
    )
    log_level: str = _setting("info", values.level, "One of debug, info, warning, error.")
    source: Path | None = field(default=None, repr=False)
    """The settings file that was read, which may hold the secret. Not itself a setting."""

    @classmethod
    def load(cls, config: Path | None, env: Mapping[str, str], *, files: bool = True) -> Settings:
        """Read and check the settings.

        `config` is the file named on the command line; else PVEMCP_CONFIG names it, else
        /etc/pvemcp/pvemcp.toml counts if it exists. A variable that is set but empty counts as
        not set. With `files=False` the files that settings name are not touched, so that a
        command which needs only the state folder works while they are missing.

        Raises Misconfigured.
        """
        parsers = {item.name: item.metadata["parse"] for item in _described()}
        path = sources.config_path(config, env)
        in_file = sources.from_file(path, tuple(parsers)) if path else {}
        given = in_file | sources.from_environment(env, tuple(parsers))
        given.setdefault("state_dir", sources.default_state_dir(env))
        parsed = {name: parsers[name](name, value) for name, value in given.items()}
        settings = cls(**parsed, source=path)
        checks.refuse_contradictions(settings)
        if not files:
            return settings
        if path and in_file.get("pve_token_secret"):
            refuse_open_file("pve_token_secret", path)
        secret = checks.read_files(settings)
        return replace(settings, pve_token_secret=secret) if secret else settings

    @property
    def address(self) -> tuple[str, int]:
        """Host (without brackets) and port to listen on; port 0 takes any free one."""
        return split_listen(self.listen)

    @property
    def loopback_only(self) -> bool:
        """Only this machine can reach the service."""
        return is_loopback(self.address[0])

    @property
    def pve_is_local(self) -> bool:
        """The PVE host is this machine: its files can be read, its requests need no gzip."""
        return is_loopback(urlsplit(self.pve_url).hostname or "")

    @classmethod
    def describe(cls) -> Iterator[Described]:
        """Every setting, in the order of the reference page."""
        for item in _described():
            yield Described(
                name=item.name,
                env=PREFIX + item.name.upper(),
                type=_TYPES[str(item.type)],
                default=", ".join(item.default)
                if isinstance(item.default, tuple)
                else str(item.default or "").replace("True", "true"),
                help=item.metadata["help"],
            )


_TYPES = {
    "str": "text",
    "int": "integer",
    "bool": "true or false",
    "Path": "path",
    "Path | None": "path",
    "tuple[str, ...]": "list of text",
    "tuple[Rule, ...]": "list of tables",
}


def _described() -> Iterator[Field[Any]]:
    return (item for item in fields(Settings) if item.metadata)
