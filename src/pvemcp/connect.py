"""How each MCP client is told about this service: the exact command, or the file it reads."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pvemcp.errors import Invalid
from pvemcp.settings import CONFIG_VARIABLE, SYSTEM_CONFIG, Settings, is_loopback

CLIENTS = ("claude-code", "claude-desktop", "cursor", "vscode", "json")
SERVER_NAME = "pvemcp"
"""What the service is called inside a client unless the person says otherwise."""
PLACEHOLDER = "SECRET"
VARIABLE = "MCP_PVE_SECRET"
"""Environment variable of the client's machine; not PVEMCP_…, which pvemcp itself would read."""
SECRET_VARIABLE = "PVEMCP_PVE_TOKEN_SECRET"  # noqa: S105 - its name
FILES = (
    CONFIG_VARIABLE,
    "PVEMCP_PVE_TOKEN_SECRET_FILE",
    "PVEMCP_PVE_CA_FILE",
    "PVEMCP_STATE_DIR",
    "PVEMCP_HELPER_SOCKET",
    "PVEMCP_EXEC_FILE",
    "PVEMCP_SSH_KEY_PATH",
    "PVEMCP_SSH_KNOWN_HOSTS",
)
TEXTS = (
    "PVEMCP_PVE_URL",
    "PVEMCP_PVE_TOKEN_ID",
    "PVEMCP_PVE_FINGERPRINT",
    "PVEMCP_PVE_CONCURRENCY",
    "PVEMCP_LOG_LEVEL",
    "PVEMCP_SSH_HOST",
    "PVEMCP_SSH_USER",
    "PVEMCP_SSH_PORT",
    "PVEMCP_POLICY",
    "PVEMCP_APPROVAL_TIME",
    "PVEMCP_APPROVALS_WAITING",
    "PVEMCP_SAFETY_SNAPSHOTS",
    "PVEMCP_ELEVATION_MINUTES",
    "PVEMCP_FREEZE_AFTER_DESTROYS",
    "PVEMCP_FREEZE_AFTER_DENIALS",
    "PVEMCP_FREEZE_AFTER_APPROVALS",
    "PVEMCP_CONFIRM_SECONDS",
    "PVEMCP_CONFIRM_WEAK",
)
"""With FILES, all that `pvemcp stdio` reads from the environment, but the secret."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Snippet:
    """`text` is to be copied as it is; `notes` say where it goes and what else is needed."""

    text: str
    notes: tuple[str, ...]


def service_url(settings: Settings, port: int | None = None) -> str:
    """Return the MCP URL for clients: under its public name if the settings tell one.

    `port` replaces the configured one (when that is 0, which means any free port).
    """
    host, configured = settings.address
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared with, not bound
        named = settings.allowed_hosts[0] if settings.allowed_hosts else socket.gethostname()
        host = urlsplit(f"//{named}").hostname or named
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{shown}:{port or configured}/mcp"


def page_url(settings: Settings) -> str:
    """Return where persons find the approval page; empty when it is off."""
    if settings.page == "off" or (settings.page == "auto" and not settings.tls_cert):
        return ""
    return f"{settings.page_url or service_url(settings).removesuffix('/mcp')}/page"


def claude_code_command(url: str, secret: str, *, name: str = SERVER_NAME) -> str:
    """Return the shell command that adds the service to Claude Code."""
    header = f'--header "Authorization: Bearer {secret}"'
    return f"claude mcp add --transport http {name} {shlex.quote(url)} {header}"


def snippet(
    client: str,
    *,
    url: str,
    name: str = SERVER_NAME,
    command: tuple[str, ...] = ("pvemcp",),
    env: Mapping[str, str] | None = None,
    helper: bool = False,
    trust: tuple[str, ...] | None = None,
) -> Snippet:
    """Return what connects `client`, one of CLIENTS.

    `command` runs pvemcp on this machine with the settings in `env` (for a client that starts the
    service itself). A `url` without a path gets `/mcp`. With `helper`, Claude Code gets the secret
    from a script, so that it is in none of its files. `trust` says how the client comes to trust
    the certificate, when that is known.
    Raises Invalid for a name or URL that no client would take.
    """
    _refuse_bad(url, name)
    url = _with_path(url)
    match client:
        case "claude-code" if helper:
            made = _claude_code_with_helper(url, name)
        case "claude-code":
            made = _claude_code(url, name)
        case "claude-desktop":
            return _claude_desktop(url, name, command, env or {})
        case "cursor":
            made = _cursor(url, name)
        case "vscode":
            made = _vscode(url, name)
        case "json":
            made = _plain_json(url, name)
        case _:
            raise Invalid(f"Unknown client {client}.", hint=f"Known are {', '.join(CLIENTS)}.")
    return Snippet(made.text, (*made.notes, *(_tls_notes(client, url) if trust is None else trust)))


_GRANT = (
    f"{PLACEHOLDER} is what `pvemcp grant create NAME --ceiling read` shows once on the host; "
    "pvemcp keeps only its hash."
)


def _claude_code(url: str, name: str) -> Snippet:
    return Snippet(
        claude_code_command(url, PLACEHOLDER, name=name),
        (_GRANT, "Add --helper to keep the secret out of Claude Code's configuration."),
    )


def _claude_code_with_helper(url: str, name: str) -> Snippet:
    folder = '"$HOME"/.config/pvemcp'
    entry = json.dumps({"type": "http", "url": url, "headersHelper": "@"})
    before, after = (shlex.quote(part) for part in entry.split("@"))
    text = f"""\
