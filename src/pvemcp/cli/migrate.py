"""The command that replaces the construction with an SSH wrapper and a .env file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from pvemcp.cli import admin, words
from pvemcp.cli.client import KINDS
from pvemcp.cli.setup import FIRST, setup


@click.command(short_help="Replace an older construction, from its .env file.")
@click.argument("env", type=click.Path(path_type=Path, dir_okay=False), metavar="ENV_FILE")
@click.option("--dry-run", is_flag=True, help="Only say what would become of it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--client", "name", default=FIRST, show_default=True, help="The client's name.")
@click.option(
    "--role", type=click.Choice(KINDS), default="operator", show_default=True, help="Its role."
)
@admin.options
@click.pass_context
def migrate(
    context: click.Context,
    *,
    env: Path,
    dry_run: bool,
    yes: bool,
    name: str,
    role: str,
    given: admin.Given,
) -> int:
    """Say what each setting of an old .env file becomes, set up, and say what remains to clean up.

    The old construction is neither changed nor stopped: both run side by side until you remove it.
    """
    from pvemcp.setup import dotenv  # noqa: PLC0415 - not for every command
    from pvemcp.setup.leftovers import leftovers  # noqa: PLC0415 - not for every command
    from pvemcp.setup.migration import Old, translate  # noqa: PLC0415 - not for every command
    from pvemcp.setup.place import is_pve_host, own_names  # noqa: PLC0415 - slow to import

    old = Old(dotenv.read(env))
    here = is_pve_host() and old.is_here(own_names()) and not given.elsewhere
    for one in translate(old, client=name, role=role, here=here):
        click.echo(words.printable(f"{one.name} = {one.value}"))
        click.echo(words.printable(f"  becomes {one.text}"))
    click.echo("")
    if not here and given.pve_url is None:
        given = replace(given, pve_url=old.url)
    if dry_run and not here and given.admin is None:
        click.echo("With --admin root@pam the plan of set-up would stand here.")
        code = 0
    else:
        code = context.invoke(
        setup, dry_run=dry_run, yes=yes, undo=False, name=name, role=role, listen=None,
        **{field: getattr(given, field) for field in admin.Given.__slots__},
        )  # fmt: skip
    click.echo("\nThe old construction still runs. Once its clients have moved, take away:")
    for found in leftovers(old, env):
        click.echo(words.printable(f"  {found.what}"))
        click.echo(words.printable(f"    {found.repair}"))
    return code
