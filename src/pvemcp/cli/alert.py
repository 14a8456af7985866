"""Commands for alerts: what is wrong, and whether an administrator would hear of it."""

from __future__ import annotations

from typing import Any

import click

from pvemcp.cli import words
from pvemcp.watch.asking import ask


@click.group()
def alert() -> None:
    """Show alerts of the running service, or try its channels. Run it as root or as its user."""


@alert.command(name="list")
@click.pass_context
def list_(context: click.Context) -> None:
    """Show what is wrong now, and who was told when."""
    found: list[dict[str, Any]] = ask(words.settings(context).state_dir, "alerts")
    if not found:
        click.echo("Nothing is wrong.")
    for one in found:
        told = f"told {words.moment(one['told'])}" if one["told"] else "not told yet"
        gone = ", over" if one["gone"] else ""
        head = (
            f"{one['severity']}  {one['title']}  since {words.moment(one['since'])}, {told}{gone}"
        )
        click.echo(words.printable(f"{head}"))
        click.echo(words.printable(f"    {one['text']}"))


@alert.command()
@click.pass_context
def test(context: click.Context) -> int:
    """Send a test alert over every channel. Exits with 1 when one does not take it."""
    problems: dict[str, str] = ask(words.settings(context).state_dir, "alert-test")
    if not problems:
        click.echo(
            "There is no channel: alerts are in the journal and in pvemcp alert list only.\n"
            "Set alert_webhook, or install the package for mail through PVE's notifications."
        )
        return 1
    for name, problem in problems.items():
        click.echo(words.printable(f"{name}: {problem or 'taken'}"))
    if not problems.get("mail", "-"):
        click.echo("Whether PVE's targets pass the mail on: journalctl -t proxmox-mail-forward")
    return 1 if any(problems.values()) else 0
