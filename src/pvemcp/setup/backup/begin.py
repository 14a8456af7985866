"""The key of the daily backup: made once, its secret half kept away from the host."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pvemcp.errors import Conflict, Misconfigured, Missing
from pvemcp.settings import Settings
from pvemcp.setup import toml_lines
from pvemcp.setup.backup.make import note_beginning
from pvemcp.setup.backup.places import Places
from pvemcp.setup.backup.sealing import key_file, new_identity
from pvemcp.setup.backup.signing import public, signing_key
from pvemcp.setup.backup.written import replace_content, write_new

TIMER = "pvemcp-backup.timer"


@dataclass(frozen=True, slots=True)
class Begun:
    """The key file's text, and what was done besides."""

    key: str = field(repr=False)
    recipient: str
    said: tuple[str, ...]


def begin(
    where: Places,
    settings: Settings,
    path: Path | None,
    now: datetime,
    host: str,
    *,
    again: bool = False,
) -> Begun:
    """Make a key, write it to `path` if there is one, and set its recipient.

    Raises Conflict when a recipient is set, but for `again`.
    """
    if settings.backup_recipient and not again:
        raise Conflict(
            f"There is a key already: {settings.backup_recipient}.",
            hint="With --again a new one takes its place; older backups then still need the old.",
        )
    if where.owner is not None and where.settings is not None and not where.settings.exists():
        raise Missing(f"There is no {where.settings} yet.", hint="Run first: pvemcp setup")
    secret = signing_key(where.secrets, make=True)
    assert secret is not None  # noqa: S101 - it is made if there is none
    identity, recipient = new_identity()
    text = key_file(replace(identity, signer=public(secret)), recipient, host, now)
    if path is not None:
        write_new(path, text.encode())
    said = [f"The key is in {path}: take it away from this host."] if path else []
    said.append(_set(where, recipient.text))
    note_beginning(settings, where, now.timestamp())
    if where.unit:
        said.append(_turn_on())
    return Begun(text, recipient.text, tuple(said))


def _set(where: Places, recipient: str) -> str:
    path = where.settings
    if path is None:
        return f"There is no settings file: set PVEMCP_BACKUP_RECIPIENT={recipient}"
    try:
        text = path.read_text("utf-8") if path.exists() else ""
    except OSError as exc:
        raise Misconfigured(
            f"{path} cannot be read: {exc.strerror}.", hint="Run as root."
        ) from None
    replace_content(path, toml_lines.changed(text, {"backup_recipient": recipient}).encode())
    return f"{path}: backup_recipient is set to {recipient}"


def _turn_on() -> str:
    done = subprocess.run(  # noqa: S603 - a fixed program, no shell
        ["/usr/bin/systemctl", "enable", "--now", "--quiet", TIMER],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        return f"The daily backup could not be turned on: {done.stderr.strip()}"
    return f"The daily backup is on: systemctl list-timers {TIMER}"
