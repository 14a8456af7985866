"""The command that shows what was called, by whom, with which end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

import click

from pvemcp import verifying
from pvemcp.access.grants import Grants, nearest
from pvemcp.audit import Audit, Entry, as_json
from pvemcp.chain import Chain, Event, Head
from pvemcp.cli import words
from pvemcp.errors import Missing
from pvemcp.recordings import Recordings
from pvemcp.store import Store
from pvemcp.verifying import anchors_in

MOST = 10_000_000


@click.group(invoke_without_command=True, short_help="Show, verify, export what was recorded.")
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
@click.option("--events", is_flag=True, help="Also what is no call: refusals, approvals, freezes.")
@click.pass_context
def audit(
    context: click.Context,
    since: float | None,
    client: str | None,
    limit: int,
    lines: bool,  # noqa: FBT001 - click passes it so
    events: bool,  # noqa: FBT001
) -> None:
    """Show recorded calls, the newest last, with the requests to PVE that changed something."""
    if context.invoked_subcommand is not None:
        return
    with Store(words.settings(context).state_dir) as store:
        if client is not None:
            _refuse_unknown(client, store)
        found: list[Entry | Event] = [*Audit(store, None).rows(since, client, limit)]
        if events:
            told = Chain(store).events(since=since or 0.0, limit=limit)
            found += [one for one in told if client in (None, one.about.get("client"))]
    for entry in sorted(found, key=lambda one: one.time)[-limit:]:
        if isinstance(entry, Event):
            click.echo(_event(entry) if lines else _event_text(entry))
        else:
            click.echo(as_json(entry) if lines else _text(entry))
    if not found:
        click.echo("No calls are recorded for this choice.", err=True)
    elif len(found) >= limit:
        click.echo(f"The newest {limit} are shown; --limit shows more.", err=True)


@audit.command()
@click.option(
    "--anchors",
    type=click.File("r", "utf-8"),
    metavar="FILE",
    help="Lines with anchors (the journal's, or the anchor file's); - reads stdin.",
)
@click.pass_context
def verify(context: click.Context, anchors: TextIO | None) -> None:
    """Say whether what was recorded is still there, unchanged: the first broken record, and why.

    Without --anchors those of the setting audit_anchor_file count, if there is one. To compare with
    the journal: journalctl -u pvemcp -o cat | pvemcp audit verify --anchors -
    """
    settings = words.settings(context)
    with Store(settings.state_dir) as store:
        chain = Chain(store)
        known = _anchors(anchors, settings.audit_anchor_file)
        problem = verifying.verify(chain, known)
        problem = problem or next(Recordings(store).problems(), "")
        head = chain.head()
    if problem:
        click.echo(f"BROKEN: {words.printable(problem)}.", err=True)
        raise click.exceptions.Exit(1)
    count = f"{head.number} records" if head else "no records yet"
    against = f", and {len(known)} anchors agree" if known else "; no anchors were compared"
    click.echo(f"The audit is whole: {count}{against}.")
    if head:
        click.echo(f"Head: {head.number} {head.mac}")


@audit.command()
@click.pass_context
def recordings(context: click.Context) -> None:
    """List the recorded shells, oldest first. Which are recorded, the policy says."""
    with Store(words.settings(context).state_dir) as store:
        found = Recordings(store).all()
    rows = [
        (
            one.name, words.moment(one.started), words.printable(one.client),
            f"{one.about.get('profile')} on {one.about.get('node')}", f"{one.size / 1024:.0f} kB",
            words.printable(f"deleted: {one.deleted}" if one.deleted else one.end or "running"),
        )
        for one in found
    ]  # fmt: skip
    if rows:
        click.echo(words.table(("RECORDING", "STARTED", "CLIENT", "SHELL", "SIZE", "STATE"), rows))
    else:
        click.echo("No shells were recorded.", err=True)


@audit.command()
@click.argument("name")
@click.option("--text", is_flag=True, help="What can be read of it, without control characters.")
@click.pass_context
def recording(context: click.Context, name: str, text: bool) -> None:  # noqa: FBT001 - click
    """Print a recording as an asciicast: pvemcp audit recording NAME > shell.cast

    A player passes what the shell wrote to your terminal, which obeys it. --text does not.
    """
    with Store(words.settings(context).state_dir) as store:
        lines = Recordings(store).read(name)
    for line in lines[1:] if text else lines:
        click.echo(_readable(line) if text else line)


def _readable(line: str) -> str:
    seconds, code, data = json.loads(line)
    shown = " ".join(words.printable(part) for part in str(data).splitlines() if part.strip())
    sign = {"o": "<", "i": ">"}.get(code) or words.printable(str(code))
    return f"{seconds:10.3f} {sign} {shown}"


def _anchors(given: TextIO | None, file: Path | None) -> list[Head]:
    if given is not None:
        return anchors_in(given)
    if file is None or not file.exists():
        return []
    with file.open(encoding="utf-8", errors="replace") as lines:
        return anchors_in(lines)


@audit.command()
@click.option("--since", type=words.Moment(), metavar="WHEN", help="Like 7d, or 2026-01-31T08:00.")
@click.option("--client", metavar="NAME", help="Only calls of the grant of that name.")
@click.pass_context
def export(context: click.Context, since: float | None, client: str | None) -> None:
    """Print everything as JSON lines, oldest first: calls, and events that are no calls."""
    with Store(words.settings(context).state_dir) as store:
        calls = Audit(store, None).rows(since, client, MOST)
        events = [] if client else Chain(store).events(since=since or 0.0, limit=MOST)
        lines = [(one.time, as_json(one)) for one in calls]
    lines += [(one.time, _event(one)) for one in events]
    for _, line in sorted(lines):
        click.echo(line)


def _event(event: Event) -> str:
    said = {"event": event.kind, "time": event.time, "number": event.number, **event.about}
    return json.dumps(said, ensure_ascii=True, default=str)


def _refuse_unknown(client: str, store: Store) -> None:
    """Say that a name is wrong; a revoked grant still has its calls, a new one has none yet."""
    audit = Audit(store, None)
    if audit.rows(client=client, limit=1):
        return
    known = audit.clients() | {grant.name for grant in Grants(store).list()}
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


def _event_text(event: Event) -> str:
    said = " ".join(f"{name}={value}" for name, value in event.about.items())
    return words.printable(f"{words.moment(event.time)}  {event.kind}  {said}"[:400])


def _step(step: object) -> str:
    values = step if isinstance(step, dict) else {}
    status = values.get("note") or values.get("status", "")
    text = " ".join(str(values.get(name, "")) for name in ("verb", "path", "effect"))
    return f"    {text} {status} {values.get('upid', '')}".rstrip()
