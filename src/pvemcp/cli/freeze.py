"""Commands that stop changes at once, and let them go on."""

from __future__ import annotations

import click

from pvemcp.access.freeze import EVERYONE, Freezes
from pvemcp.access.grants import Grants, nearest
from pvemcp.audit import Audit
from pvemcp.cli import words
from pvemcp.errors import Missing
from pvemcp.store import Store

_CLIENT = click.option("--client", metavar="NAME", help="Only this grant; without it all.")


@click.command(short_help="Stop changes at once, of one client or all.")
@click.option("--all", "everything", is_flag=True, help="Let nothing through, not even reads.")
@click.option("--read-only", is_flag=True, help="Let reads through (the default).")
@click.option("--status", is_flag=True, help="Only show what is frozen.")
@click.option("--reason", default="", metavar="TEXT", help="Why; clients and the audit see it.")
@_CLIENT
@click.pass_context
def freeze(
    context: click.Context,
    everything: bool,  # noqa: FBT001 - click passes it so
    read_only: bool,  # noqa: FBT001
    status: bool,  # noqa: FBT001
    reason: str,
    client: str | None,
) -> None:
    """Stop changes at once, in a running service too. Run it as root or as the service's user.

    The next step of every running call is refused; commands and shells that may change something
    end. PVE tasks that have begun go on: PVE stops those.
    """
    if everything and read_only:
        raise click.UsageError("--all and --read-only contradict each other.")
    with Store(words.settings(context).state_dir) as store:
        freezes = Freezes(store, event=Audit(store, None).event)
        if not status:
            _require_known(store, client)
            mode = "all" if everything else "read-only"
            freezes.freeze(mode, client=client or EVERYONE, by=words.person(), reason=reason)
        found = freezes.all()
    for each in found:
        click.echo(words.printable(f"{each}."))
    if not found:
        click.echo("Nothing is frozen.")


@click.command(short_help="Let a frozen client, or all, go on.")
@_CLIENT
@click.pass_context
def thaw(context: click.Context, client: str | None) -> None:
    """End a freeze. Without --client that of all; a client's own freeze stays."""
    with Store(words.settings(context).state_dir) as store:
        freezes = Freezes(store, event=Audit(store, None).event)
        freezes.thaw(client=client or EVERYONE, by=words.person())
        left = freezes.all()
    click.echo("Thawed.")
    for each in left:
        click.echo(words.printable(f"Still: {each}."))


def _require_known(store: Store, client: str | None) -> None:
    known = [grant.name for grant in Grants(store).list()]
    if client is not None and client not in known:
        raise Missing(f"No grant has the name {client}.", hint=nearest(client, known))
