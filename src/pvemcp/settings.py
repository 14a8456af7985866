"""The settings: one TOML file and `PVEMCP_*` environment variables, which win over the file.

Every way to get them wrong ends in a Misconfigured that names the setting and the repair. No
pydantic here: the command line must start fast.
"""
# ruff: noqa: RUF009 - _setting is dataclasses.field with a help text

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pvemcp import settings_values as values
from pvemcp.errors import Misconfigured
from pvemcp.settings_files import read_secret, refuse_open_file
from pvemcp.settings_values import is_loopback, split_listen, wrong

__all__ = ["Settings", "is_loopback", "read_secret", "require_safe_listen", "require_token"]

PREFIX = "PVEMCP_"
CONFIG_VARIABLE = "PVEMCP_CONFIG"
SYSTEM_CONFIG = Path("/etc/pvemcp/pvemcp.toml")
SYSTEM_STATE = Path("/var/lib/pvemcp")


def _setting(default: Any, text: str, *, hidden: bool = False) -> Any:
    return field(default=default, repr=not hidden, metadata={"help": text})


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
        "Where the Proxmox VE API answers: scheme, host and port. Plain http only to this machine.",
    )
    pve_token_id: str = _setting(
        "", "The PVE API token for grants that carry none of their own: `USER@REALM!NAME`."
    )
    pve_token_secret: str = _setting(
        "", "The secret of that token. A secret file is the better place for it.", hidden=True
    )
    pve_token_secret_file: Path | None = _setting(
        None, "File that holds the secret alone, not readable by everybody (mode 0600 or 0640)."
    )
    pve_ca_file: Path | None = _setting(
        None,
        "PEM file of the authority that signed PVE's certificate; on a host it is "
        "`/etc/pve/pve-root-ca.pem`. Without it the system's authorities count.",
    )
    pve_fingerprint: str = _setting(
        "",
        "SHA-256 fingerprint of PVE's certificate, as its GUI shows it under Certificates. Pins "
        "that one certificate.",
    )
    listen: str = _setting(
        "127.0.0.1:8080",
        "Address and port of the service; IPv6 as `[::1]:8080`. Beyond loopback it needs a "
        "certificate and at least one grant.",
    )
    tls_cert: Path | None = _setting(
        None, "PEM file with the service's own certificate and its chain."
    )
    tls_key: Path | None = _setting(None, "PEM file with the private key of `tls_cert`.")
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        "Names under which clients reach the service, besides its own address; a request with "
        "another Host header is refused. In the environment: separated by commas.",
    )
    state_dir: Path = _setting(
        SYSTEM_STATE,
        "Folder of the database: grants, audit, keys. Default: `$STATE_DIRECTORY` under systemd, "
        "`/var/lib/pvemcp` for root or where it is writable, else `~/.local/state/pvemcp`.",
    )
    helper_socket: Path = _setting(
        Path("/run/pvemcp-helper.sock"), "Socket of the root helper, here or on `ssh_host`."
    )
    exec_file: Path = _setting(
        Path("/etc/pvemcp/exec.toml"), "What the helper may run; its own file, only root's."
    )
    ssh_host: str = _setting(
        "",
        "PVE host on which commands run, when pvemcp itself is elsewhere. They are run by the "
        "helper there, which the package brings.",
    )
    ssh_user: str = _setting("pvemcp", "User on `ssh_host`: one whom the helper there serves.")
    ssh_port: int = _setting(22, "Port of SSH on `ssh_host`.")
    ssh_key_path: Path | None = _setting(
        None, "Private key for `ssh_host`, without a passphrase (mode 0600)."
    )
    ssh_known_hosts: Path | None = _setting(
        None,
        "File with the host key of `ssh_host`; an unknown key is refused. Default: "
        "`~/.ssh/known_hosts` of the service's user.",
    )
    pve_concurrency: int = _setting(
        8, "How many requests to PVE may be under way at once (1 to 64)."
    )
    body_limit: int = _setting(
        1024 * 1024, "Largest request body that is read, in bytes (1024 to 67108864)."
    )
    log_level: str = _setting("info", "One of debug, info, warning, error.")
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
        path = _config_path(config, env)
        from_file = _from_file(path) if path else {}
        given = from_file | _from_environment(env)
        given.setdefault("state_dir", _default_state_dir(env))
        parsed = {name: _PARSERS[name](name, value) for name, value in given.items()}
        settings = cls(**parsed, source=path)
        _refuse_contradictions(settings)
        if not files:
            return settings
        if path and from_file.get("pve_token_secret"):
            refuse_open_file("pve_token_secret", path)
        return _with_files(settings)

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
        for item in (one for one in fields(cls) if one.name in _PARSERS):
            yield Described(
                name=item.name,
                env=PREFIX + item.name.upper(),
                type=_TYPES[str(item.type)],
                default=", ".join(item.default)
                if isinstance(item.default, tuple)
                else str(item.default or ""),
                help=item.metadata["help"],
            )