mkdir -p -m 0700 {folder}
(umask 077 && cat > {folder}/{name}.secret)
cat > {folder}/{name}-headers <<'END'
#!/bin/sh
printf '{{"Authorization": "Bearer %s"}}' "$(cat "$HOME/.config/pvemcp/{name}.secret")"
END
chmod 0700 {folder}/{name}-headers
claude mcp add-json --scope user {name} {before}{folder}/{name}-headers{after}"""
    return Snippet(
        text,
        (
            "The second line waits for the secret: paste it, press Enter, then Ctrl-D.",
            _GRANT.replace(PLACEHOLDER, "The secret", 1),
        ),
    )


def _claude_desktop(
    url: str, name: str, command: tuple[str, ...], env: Mapping[str, str]
) -> Snippet:
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        entry: dict[str, Any] = {
            "command": command[0],
            "args": [*command[1:], "stdio", "--ceiling", "read"],
        }
        if settings := _environment(env, without=CONFIG_VARIABLE if command[1:] else ""):
            entry["env"] = settings
        notes = tuple(_local_notes(settings, env))
    else:
        ssh = ["-T", "-o", "BatchMode=yes", f"root@{host}"]
        entry = {"command": "ssh", "args": [*ssh, "pvemcp", "stdio", "--ceiling", "read"]}
        notes = (
            (
                f"ssh root@{host} must work without a password (a key in the agent), and the host "
                "key must be known."
            ),
            f"Over ssh no variable of this shell counts: the settings are {SYSTEM_CONFIG} there.",
        )
    return Snippet(
        _json({"mcpServers": {name: entry}}),
        (
            (
                "Merge this into claude_desktop_config.json (Settings, Developer, Edit Config) and "
                "restart Claude Desktop."
            ),
            "Claude Desktop ignores remote servers in that file, so it gets a local command.",
            *notes,
            (
                "It needs no grant: the ceiling is --ceiling (read, change or destroy), the rights "
                "are those of the PVE token in the settings."
            ),
        ),
    )


def _environment(env: Mapping[str, str], *, without: str) -> dict[str, str]:
    """Return the settings that a shell knows and the client's own processes would not."""
    given = {name: env[name].strip() for name in (*FILES, *TEXTS) if name in env}
    return {
        name: str(Path(value).expanduser().absolute()) if name in FILES else value
        for name, value in given.items()
        if value and name != without
    }


