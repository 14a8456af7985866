"""Commands that stop changes at once, and let them go on."""

from __future__ import annotations

import contextlib

import click

from pvemcp.access.freeze import EVERYONE, Freezes
from pvemcp.access.grants import Grants, nearest
from pvemcp.access.told import ONCE, Told
from pvemcp.audit import Audit
from pvemcp.cli import words
from pvemcp.errors import Fault, Missing
from pvemcp.settings import Settings
from pvemcp.store import Store
from pvemcp.watch.asking import ask

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
    """Stop changes at once, on all nodes of the cluster. Run it as root or as the service's user.

    The next step of every running call is refused; commands and shells that may change something
    end. PVE tasks that have begun go on: PVE stops those.
    """
    if everything and read_only:
        raise click.UsageError("--all and --read-only contradict each other.")
    settings = words.settings(context)
    with Store(settings.state_dir) as store:
        freezes = Freezes(store, event=Audit(store, None).event)
        if not status:
            _require_known(store, client)
            mode = "all" if everything else "read-only"
            freezes.freeze(mode, client=client or EVERYONE, by=words.person(), reason=reason)
            _spread(settings, store, freezes)
        found = freezes.all()
        for each in found:
            click.echo(words.printable(f"{each}."))
        if not found:
            click.echo("Nothing is frozen.")
        _show_nodes(store, freezes)


@click.command(short_help="Let a frozen client, or all, go on.")
@_CLIENT
@click.option(
    "--here", is_flag=True, help="End on this node alone what a node froze that is lost for good."
)
@click.pass_context
def thaw(context: click.Context, client: str | None, here: bool) -> None:  # noqa: FBT001
    """End a freeze, on the node where it was made. The other nodes thaw with it.

    Without --client that of all; a client's own freeze stays.
    """
    settings = words.settings(context)
    with Store(settings.state_dir) as store:
        freezes = Freezes(store, event=Audit(store, None).event)
        if here:
            freezes.release(client=client or EVERYONE, by=words.person())
        else:
            freezes.thaw(client=client or EVERYONE, by=words.person())
            _spread(settings, store, freezes)
        click.echo("Thawed, on this node alone." if here else "Thawed.")
        for each in freezes.all():
            click.echo(words.printable(f"Still: {each}."))
        _show_nodes(store, freezes)


def _spread(settings: Settings, store: Store, freezes: Freezes) -> None:
    """Have the other nodes told: by the service, and by this process where none answers."""
    if not settings.peer_port:
        click.echo("Other nodes of a cluster are not told: peer_port is 0.")
        return
    with contextlib.suppress(Fault):
        ask(settings.state_dir, "spread")
        return
    import asyncio  # noqa: PLC0415 - slow, as are the others

    from pvemcp.host.cluster import Cluster  # noqa: PLC0415
    from pvemcp.peers.spread import Spread  # noqa: PLC0415

    cluster = Cluster(settings.mirror_dir, settings.peer_port)
    try:
        asyncio.run(Spread(cluster, freezes, Told(store)).now())
    except Fault as fault:
        if settings.mirror_dir.exists():  # it is a node of Proxmox VE
            click.echo(f"Other nodes are not told: {fault.message}. {fault.hint}")


def _show_nodes(store: Store, freezes: Freezes) -> None:
    """Say which other nodes know what is frozen here."""
    own, told = freezes.own(), Told(store)
    if names := told.known_on(own):
        click.echo(f"What is frozen here is frozen on {names}, too.")
    for freeze in freezes.all():
        if not freeze.origin and freeze not in own and told.all():
            click.echo(f"client {freeze.client} is one of this node alone.")
    for each in told.behind(own):
        click.echo(words.printable(f"{each.behind}. {ONCE}."))


def _require_known(store: Store, client: str | None) -> None:
    known = [grant.name for grant in Grants(store).list()]
    if client is not None and client not in known:
        raise Missing(f"No grant has the name {client}.", hint=nearest(client, known))
