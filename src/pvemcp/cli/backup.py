"""Commands for backups: make, check, list; restore."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvemcp.cli import admin, words
from pvemcp.errors import Fault, Misconfigured
from pvemcp.settings import Settings

if TYPE_CHECKING:
    from pvemcp.setup.backup.make import Made
    from pvemcp.setup.backup.opened import Backup
    from pvemcp.setup.backup.places import Places
    from pvemcp.setup.backup.sealing import Identity, Passphrase, Recipient

FILE = click.Path(path_type=Path)
key_options = [
    click.option(
        "--key", type=FILE, metavar="KEY_FILE", help="The key file; else it is asked for."
    ),
    click.option(
        "--passphrase-file",
        type=FILE,
        metavar="FILE",
        help="Read the passphrase from the first line of a file instead of asking.",
    ),
]


def with_key(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how a backup is opened."""
    for option in reversed(key_options):
        command = option(command)
    return command


@click.group(invoke_without_command=True, short_help="Make and check backups.")
@click.option(
    "--to", type=FILE, metavar="FOLDER", help="Where to, instead of the setting backup_to."
)
@click.option("--to-storage", metavar="STORAGE", help="A directory storage of PVE instead.")
@click.option("--with-audit", is_flag=True, help="With the whole audit, not only its newest call.")
@click.option("--passphrase", is_flag=True, help="Close it with a passphrase, which is asked for.")
@key_options[1]
@click.option(
    "--scheduled",
    is_flag=True,
    help="As the daily timer does: only to the recipient, and delete older ones.",
)
@admin.options
@click.pass_context
def backup(
    context: click.Context,
    *,
    to: Path | None,
    to_storage: str | None,
    with_audit: bool,
    passphrase: bool,
    passphrase_file: Path | None,
    scheduled: bool,
    given: admin.Given,
) -> None:
    """Make a backup of settings, grants, keys, the head of the audit, and what root set besides.

    It is encrypted to the recipient of the settings (pvemcp backup init), or to a passphrase. On a
    PVE host, or with --admin, it also holds the rights of the clients in PVE, so that another PVE
    can give them the same.
    """
    if context.invoked_subcommand is not None:
        return
    if to is not None and to_storage is not None:
        raise click.UsageError("Name a folder or a storage, not both.")
    settings = words.settings(context)
    if scheduled and not settings.backup_recipient:
        click.echo("Backups are off: no recipient is set. Make a key: pvemcp backup init")
        return
    chosen = str(to.absolute()) if to else f"storage:{to_storage}" if to_storage else ""
    lock = _lock(settings, passphrase_file, asked=passphrase, scheduled=scheduled)
    rights = _rights(given, settings)
    made = _make(settings, chosen, lock, rights, whole_audit=with_audit, scheduled=scheduled)
    click.echo(f"{made.path} ({made.size:,} bytes)")
    for path in made.deleted:
        click.echo(f"deleted {path}: only {settings.backup_keep} are kept")


def _make(
    settings: Settings,
    to: str,
    lock: Recipient | Passphrase,
    rights: bytes,
    *,
    whole_audit: bool,
    scheduled: bool,
) -> Made:
    from pvemcp.setup.backup import make as making  # noqa: PLC0415 - slow to import
    from pvemcp.setup.backup.places import places  # noqa: PLC0415

    where = places(settings)
    begun = time.time()
    try:
        folder = making.target(to or settings.backup_to, where)
    except Fault as fault:
        if scheduled:
            making.note_failure(settings, where, fault, begun)
        raise
    keep = settings.backup_keep if scheduled else None
    return making.make(
        folder, where, settings, lock, whole_audit=whole_audit, keep=keep, rights=rights
    )


def _rights(given: admin.Given, settings: Settings) -> bytes:
    """Return the rights of the clients in PVE; nothing where nobody can tell."""
    from pvemcp.setup.backup.pve_tokens import kept_rights  # noqa: PLC0415 - slow to import
    from pvemcp.setup.place import is_pve_host  # noqa: PLC0415 - slow to import

    if not given.elsewhere and not (is_pve_host() and os.geteuid() == 0):
        return b""
    try:
        with admin.pve_access(given, settings) as access:
            return kept_rights(access)
    except Fault as fault:
        if given.elsewhere:
            raise
        click.echo(f"Without the rights of clients in PVE: {fault.message}", err=True)
        return b""


def _lock(
    settings: Settings, passphrase_file: Path | None, *, asked: bool, scheduled: bool
) -> Recipient | Passphrase:
    from pvemcp.setup.backup.sealing import (  # noqa: PLC0415
        Passphrase,
        Recipient,
        read_passphrase,
    )

    if passphrase_file is not None:
        return read_passphrase(passphrase_file)
    if settings.backup_recipient and not asked:
        return Recipient(settings.backup_recipient)
    if scheduled or not sys.stdin.isatty():
        raise Misconfigured(
            "There is nothing to encrypt the backup to.",
            hint="Make a key (pvemcp backup init), or name --passphrase-file.",
        )
    return Passphrase(click.prompt("Passphrase", hide_input=True, confirmation_prompt=True))


