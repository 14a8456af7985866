"""Commands for ceilings that a person has raised for a while."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from pvemcp.access.elevation import Elevations
from pvemcp.audit import Audit
from pvemcp.cli import words
from pvemcp.store import Store


@click.group(short_help="Show clients whose ceiling is raised for a while; end it.")
def elevation() -> None:
    """Show which clients may do more for a while (the tool `elevate`), and end it.

    Run it as root or as the service's user.
    """


@elevation.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with times since the epoch.")
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it so
    """Show whose ceiling is raised, to what, until when, by whom and why."""
    with Store(words.settings(context).state_dir) as store:
        found = Elevations(store).all()
    if as_json:
        rows = [asdict(one) | {"base": str(one.base), "effect": str(one.effect)} for one in found]
        click.echo(json.dumps(rows, indent=2))
    elif not found:
        click.echo("Nobody is elevated.")
    for one in [] if as_json else found:
        click.echo(words.printable(f"{one}"))


@elevation.command()
@click.argument("client")
@click.pass_context
def end(context: click.Context, client: str) -> None:
    """End a client's elevation now, in a running service too.

    The next step above its own ceiling is refused; commands and shells above it end.
    """
    with Store(words.settings(context).state_dir) as store:
        ended = Elevations(store, event=Audit(store, None).event).end(client, by=words.person())
    click.echo(words.printable(f"Ended: {client} may {ended.base} again, no more."))
