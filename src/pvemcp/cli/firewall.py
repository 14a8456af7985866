"""Commands for the firewall: who may reach the service's port."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pvemcp.cli import admin, words
from pvemcp.errors import Fault
from pvemcp.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pvemcp.health import Check
    from pvemcp.setup.firewall import Firewall
    from pvemcp.setup.networks import Network


@click.group()
def firewall() -> None:
    """Say from which networks the service can be reached.

    The rules stand in PVE's firewall where that is on, else in an nftables table of their own. This
    host itself always reaches the service.
    """


@firewall.command()
@click.argument("networks", nargs=-1, metavar="[CIDR]...")
@click.pass_context
def allow(context: click.Context, networks: tuple[str, ...]) -> None:
    """Let networks in, besides those that are.

    The first time, this host's own networks are let in as well. Without a CIDR the rules are put
    anew where they count: after PVE's firewall was switched on or off, or the port was changed.
    """
    from pvemcp.setup.networks import parse  # noqa: PLC0415 - not for every command

    wanted = parse(networks)
    _say(_open(context).allow(wanted))


@firewall.command()
@click.argument("networks", nargs=-1, required=True, metavar="CIDR...")
@click.pass_context
def deny(context: click.Context, networks: tuple[str, ...]) -> None:
    """Let networks in no longer, also a part of one that is let in."""
    from pvemcp.setup.networks import parse  # noqa: PLC0415 - not for every command

    unwanted = parse(networks)
    _say(_open(context).deny(unwanted))


@firewall.command()
@click.pass_context
def status(context: click.Context) -> int:
    """Print who may reach the service, and the rules. Exits with 1 when they do not hold."""
    found = _open(context).status()
    if not found.where and not found.problems:
        click.echo("The service listens on this machine alone: nothing has to guard it.")
    if found.where:
        _say(found.sources)
        click.echo(f"\nIn {found.where}:")
    for line in found.rules:
        click.echo(words.printable(line.replace("\t", "    ")))
    for problem in found.problems:
        click.echo(f"WARN  {problem}")
    if found.problems:
        click.echo("      Repair: pvemcp firewall allow")
    return 1 if found.problems else 0


@firewall.command()
@click.pass_context
def remove(context: click.Context) -> None:
    """Take everything of pvemcp out of the firewall again."""
    gone = _open(context).remove()
    for where in gone:
        click.echo(f"removed from {where}")
    if not gone:
        click.echo("there was nothing of pvemcp")


def _open(context: click.Context) -> Firewall:
    admin.require_root("The firewall is changed")
    return _of(words.settings(context))


def _of(settings: Settings) -> Firewall:
    from pvemcp.setup.firewall import open_firewall  # noqa: PLC0415 - not for every command
    from pvemcp.setup.place import is_pve_host  # noqa: PLC0415 - not for every command
    from pvemcp.setup.pvesh import Pvesh  # noqa: PLC0415 - not for every command

    return open_firewall(settings, Pvesh() if is_pve_host() else None)


def problems(settings: Settings) -> list[Check]:
    """Return for `doctor` what is wrong with the rules. Only root can see them."""
    if os.geteuid() != 0 or settings.loopback_only:
        return []
    from pvemcp.health.check import good, warning  # noqa: PLC0415 - not for every command
    from pvemcp.setup.firewall import AGAIN  # noqa: PLC0415 - not for every command

    try:
        found = _of(settings).status()
    except Fault as fault:
        return [warning("firewall", fault.message, fault.hint)]
    wrong = [warning("firewall", problem, f"Run: {AGAIN}") for problem in found.problems]
    return wrong or [good("firewall", f"{len(found.sources)} networks are let in")]


def _say(sources: Sequence[Network]) -> None:
    named = ", ".join(map(str, sources)) or "nobody but this host"
    click.echo(f"may reach the service: {named}")
