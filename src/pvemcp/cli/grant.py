"""Commands for grants: who may call, and up to which effect."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvemcp.access.elevation import Elevation, Elevations
from pvemcp.access.grants import Grant
from pvemcp.call import ApiToken, Effect
from pvemcp.cli import words
from pvemcp.cli.run import CEILING
from pvemcp.connect import claude_code_command, service_url
from pvemcp.settings import Settings, read_secret
from pvemcp.settings.values import secret as read_as_secret
from pvemcp.settings.values import token_id as read_as_token_id
from pvemcp.store import Store

if TYPE_CHECKING:
    from pvemcp.setup.clients import Book


@click.group()
def grant() -> None:
    """Make, list and revoke grants. A grant lets one client in.

    Changes count at once, also in a service that is running.
    """


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Book, str]]:
    """Give the grants, and say where they are kept."""
    from pvemcp.setup.shared_book import book, kept_in  # noqa: PLC0415 - slow to import

    with Store(settings.state_dir) as store:
        found = book(store, settings)
        yield found, kept_in(found, store)


@grant.command()
@click.argument("name")
@click.option(
    "--ceiling",
    type=CEILING,
    required=True,
    help="The most that the client may do: read; change; destroy (everything).",
)
@click.option(
    "--expires",
    type=words.Duration(),
    metavar="DURATION",
    help="Like 12h, 90d, 4w. Without it the grant lasts until it is revoked.",
)
@click.option(
    "--pve-token-id",
    metavar="USER@REALM!NAME",
    help="A PVE token for this client alone; its secret is asked for and kept in the database.",
)
@click.option(
    "--pve-token-secret-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read that secret from a file instead.",
)
@click.pass_context
def create(
    context: click.Context,
    name: str,
    ceiling: str,
    expires: float | None,
    pve_token_id: str | None,
    pve_token_secret_file: Path | None,
) -> None:
    """Make a grant and show its secret, once."""
    settings = words.settings(context)
    token = _token(pve_token_id, pve_token_secret_file)
    url = service_url(settings)
    with _opened(settings) as (grants, kept):
        made, secret = grants.create(name, Effect.parse(ceiling), expires=expires, token=token)
    until = "until it is revoked" if made.expires is None else f"until {words.moment(made.expires)}"
    works_with = made.token_id or settings.pve_token_id or "none is configured yet"
    click.echo(f"Grant {name}: ceiling {made.ceiling}, {until}. PVE token: {works_with}.")
    click.echo(f"Kept in {kept}.")
    click.echo(f"Its secret, which is shown only now:\n\n  {secret}\n\nFor Claude Code:\n")
    click.echo(f"  {claude_code_command(url, secret)}\n")
    click.echo("For other clients: pvemcp connect --help")


@grant.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with times since the epoch.")
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it so
    """Show all grants, the expired ones too."""
    with _opened(words.settings(context)) as (grants, _):
        found = grants.list()
    with Store(words.settings(context).state_dir) as store:
        raised = {one.grant: one for one in Elevations(store).all()}
    if as_json:
        click.echo(json.dumps([_public(item, raised.get(item.id)) for item in found], indent=2))
    elif not found:
        click.echo("There are no grants. Make one: pvemcp grant create NAME --ceiling read")
    else:
        head = ("NAME", "CEILING", "EXPIRES", "LAST USED", "CREATED", "PVE TOKEN")
        click.echo(words.table(head, [_row(item, raised.get(item.id)) for item in found]))


@grant.command()
@click.argument("name")
@click.pass_context
def revoke(context: click.Context, name: str) -> None:
    """Delete a grant. The next request with its secret is refused."""
    with _opened(words.settings(context)) as (grants, _):
        revoked = grants.revoke(name)
    click.echo(f"Grant {name} is revoked.")
    if revoked.token_id:
        click.echo(f"Its PVE token {revoked.token_id} still exists in PVE: remove it there too.")


def _token(token_id: str | None, secret_file: Path | None) -> ApiToken | None:
    if token_id is None:
        if secret_file is not None:
            raise click.UsageError("--pve-token-secret-file needs --pve-token-id.")
        return None
    identity = read_as_token_id("--pve-token-id", token_id)
    if not identity:
        raise click.UsageError("--pve-token-id is empty.")
    if secret_file is not None:
        return ApiToken(identity, read_secret("--pve-token-secret-file", secret_file))
    if sys.stdin.isatty():
        typed = click.prompt(f"Secret of {identity}", hide_input=True, err=True)
    else:
        typed = sys.stdin.readline().rstrip("\r\n")
    secret = read_as_secret("The secret", typed)
    if not secret:
        raise click.UsageError(f"The secret of {identity} is empty.")
    return ApiToken(identity, secret)


def _row(item: Grant, raised: Elevation | None) -> tuple[str, ...]:
    expired = item.has_expired(time.time())
    expires = f"expired {words.moment(item.expires)}" if expired else words.moment(item.expires)
    return (
        item.name,
        f"{raised.effect} until {words.moment(raised.until)}" if raised else str(item.ceiling),
        expires,
        words.moment(item.last_used),
        words.moment(item.created),
        item.token_id or "(configured one)",
    )


def _public(item: Grant, raised: Elevation | None) -> dict[str, object]:
    values = asdict(item) | {"ceiling": str(item.ceiling), "token_id": item.token_id}
    del values["token"]
    if raised:
        values |= {"raised": {"to": str(raised.effect), "until": raised.until, "by": raised.by}}
    return values
