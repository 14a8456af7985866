"""Commands that look around: doctor, connect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pvemcp import connect as connecting
from pvemcp.cli import firewall, words
from pvemcp.cli.authority import authority, trust_notes
from pvemcp.errors import Fault, Misconfigured
from pvemcp.settings import Settings

if TYPE_CHECKING:
    from pvemcp.health import Check


@click.command(short_help="Check the installation and say how to repair it.")
@click.pass_context
def doctor(context: click.Context) -> int:
    """Check settings, state, PVE and its token, certificates, clocks and grants.

    Says for each finding how to repair it. Exits with 1 when something must be repaired.
    """
    try:
        settings = words.settings(context, files=True)
    except Misconfigured as fault:
        click.echo(f"FAIL  settings  {fault.message}\n      {fault.hint}")
        return 1
    return 0 if report(settings) else 1


def report(settings: Settings) -> bool:
    """Print every finding, with its repair; return whether nothing must be repaired."""
    import asyncio  # noqa: PLC0415 - slow to import

    from pvemcp.health import checks  # noqa: PLC0415 - slow to import

    found = [
        *asyncio.run(checks(settings)),
        *firewall.problems(settings),
        *_in_pve(settings),
    ]
    for check in found:
        mark = "FAIL" if not check.ok else "WARN" if check.repair else "ok"
        click.echo(words.printable(f"{mark:4}  {check.name}  {check.message}"))
        if check.repair:
            click.echo(words.printable(f"      {check.repair}"))
    return all(check.ok for check in found)


def _in_pve(settings: Settings) -> list[Check]:
    """Compare PVE with what set-up made, where only root of the PVE host can."""
    from pvemcp.setup.place import is_pve_host  # noqa: PLC0415 - slow to import
    from pvemcp.setup.plan import RECORDS, Records  # noqa: PLC0415 - slow to import

    if os.geteuid() != 0 or not is_pve_host() or not Records(RECORDS).entries:
        return []
    from pvemcp.setup.drift import drift  # noqa: PLC0415 - slow to import
    from pvemcp.setup.pvesh import Pvesh  # noqa: PLC0415 - slow to import
    from pvemcp.setup.remembering import Remembering  # noqa: PLC0415 - slow to import
    from pvemcp.setup.shared_book import book  # noqa: PLC0415 - slow to import
    from pvemcp.store import Store  # noqa: PLC0415 - slow to import

    try:
        with Store(settings.state_dir, change=False) as store:
            return drift(Remembering(Pvesh()), book(store, settings))
    except Fault:
        return []  # the check of the database has said so


@click.command(short_help="Print what connects a client.")
@click.argument("client", type=click.Choice(connecting.CLIENTS), metavar="CLIENT")
@click.option("--url", help="MCP URL as the client reaches it, instead of the configured one.")
@click.option(
    "--name",
    default=connecting.SERVER_NAME,
    show_default=True,
    help="What the service is called inside the client.",
)
@click.option(
    "--helper",
    is_flag=True,
    help="claude-code: the secret stays in a file of its own, read by a small script.",
)
@click.option(
    "--ca-out",
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write the certificate that the client must trust to a file; `-` prints nothing else.",
)
@click.pass_context
def connect(
    context: click.Context,
    *,
    client: str,
    url: str | None,
    name: str,
    helper: bool,
    ca_out: Path | None,
) -> None:
    """Print the exact command or file that connects a client. Notes go to stderr.

    CLIENT is claude-code, claude-desktop, cursor, vscode or json.
    """
    if ca_out is not None:
        pem = authority(context)
        if str(ca_out) == "-":
            click.echo(pem, nl=False)
            return
        ca_out.write_text(pem)
    if helper and client != "claude-code":
        raise click.UsageError("--helper is for claude-code.")
    trust = None
    if client == "claude-desktop" or url is None or ca_out:
        settings = words.settings(context)  # refuses what the client would only show in a log
        url = url or connecting.service_url(settings)
        trust = trust_notes(settings, url, ca_out, claude=client == "claude-code")
    config = ("--config", str(context.obj.absolute())) if context.obj else ()
    made = connecting.snippet(
        client,
        url=url,
        name=name,
        command=(words.this_program(), *config),
        env=os.environ,
        helper=helper,
        trust=trust,
    )
    click.echo(made.text)
    for note in made.notes:
        click.echo(f"# {note}", err=True)
