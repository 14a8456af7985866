"""The command that shows what was called, by whom, with which end."""

from __future__ import annotations

import json

import click

from pvemcp.access.grants import Grants, nearest
from pvemcp.audit import Audit, Entry, as_json
from pvemcp.cli import words
from pvemcp.errors import Missing
from pvemcp.store import Store


@click.command(short_help="Show recorded calls.")
@click.option(
    "--since",
    type=words.Moment(),
    metavar="WHEN",
    help="Like 1h, 7d (ago), or 2026-01-31T08:00.",
)
@click.option("--client", metavar="NAME", help="Only calls of the grant of that name.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    metavar="COUNT",
    default=100,
    show_default=True,
    help="At most that many, the newest.",
)
@click.option("--json", "lines", is_flag=True, help="One JSON object a line, with all details.")
@click.pass_context
def audit(
    context: click.Context,
    since: float | None,
    client: str | None,
    limit: int,
    lines: bool,  # noqa: FBT001 - click passes it so
) -> None:
    """Show recorded calls, the newest last, with the requests to PVE that changed something."""
    with Store(words.settings(context).state_dir) as store:
        if client is not None:
            _refuse_unknown(client, store)
        found = Audit(store, None).rows(since, client, limit)
    for entry in found:
        click.echo(as_json(entry) if lines else _text(entry))
    if not found:
        click.echo("No calls are recorded for this choice.", err=True)
    elif len(found) == limit:
        click.echo(f"The newest {limit} are shown; --limit shows more.", err=True)


def _refuse_unknown(client: str, store: Store) -> None:
    """Say that a name is wrong; a revoked grant still has its calls, a new one has none yet."""
    called = {str(name) for (name,) in store.rows("SELECT DISTINCT client FROM calls")}
    known = called | {grant.name for grant in Grants(store).list()}
    if client not in known:
        raise Missing(
            f"No grant and no recorded call has the name {client}.",
            hint=nearest(client, sorted(known)),
        )


def _text(entry: Entry) -> str:
    arguments = json.dumps(dict(entry.arguments), ensure_ascii=True)
    shown = arguments if len(arguments) <= 200 else f"{arguments[:200]}…"
    who = f"{entry.client}@{entry.address}" if entry.address else entry.client
    head = (words.moment(entry.time), who, entry.tool, entry.outcome, f"{entry.ms:.0f} ms", shown)
    lines = ["  ".join(head)]
    lines += [_step(step) for step in entry.steps if step.get("effect") != "read"]
    lines += [f"    {line}" for line in entry.error.splitlines()]
    return "\n".join(words.printable(line) for line in lines)


def _step(step: object) -> str:
    values = step if isinstance(step, dict) else {}
    status = values.get("note") or values.get("status", "")
    text = " ".join(str(values.get(name, "")) for name in ("verb", "path", "effect"))
    return f"    {text} {status} {values.get('upid', '')}".rstrip()
