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
    from pvemcp.setup.clients import Book
    from pvemcp.setup.place import Place
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
    admin.require_root("The service is set up")
    path = context.obj or SYSTEM_CONFIG
    settings = Settings.load(path if path.exists() else None, {}, files=False)
    with contextlib.ExitStack() as stack:
        access = stack.enter_context(admin.pve_access(given, settings))
        store = stack.enter_context(Store(_state(settings.state_dir)))
        if undo:
            return _undo(_setup(path, access, _grants(store, settings)), dry_run=dry_run, yes=yes)
        place, wanted = _wanted(given, settings, access, listen)
        grants = _grants(store, settings)
        made = _setup(path, access, grants, wanted, _client(grants, name, role))
        if not _apply(made, place, dry_run=dry_run, yes=yes):
            return 0
    return _check(path)


def _state(folder: Path) -> Path:
    """Make the state folder the service's own, as the package and systemd do."""
    from pvemcp.setup.place import give_to_service  # noqa: PLC0415 - slow to import

    give_to_service(folder)
    return folder


def _grants(store: Store, settings: Settings) -> Book:
    from pvemcp.setup.shared_book import book  # noqa: PLC0415 - slow to import

    return book(store, settings)


def _setup(
    path: Path, access: Any, grants: Book, wanted: dict[str, Any] | None = None, client: Any = None
) -> Setup:
    from pvemcp.setup.plan import Records  # noqa: PLC0415 - slow to import
    from pvemcp.setup.steps import Setup  # noqa: PLC0415 - slow to import

    return Setup(access, grants, Records(), path, wanted or {}, client)


def _wanted(
    given: admin.Given, settings: Settings, access: Any, listen: str | None
) -> tuple[Place, dict[str, Any]]:
    from pvemcp.setup import place as places  # noqa: PLC0415 - slow to import
    from pvemcp.setup.steps import settings_for  # noqa: PLC0415 - slow to import

    on_host = not given.elsewhere
    place = places.look(access, on_host=on_host)
    trust = places.local_trust() if on_host else places.remote_trust(admin.target(given, settings))
    return place, settings_for(
        place, trust, listen=read_as_listen("--listen", listen) if listen else ""
    )


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

    click.echo(f"{place.describe()}.\nIn PVE it works as {made.access.who}.\n")
    steps = made.steps()
    planned = plan.planned(steps, made.records)
    for step, lines in planned:
        click.echo("\n".join([step.name, *(f"  {line}" for line in lines)]))
    _remark(made)
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


def _remark(made: Setup) -> None:
    for line in made.kept():
        click.echo(f"kept as an administrator set it: {line}")
    for line in made.warnings():
        click.echo(f"WARN  {line}")


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