_TYPES = {
    "str": "text",
    "int": "integer",
    "Path": "path",
    "Path | None": "path",
    "tuple[str, ...]": "list of text",
}
_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "pve_url": values.url,
    "pve_token_id": values.token_id,
    "pve_token_secret": values.secret,
    "pve_token_secret_file": values.path,
    "pve_ca_file": values.path,
    "pve_fingerprint": values.fingerprint,
    "listen": values.listen,
    "tls_cert": values.path,
    "tls_key": values.path,
    "allowed_hosts": values.names,
    "state_dir": values.absolute,
    "helper_socket": values.absolute,
    "exec_file": values.absolute,
    "ssh_host": values.words,
    "ssh_user": values.words,
    "ssh_port": values.integer(1, 65535),
    "ssh_key_path": values.path,
    "ssh_known_hosts": values.path,
    "pve_concurrency": values.integer(1, 64),
    "body_limit": values.integer(1024, 64 * 1024 * 1024),
    "log_level": values.level,
}


def require_safe_listen(settings: Settings, has_grants: bool) -> None:  # noqa: FBT001 - a fact
    """Refuse to listen beyond loopback without TLS, or without anybody who may log in.

    Raises Misconfigured saying what to set.
    """
    if settings.loopback_only:
        return
    missing = []
    if not settings.tls_cert:
        missing.append("set tls_cert and tls_key (PVEMCP_TLS_CERT, PVEMCP_TLS_KEY)")
    if not has_grants:
        missing.append("make a grant (pvemcp grant create NAME --ceiling read)")
    if missing:
        raise wrong(
            "listen",
            f"{settings.listen} is reachable from other machines, which needs TLS and "
            "authentication.",
            f"To repair: {' and '.join(missing)}. Or listen on 127.0.0.1:8080.",
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


# Where the values come from


def _config_path(config: Path | None, env: Mapping[str, str]) -> Path | None:
    if config is not None:
        return config
    if env.get(CONFIG_VARIABLE):
        return Path(env[CONFIG_VARIABLE])
    return SYSTEM_CONFIG if os.access(SYSTEM_CONFIG, os.F_OK) else None


def _from_file(path: Path) -> dict[str, Any]:
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise Misconfigured(
            f"The settings file {path} cannot be read: {exc.strerror}.",
            hint=f"Name another with --config or {CONFIG_VARIABLE}, or repair its permissions.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise Misconfigured(
            f"The settings file {path} is not valid TOML: {exc}",
            hint='A line reads NAME = "TEXT", for example pve_url = "https://pve1:8006".',
        ) from None
    for name in given:
        if name not in _PARSERS:
            raise _unknown(f"{name} (in {path})", name, tuple(_PARSERS))
    return given


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    known = {PREFIX + name.upper(): name for name in _PARSERS}
    given: dict[str, Any] = {}
    for variable, value in env.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in known:
            raise _unknown(variable, variable, (*known, CONFIG_VARIABLE))
        if value.strip():
            given[known[variable]] = value.strip()
    return given


def _unknown(shown: str, name: str, known: tuple[str, ...]) -> Misconfigured:
    from difflib import get_close_matches  # noqa: PLC0415 - only the message needs it

    # A variable's name in the file, or a variable in lower case, is the right word in wrong dress.
    bare = name.upper().removeprefix(PREFIX)
    dressed = [one for one in known if one.upper().removeprefix(PREFIX) == bare]
    near = dressed or get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
    return Misconfigured(f"Unknown setting {shown}.", hint=hint)


def _default_state_dir(env: Mapping[str, str]) -> str:
    if env.get("STATE_DIRECTORY"):  # systemd sets it from StateDirectory=, colons between several
        return env["STATE_DIRECTORY"].split(":")[0]
    if os.geteuid() == 0 or os.access(SYSTEM_STATE, os.W_OK):
        return str(SYSTEM_STATE)
    home = Path(env["HOME"]) if env.get("HOME") else Path("~").expanduser()
    return str(Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "pvemcp")


# What must not stand together, and the files behind the settings


def _refuse_contradictions(given: Settings) -> None:
    _refuse_contradictory_token(given)
    _refuse_half_an_ssh(given)
    if bool(given.tls_cert) != bool(given.tls_key):
        lacking, present = ("tls_key", "tls_cert") if given.tls_cert else ("tls_cert", "tls_key")
        raise wrong(lacking, f"is missing while {present} is set.", "Set both, or neither.")
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
    usual = Settings()
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


def _with_files(settings: Settings) -> Settings:
    for name in ("pve_ca_file", "tls_cert", "tls_key", "ssh_key_path"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            problem = "cannot be read" if os.access(path, os.F_OK) else "does not exist"
            raise wrong(name, f"{path} {problem}.", "Correct the path or its permissions.")
        if path and path.is_dir():
            raise wrong(name, f"{path} is a folder.", "Name the file in it.")
    for name in ("tls_key", "ssh_key_path"):
        if path := getattr(settings, name):
            refuse_open_file(name, path)
    if not settings.pve_token_secret_file:
        return settings
    secret = read_secret("pve_token_secret_file", settings.pve_token_secret_file)
    return replace(settings, pve_token_secret=secret)
