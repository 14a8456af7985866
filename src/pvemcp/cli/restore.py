"""The command that puts a backup in place of what is here."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvemcp.cli import admin, words
from pvemcp.cli.backup import FILE, opened, with_key
from pvemcp.errors import Conflict, Misconfigured
from pvemcp.settings import CONFIG_VARIABLE, Settings
from pvemcp.settings.sources import config_path, default_state_dir

if TYPE_CHECKING:
    from pvemcp.setup.access import PveAccess
    from pvemcp.setup.backup.opened import Backup
    from pvemcp.setup.backup.places import Places
    from pvemcp.setup.backup.restore import Choices, Tokens
    from pvemcp.setup.door import Target


@click.command(short_help="Put a backup in place of what is here.")
@click.argument("file", type=FILE, required=False)
@with_key
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--without-pve", is_flag=True, help="Leave PVE alone: make no tokens anew.")
@click.option(
    "--replace-audit", is_flag=True, help="Take the audit of the backup instead of this host's."
)
@click.option("--no-start", is_flag=True, help="Leave the service stopped.")
@click.option("--recover", is_flag=True, help="Take back a restore that was ended half-way.")
@admin.options
@click.pass_context
def restore(
    context: click.Context,
    *,
    file: Path | None,
    key: Path | None,
    passphrase_file: Path | None,
    dry_run: bool,
    yes: bool,
    without_pve: bool,
    replace_audit: bool,
    no_start: bool,
    recover: bool,
    given: admin.Given,
) -> None:
    """Put the settings, grants and keys of a backup in place of those that are here.

    It may come from another host: what belongs to a host, like its addresses, is adapted, and PVE
    tokens that PVE does not know are made anew, so that clients get in with the secrets that they
    have. Either all of it is done, or nothing is changed.
    """
    if recover:
        _recover(context, start=not no_start)
        return
    if file is None:
        raise click.UsageError("Name the backup: pvemcp restore FILE")
    from pvemcp.setup.backup import restore as restoring  # noqa: PLC0415 - slow to import
    from pvemcp.setup.backup.service import Service  # noqa: PLC0415

    where, settings = _here(context)
    found = opened(file, key, passphrase_file, where)
    with contextlib.ExitStack() as stack:
        access = None if without_pve else _access(stack, given, settings)
        planned = restoring.plan(
            found,
            where,
            _choices(found, access, given, settings, replace_audit=replace_audit),
            tokens=_tokens(found, access, given, settings),
            service=Service(where.unit, where.settings),
        )
        for line in planned.lines():
            click.echo(words.printable(line))
        if dry_run:
            return
        if not yes:
            click.confirm("Restore?", abort=True, err=True)
        restoring.restore(planned, start=not no_start, said=_say)
    click.echo("Restored. Look it over: pvemcp doctor")


def _access(
    stack: contextlib.ExitStack, given: admin.Given, settings: Settings
) -> PveAccess | None:
    """Return what works PVE; None off a PVE host when nobody is named who may."""
    from pvemcp.setup.place import is_pve_host  # noqa: PLC0415 - slow to import

    if not given.elsewhere and not is_pve_host():
        return None
    return stack.enter_context(admin.pve_access(given, settings))


def _tokens(
    found: Backup, access: PveAccess | None, given: admin.Given, settings: Settings
) -> Tokens:
    from pvemcp.setup.backup import pve_tokens  # noqa: PLC0415 - slow to import
    from pvemcp.setup.backup.adapt import configured_token  # noqa: PLC0415
    from pvemcp.setup.backup.make import DATABASE, RIGHTS  # noqa: PLC0415
    from pvemcp.setup.backup.restore import NoTokens  # noqa: PLC0415

    if access is None:
        return NoTokens()
    where = admin.target(given, settings) if given.elsewhere else pve_tokens.local_target()
    return pve_tokens.PveTokens(
        access,
        pve_tokens.held(found.members[DATABASE], configured_token(found.members)),
        pve_tokens.parse_rights(found.members.get(RIGHTS, b"")),
        pve_tokens.accepted_by(where),
    )


def _choices(
    found: Backup,
    access: PveAccess | None,
    given: admin.Given,
    settings: Settings,
    *,
    replace_audit: bool,
) -> Choices:
    from pvemcp.setup import place  # noqa: PLC0415 - slow to import
    from pvemcp.setup.backup.cluster import this_cluster  # noqa: PLC0415
    from pvemcp.setup.backup.manifest import this_machine  # noqa: PLC0415
    from pvemcp.setup.backup.restore import Choices  # noqa: PLC0415
    from pvemcp.setup.steps import settings_for  # noqa: PLC0415 - slow to import

    same = found.manifest.machine == this_machine()
    bound: dict[str, object] = {}
    if not same and access is not None:
        on_host = not given.elsewhere
        trust = place.local_trust() if on_host else _remote_trust(admin.target(given, settings))
        unset = {"pve_ca_file": None, "pve_fingerprint": None}
        bound = {**unset, **settings_for(place.look(access, on_host=on_host), trust)}
    return Choices(
        bound,
        same_host=same,
        same_cluster=found.manifest.cluster == this_cluster(),
        replace_audit=replace_audit,
    )


def _say(step: str) -> None:
    click.echo(words.printable(f"  {step}"), err=True)


def _remote_trust(target: Target) -> dict[str, str]:
    from pvemcp.setup import place  # noqa: PLC0415 - slow to import

    return place.remote_trust(target, (target.ca_file or Path()).absolute())


def _recover(context: click.Context, *, start: bool) -> None:
    from pvemcp.setup.backup.restore import NoTokens, recover  # noqa: PLC0415 - slow to import
    from pvemcp.setup.backup.service import Service  # noqa: PLC0415

    where, _ = _here(context)
    try:
        done = recover(
            where, NoTokens(), Service(where.unit if start else "", where.settings), said=_say
        )
    except Conflict:
        click.echo("A restore is under way: it takes back itself what it has to.")
        return
    if not done:
        click.echo("There is nothing to take back.")


def _here(context: click.Context) -> tuple[Places, Settings]:
    """Return where things go, even while the settings here are broken or not there."""
    from pvemcp.setup.backup.places import places  # noqa: PLC0415

    try:
        settings = words.settings(context)
    except Misconfigured:
        named = context.obj or os.environ.get(CONFIG_VARIABLE)
        source = Path(named).absolute() if named else config_path(None, os.environ)
        state = os.environ.get("PVEMCP_STATE_DIR") or default_state_dir(os.environ)
        settings = Settings(state_dir=Path(state), source=source)
    return places(settings), settings
