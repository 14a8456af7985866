"""Commands for clients: a grant here and a token of its own in PVE, made and ended together."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pvemcp.cli import admin, words
from pvemcp.cli.authority import trust_notes
from pvemcp.connect import claude_code_command, service_url
from pvemcp.settings import Settings
from pvemcp.store import Store

if TYPE_CHECKING:
    from pvemcp.setup.clients import Book, Clients, Row
    from pvemcp.setup.plan import Records

KINDS = ("observer", "operator", "provisioner", "admin")


@click.group()
def client() -> None:
    """Make, list, renew and end clients.

    A client is a grant here and an API token of its own in PVE. On a PVE host root makes both;
    elsewhere an administrator logs in with --admin. The `grant` commands work on grants alone, for
    installations whose PVE tokens somebody else makes.
    """


@dataclass(frozen=True, slots=True)
class _Opened:
    settings: Settings
    grants: Book
    clients: Clients
    records: Records | None
    """What set-up did; None for a user who is not root, and has none."""


@contextmanager
def _opened(context: click.Context, given: admin.Given) -> Iterator[_Opened]:
    from pvemcp.setup.clients import Clients  # noqa: PLC0415 - slow to import
    from pvemcp.setup.plan import Records  # noqa: PLC0415 - slow to import
    from pvemcp.setup.shared_book import book  # noqa: PLC0415 - slow to import

    settings = words.settings(context)
    records = Records() if os.geteuid() == 0 else None
    with Store(settings.state_dir) as store, admin.pve_access(given, settings) as access:
        grants = book(store, settings)
        yield _Opened(settings, grants, Clients(access, grants), records)


@client.command(short_help="Make a client and show its secret, once.")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(KINDS),
    required=True,
    help="observer sees; operator also has power, snapshots, backups, migration; provisioner also "
    "makes and changes guests; admin also works nodes, and may destroy.",
)
@click.option(
    "--expires",
    type=words.Duration(),
    metavar="DURATION",
    help="Like 12h, 90d, 4w. Without it the client lasts until it is revoked.",
)
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="PATH",
    help="Where in PVE the role holds, instead of /: /vms/100, /storage/local … May be repeated.",
)
@click.option(
    "--pool", "pools", multiple=True, metavar="POOL", help="The same for a pool's guests."
)
@click.option(
    "--guests", is_flag=True, help="It may run commands in VMs through their agent, as root there."
)
@admin.options
@click.pass_context
def add(
    context: click.Context,
    *,
    name: str,
    role: str,
    expires: float | None,
    paths: tuple[str, ...],
    pools: tuple[str, ...],
    guests: bool,
    given: admin.Given,
) -> None:
    """Make a client and show its secret, once."""
    from pvemcp.setup.clients import Wanted, refuse_bad  # noqa: PLC0415 - slow to import

    where = (*paths, *(f"/pool/{pool}" for pool in pools)) or ("/",)
    wanted = Wanted(name, role, expires, where, guests)
    refuse_bad(wanted)
    with _opened(context, given) as opened:
        secret = _add(opened, wanted)
        made = opened.grants.named(name)
    until = "until it is revoked" if made.expires is None else f"until {words.moment(made.expires)}"
    click.echo(f"Client {name}: {role} on {', '.join(where)}, {until}.")
    click.echo(f"PVE token {made.token_id}, ceiling {made.ceiling}.")
    show_secret(opened.settings, secret)


def _add(opened: _Opened, wanted: Any) -> str:
    from pvemcp.setup.client_step import ClientStep  # noqa: PLC0415 - slow to import
    from pvemcp.setup.plan import apply  # noqa: PLC0415 - slow to import

    if opened.records is None:
        return opened.clients.add(wanted)[1]
    step = ClientStep(opened.clients, wanted, known=False)
    apply([step], opened.records, lambda _: None)
    return step.secret


def show_secret(settings: Settings, secret: str) -> None:
    """Print a secret and what connects Claude Code with it."""
    url = service_url(settings)
    click.echo(f"Its secret, which is shown only now:\n\n  {secret}\n\nFor Claude Code:\n")
    click.echo(f"  {claude_code_command(url, secret)}\n")
    for note in trust_notes(settings, url, None, claude=True) or ():
        click.echo(f"# {note}")
    click.echo("For other clients: pvemcp connect --help")


@client.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with times since the epoch.")
@admin.options
@click.pass_context
def list_(context: click.Context, *, as_json: bool, given: admin.Given) -> None:
    """Show all clients: the grant, the token in PVE, and what is missing of either."""
    with _opened(context, given) as opened:
        rows = opened.clients.rows()
    if as_json:
        click.echo(json.dumps([_public(row) for row in rows], indent=2))
    elif not rows:
        click.echo("There are no clients. Make one: pvemcp client add NAME --role operator")
    else:
        head = ("NAME", "STATE", "CEILING", "EXPIRES", "LAST USED", "RIGHTS IN PVE", "PVE TOKEN")
        click.echo(words.table(head, [_cells(row) for row in rows]))


def _cells(row: Row) -> tuple[str, ...]:
    grant, rights = row.grant, ", ".join(row.rights) or "-"
    if grant is None:
        return (row.name, row.state, "-", "-", "-", rights, row.token)
    expires, used = words.moment(grant.expires), words.moment(grant.last_used)
    return (row.name, row.state, str(grant.ceiling), expires, used, rights, row.token or "-")


def _public(row: Row) -> dict[str, Any]:
    grant = row.grant
    return {
        "name": row.name,
        "state": row.state,
        "token": row.token,
        "rights": row.rights,
        "ceiling": str(grant.ceiling) if grant else None,
        "created": grant.created if grant else None,
        "expires": grant.expires if grant else None,
        "last_used": grant.last_used if grant else None,
    }


@client.command()
@click.argument("name")
@admin.options
@click.pass_context
def revoke(context: click.Context, *, name: str, given: admin.Given) -> None:
    """End a client: its secret is refused at once, and its PVE token is removed."""
    with _opened(context, given) as opened:
        for line in opened.clients.revoke(name):
            click.echo(line)
        if opened.records is not None:
            opened.records.forget(f"client {name}")


@client.command()
@click.argument("name")
@click.option(
    "--grace",
    type=words.Duration(),
    metavar="DURATION",
    default="10m",
    show_default=True,
    help="How long the old secret and the old PVE token still work.",
)
@click.option("--now", is_flag=True, help="The old ones end at once: no grace.")
@click.option("--finish", is_flag=True, help="Only end what an earlier rotation left working.")
@admin.options
@click.pass_context
def rotate(
    context: click.Context,
    *,
    name: str,
    grace: float,
    now: bool,
    finish: bool,
    given: admin.Given,
) -> None:
    """Give a client a new secret and a new PVE token, without a gap.

    The new secret works at once, and the old one during the grace.
    """
    with _opened(context, given) as opened:
        if finish:
            lines = opened.clients.finish(name)
            click.echo("\n".join([f"The former secret of {name} is refused from now on.", *lines]))
            return
        made, secret = opened.clients.rotate(name, grace=0 if now else grace)
    until = "is refused from now on" if now else f"works until {words.moment(time.time() + grace)}"
    click.echo(f"Client {name} has a new secret; the old one {until}.")
    click.echo(f"PVE token: {made.token_id or 'the configured one'}.")
    show_secret(opened.settings, secret)
