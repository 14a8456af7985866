"""Commands for sessions: who is connected to the running service."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from pvemcp.cli import words
from pvemcp.watch.asking import ask


@click.group(invoke_without_command=True, short_help="Show who is connected; end a session.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with times since the epoch.")
@click.pass_context
def sessions(context: click.Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it so
    """Show who is connected to the running service. Run it as root or as the service's user.

    Clients since protocol 2026-07-28 have no sessions; there a session is a grant, an address, and
    the name and version of the client, until none of its requests came for the idle time-out.
    """
    if context.invoked_subcommand is not None:
        return
    found = ask(words.settings(context).state_dir, "sessions")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("Nobody is connected.")
    else:
        head = ("ID", "CLIENT", "ADDRESS", "GRANT", "MAY", "SINCE", "LAST CALL", "CALLS")
        click.echo(words.table(head, [_row(one) for one in found]))


@sessions.command()
@click.argument("id")
@click.pass_context
def end(context: click.Context, id: str) -> None:
    """End a session: its calls are cancelled, its streams closed.

    The client may connect again, after a minute if it has no session of its own to open; to keep
    it out, revoke its grant.
    """
    settings = words.settings(context)
    ended = ask(settings.state_dir, "end", id=id)
    who = f"{ended['client'] or 'a client without a name'} at {ended['address']}"
    click.echo(
        words.printable(f"Ended: {who}, grant {ended['grant']}, {ended['cut']} requests cut.")
    )
    click.echo(f"To keep it out for good: pvemcp grant revoke {ended['grant']}")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["id"],
        words.printable(one["client"]) or "-",
        words.printable(one["address"]),
        one["grant"],
        one["may"],
        words.moment(one["since"]),
        _ago(one["last_call"]),
        str(one["calls"]),
    )


def _ago(at: float | None) -> str:
    return "never" if at is None else f"{max(0.0, time.time() - at):.0f} s ago"
