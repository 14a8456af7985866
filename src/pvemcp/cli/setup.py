"""The command that sets everything up, and takes it back."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvemcp.cli import admin
from pvemcp.cli.check import report
from pvemcp.cli.client import KINDS, show_secret
from pvemcp.errors import Missing
from pvemcp.settings import Settings
from pvemcp.settings.sources import SYSTEM_CONFIG
from pvemcp.settings.values import listen as read_as_listen
from pvemcp.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvemcp.setup.clients import Book
    from pvemcp.setup.place import Place
    from pvemcp.setup.step import Step
    from pvemcp.setup.steps import Setup

FIRST = "claude"
FAILED = 1


@click.command(short_help="Set up the service on this host, or take it back.")
@click.option("--dry-run", is_flag=True, help="Print the whole plan and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--undo", is_flag=True, help="Take back exactly what set-up did.")
@click.option(
    "--client",
    "name",
    metavar="NAME",
    help=f"The first client; {FIRST} unless there is one already.",
)
@click.option(
    "--role", type=click.Choice(KINDS), default="operator", show_default=True, help="Its role."
)
@click.option("--listen", metavar="HOST:PORT", help="Instead of port 8080 on every address.")
@admin.options
@click.pass_context
def setup(
    context: click.Context,
    *,
    dry_run: bool,
    yes: bool,
    undo: bool,
    name: str | None,
    role: str,
    listen: str | None,
    given: admin.Given,
) -> int:
    """Set up the service: roles, account and first client in PVE, settings, TLS, units.

    It prints the plan, asks once, and can be run again at any time: what is as it should be stays,
    and so does what an administrator has changed. On a PVE host it works as root; for a PVE
    elsewhere: --pve-url https://HOST:8006 --admin root@pam.
    """
    from pvemcp.setup.place import look  # noqa: PLC0415 - slow to import
    from pvemcp.setup.plan import Records  # noqa: PLC0415 - slow to import
    from pvemcp.setup.shared_book import book  # noqa: PLC0415 - slow to import
    from pvemcp.setup.steps import Setup  # noqa: PLC0415 - slow to import

    admin.require_root("The service is set up")
    path = context.obj or SYSTEM_CONFIG
    settings = Settings.load(path if path.exists() else None, {}, files=False)
    with contextlib.ExitStack() as stack:
        access = stack.enter_context(admin.pve_access(given, settings))
        store = stack.enter_context(Store(_state(settings.state_dir)))
        grants = book(store, settings)
        if undo:
            undoing = Setup(access, grants, Records(), path, {}, None, on_host=not given.elsewhere)
            return _undo(undoing, dry_run=dry_run, yes=yes)
        place = look(access, on_host=not given.elsewhere)
        wanted, authority = _wanted(given, settings, place, path, listen)
        made = Setup(
            access,
            grants,
            Records(),
            path,
            wanted=wanted,
            client=_client(grants, name, role),
            authority=authority,
            on_host=place.on_host,
            names=place.names,
        )
        if not _apply(made, place, dry_run=dry_run, yes=yes):
            return 0
    return _check(path)


def _state(folder: Path) -> Path:
    """Make the state folder the service's own, as the package and systemd do."""
    from pvemcp.setup.place import give_to_service  # noqa: PLC0415 - slow to import

    give_to_service(folder)
    return folder


def _wanted(
    given: admin.Given, settings: Settings, place: Place, path: Path, listen: str | None
) -> tuple[dict[str, Any], Path | None]:
    """Return the settings that set-up wants, and the authority that must be copied for them."""
    from pvemcp.setup import place as places  # noqa: PLC0415 - slow to import
    from pvemcp.setup.authority import COPY  # noqa: PLC0415 - slow to import
    from pvemcp.setup.steps import settings_for  # noqa: PLC0415 - slow to import

    heard = read_as_listen("--listen", listen) if listen else ""
    if place.on_host:
        return settings_for(place, places.local_trust(), listen=heard), None
    target = admin.target(given, settings)
    trust = places.remote_trust(target, path.with_name(COPY))
    return settings_for(place, trust, listen=heard), target.ca_file


def _client(grants: Book, name: str | None, role: str) -> Any:
    from pvemcp.setup.clients import Wanted, refuse_bad  # noqa: PLC0415 - slow to import

    if name is None and any(grant.token for grant in grants.list()):
        return None
    wanted = Wanted(name or FIRST, role)
    refuse_bad(wanted)
    return wanted


def _apply(made: Setup, place: Place, *, dry_run: bool, yes: bool) -> bool:
    """Show the plan, ask, and bring it about. False when only the plan was wanted."""
    from pvemcp.setup import plan  # noqa: PLC0415 - slow to import

    steps = made.steps()
    planned = plan.planned(steps, made.records)
    _show(made, place, planned)
    if not planned:
        click.echo("Nothing to do: everything is as set-up would make it.")
        return not dry_run
    if dry_run:
        click.echo("\nNothing was changed.")
        return False
    if not yes:
        click.confirm("\nGo on?", abort=True, err=True)
    click.echo("")
    try:
        plan.apply(steps, made.records, lambda line: click.echo(f"done  {line}"))
    finally:
        for step in steps:
            if secret := getattr(step, "secret", ""):
                click.echo("")
                show_secret(Settings.load(made.settings, {}, files=False), secret)
    return True


def _show(made: Setup, place: Place, planned: Sequence[tuple[Step, list[str]]]) -> None:
    click.echo(f"{place.describe()}.\nIn PVE it works as {made.access.who}.\n")
    for step, lines in planned:
        click.echo("\n".join([step.name, *(f"  {line}" for line in lines)]))
    for line in made.kept():
        click.echo(f"kept as an administrator set it: {line}")
    for line in made.warnings():
        click.echo(f"mind: {line}")


def _check(path: Path) -> int:
    click.echo("\nIs all well?")
    settings = Settings.load(path, {}, files=True)
    if not report(settings):
        click.echo("\nRepair what FAIL says, then: pvemcp doctor", err=True)
        return FAILED
    click.echo("\nMore clients: pvemcp client add NAME --role observer. Taking it all back: pvemcp "
               "setup --undo")  # fmt: skip
    return 0


def _undo(made: Setup, *, dry_run: bool, yes: bool) -> int:
    from pvemcp.setup import plan  # noqa: PLC0415 - slow to import
    from pvemcp.setup.steps import refuse_strangers  # noqa: PLC0415 - slow to import

    if not made.records.entries:
        raise Missing(
            f"There is nothing to take back: {made.records.path} does not exist.",
            hint="Set-up has not been run here, or was taken back already.",
        )
    refuse_strangers(made.access, made.records)
    click.echo("Taken back, the last first:")
    for entry in reversed(made.records.entries):
        click.echo("\n".join([entry.step, *(f"  {line}" for line in entry.did)]))
    if dry_run:
        click.echo("\nNothing was changed.")
        return 0
    if not yes:
        click.confirm("\nGo on?", abort=True, err=True)
    click.echo("")
    plan.undo(made.find(), made.records, lambda line: click.echo(f"done  {line}"))
    return 0