def _local_notes(settings: Mapping[str, str], env: Mapping[str, str]) -> Iterator[str]:
    yield "Claude Desktop starts pvemcp itself, on this machine, as you."
    if settings:
        yield (
            "It does not see this shell's variables, so `env` repeats them; a TOML file, named "
            "with pvemcp --config FILE connect claude-desktop, would do instead."
        )
    if env.get(SECRET_VARIABLE, "").strip():
        yield (
            f"{SECRET_VARIABLE} is left out, to keep the secret out of that file: put it into a "
            "file of mode 0600, and name that in `env` as PVEMCP_PVE_TOKEN_SECRET_FILE."
        )


def _cursor(url: str, name: str) -> Snippet:
    entry = {"url": url, "headers": {"Authorization": f"Bearer ${{env:{VARIABLE}}}"}}
    return Snippet(
        _json({"mcpServers": {name: entry}}),
        (
            "Merge this into ~/.cursor/mcp.json (everywhere) or .cursor/mcp.json (one project).",
            (
                f"Cursor must be started with {VARIABLE} set to the secret of a grant, which "
                "`pvemcp grant create NAME --ceiling read` shows once on the host."
            ),
        ),
    )


def _vscode(url: str, name: str) -> Snippet:
    identity = f"{name}-secret"
    asked = {
        "type": "promptString",
        "id": identity,
        "description": "Secret of the pvemcp grant",
        "password": True,
    }
    headers = {"Authorization": f"Bearer ${{input:{identity}}}"}
    entry = {"type": "http", "url": url, "headers": headers}
    return Snippet(
        _json({"inputs": [asked], "servers": {name: entry}}),
        (
            (
                "Merge this into .vscode/mcp.json of a project, or into the file that the command "
                "MCP: Open User Configuration opens."
            ),
            (
                "VS Code asks for the secret of a grant once and keeps it in its secret storage; "
                "`pvemcp grant create NAME --ceiling read` shows it once on the host."
            ),
        ),
    )


def _plain_json(url: str, name: str) -> Snippet:
    entry = {
        "type": "http",
        "url": url,
        "headers": {"Authorization": f"Bearer {PLACEHOLDER}"},
    }
    return Snippet(
        _json({"mcpServers": {name: entry}}),
        (
            _GRANT,
            (
                f"In a project's .mcp.json, Claude Code replaces ${{{VARIABLE}}} by that "
                "environment variable: use it instead of the secret in a file that is shared."
            ),
        ),
    )


def _tls_notes(client: str, url: str) -> tuple[str, ...]:
    host = urlsplit(url).hostname or ""
    if url.startswith("https:"):
        where = " (or in `env` of ~/.claude/settings.json)" if client == "claude-code" else ""
        return (
            (
                "If PVE's own authority signed the certificate, copy "
                f"/etc/pve/pve-root-ca.pem to the client and set NODE_EXTRA_CA_CERTS="
                f"/path/pve-root-ca.pem{where} before it starts."
            ),
        )
    if is_loopback(host):
        return (
            (
                "This address works on this machine only. From elsewhere: ssh -N -L "
                f"{urlsplit(url).port or 80}:{urlsplit(url).netloc} HOST, or --url https://NAME:PORT/mcp"
            ),
        )
    return ("Plain http shows the secret to the network: use https.",)


def _refuse_bad(url: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} cannot name a server in a client.",
            hint="1 to 64 of letters, digits, underscore and hyphen.",
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or re.search(r"[\s\"'`$\\@]", url):
        raise Invalid(f"{url!r} is not an MCP URL.", hint="Like https://pve1.example.org:8080/mcp.")


def _with_path(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(path="/mcp").geturl() if parts.path in {"", "/"} else url


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