@backup.command()
@click.option(
    "--key-file",
    type=FILE,
    metavar="FILE",
    help="Write the key there instead of showing it; take it away from this host.",
)
@click.option("--again", is_flag=True, help="Make a new key in place of the one that is set.")
@click.pass_context
def init(
    context: click.Context,
    key_file: Path | None,
    again: bool,  # noqa: FBT001 - click passes it so
) -> None:
    """Make the key of this host's backups, show it once, and turn the daily backup on."""
    from pvemcp.setup.backup.begin import begin  # noqa: PLC0415 - slow to import
    from pvemcp.setup.backup.places import places  # noqa: PLC0415

    settings = words.settings(context)
    where = places(settings)
    now, host = datetime.now(UTC), socket.gethostname()
    begun = begin(where, settings, key_file, now, host, again=again)
    if key_file is None:
        click.echo(begun.key)
        click.echo("The key is shown only now: keep it away from this host.", err=True)
    for line in begun.said:
        click.echo(line, err=True)


@backup.command()
@click.argument("file", type=FILE)
@with_key
@click.pass_context
def verify(
    context: click.Context, file: Path, key: Path | None, passphrase_file: Path | None
) -> None:
    """Open a backup, check everything in it, and say what it holds. Nothing is written."""
    from pvemcp.setup.backup.places import places  # noqa: PLC0415 - slow to import

    found = opened(file, key, passphrase_file, places(words.settings(context)))
    for line in _described(found):
        click.echo(words.printable(line))


def opened(file: Path, key: Path | None, passphrase_file: Path | None, where: Places) -> Backup:
    """Return the backup in a file. Asks for what opens it, when no file is named."""
    from pvemcp.setup.backup.opened import (  # noqa: PLC0415 - slow to import
        open_backup,
        sealed_by_passphrase,
    )
    from pvemcp.setup.backup.signing import public, signing_key  # noqa: PLC0415

    by_passphrase = sealed_by_passphrase(file)
    secret = signing_key(where.secrets, make=False)
    return open_backup(
        file,
        lambda: _key(key, passphrase_file, by_passphrase=by_passphrase),
        own_signer=public(secret) if secret is not None else "",
    )


def _key(
    key: Path | None, passphrase_file: Path | None, *, by_passphrase: bool
) -> Identity | Passphrase:
    from pvemcp.setup.backup.sealing import (  # noqa: PLC0415
        Passphrase,
        parse_key,
        read_key,
        read_passphrase,
    )

    if key is not None:
        return read_key(key)
    if passphrase_file is not None:
        return read_passphrase(passphrase_file)
    if not sys.stdin.isatty():
        option = "--passphrase-file FILE" if by_passphrase else "--key FILE"
        raise Misconfigured("Nobody can be asked for what opens it.", hint=f"Name it: {option}")
    if by_passphrase:
        return Passphrase(click.prompt("Passphrase of the backup", hide_input=True))
    return parse_key(click.prompt("Key (the line AGE-SECRET-KEY-1…)", hide_input=True))


def _described(found: Backup) -> list[str]:
    about = found.manifest
    origin = "known" if found.origin_checked else "not known: the key does not say who signs"
    head = f"up to call {about.head['number']}" if about.head else "empty"
    return [
        f"made {words.moment(about.made)} on {about.host}",
        f"by pvemcp {about.pvemcp}, schema {about.schema}",
        f"maker {origin}",
        f"audit {about.audit}, {head}",
        *(f"{entry['size']:>12,}  {name}" for name, entry in sorted(about.members.items())),
        "All of it is as it was made.",
    ]


@backup.command(name="list")
@click.option("--to", type=FILE, metavar="FOLDER", help="Look there, instead of at backup_to.")
@click.option("--to-storage", metavar="STORAGE", help="Look at a storage of PVE instead.")
@click.pass_context
def list_(context: click.Context, to: Path | None, to_storage: str | None) -> None:
    """Show the backups in a folder, and how the last one ended."""
    from pvemcp import backup_status  # noqa: PLC0415
    from pvemcp.setup.backup.folder import kept_in  # noqa: PLC0415
    from pvemcp.setup.backup.make import target  # noqa: PLC0415
    from pvemcp.setup.backup.places import places  # noqa: PLC0415

    settings = words.settings(context)
    chosen = str(to) if to else f"storage:{to_storage}" if to_storage else settings.backup_to
    folder = target(chosen, places(settings))
    rows = [(each.path.name, words.moment(each.made), f"{each.size:,}") for each in kept_in(folder)]
    if rows:
        click.echo(words.table(("FILE", "MADE", "BYTES"), rows))
    else:
        click.echo(f"There are no backups in {folder}.")
    if not settings.backup_recipient:
        click.echo("The daily backup is off: pvemcp backup init", err=True)
    elif wrong := backup_status.problem(settings, time.time()):
        click.echo(words.printable(wrong), err=True)
