"""Commands for the journal of changes: list them, look at one, let one stand."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import click

from pvemcp.cli import words
from pvemcp.errors import Conflict, Missing
from pvemcp.journal.book import Book
from pvemcp.journal.change import Change, told
from pvemcp.store import Store

COMMIT = Path("/usr/lib/pvemcp/commit.py")
"""The root side of what must be confirmed."""
SAFETY = "pvemcp-"


@click.group(short_help="See what was changed, before and after; confirm a change.")
def changes() -> None:
    """See what was changed in PVE, before and after, by all clients. A client undoes its own."""


@changes.command("list")
@click.option(
    "--since", type=words.Moment(), metavar="WHEN", help="Like 1h, 7d (ago), or 2026-01-31T08:00."
)
@click.option("--target", default="", metavar="TEXT", help="Such as: guest qemu/100.")
@click.option("--safety", is_flag=True, help="Only safety snapshots.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def list_(
    context: click.Context,
    since: float | None,
    target: str,
    safety: bool,  # noqa: FBT001 - click
    limit: int,
    as_json: bool,  # noqa: FBT001 - click
) -> None:
    """List changes, the newest first."""
    with Store(words.settings(context).state_dir) as store:
        found = Book(store).list(since=since or 0.0, target=target, limit=limit)
    if safety:
        found = [change for change in found if _is_safety(change)]
    if as_json:
        for change in found:
            click.echo(json.dumps(_plain(change)))
    elif not found:
        click.echo("No changes are recorded for this choice.", err=True)
    else:
        head = ("ID", "TIME", "CLIENT", "WHAT", "OUTCOME", "UNDO")
        click.echo(words.table(head, [_row(change) for change in found]))


@changes.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show(context: click.Context, id: str, as_json: bool) -> None:  # noqa: FBT001 - click
    """Show one change: before, after, and how it is taken back."""
    with Store(words.settings(context).state_dir) as store:
        found = Book(store).get(id)
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2))
    else:
        lines = told(found, words.moment(found.time))
        click.echo("\n".join(words.printable(line) for line in lines))


@changes.command()
@click.argument("id")
@click.pass_context
def confirm(context: click.Context, id: str) -> None:
    """Let a change stand that would be taken back, as root on the host itself."""
    with Store(words.settings(context).state_dir) as store:
        rows = store.rows("SELECT by_helper FROM commits WHERE change = ?", (id,))
        if not rows:
            raise Missing(f"{id} needs no confirmation", hint="See: pvemcp changes list.")
        if rows[0][0]:
            _stop(id)
        sql = "UPDATE commits SET state = 'confirmed' WHERE change = ? AND state = 'waiting'"
        if not store.write(sql, (id,)):
            raise Conflict(f"{id} was taken back, or confirmed already")
    click.echo(f"{id} stands.")


def _stop(id: str) -> None:
    argv = ["/usr/bin/python3", "-I", "-S", str(COMMIT), "confirm", id]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise Conflict(f"{id} was not confirmed: {done.stderr.strip()[:300]}")


def _is_safety(change: Change) -> bool:
    name = str(change.params.get("snapname", ""))
    taken = change.verb == "POST" and change.template.endswith("/snapshot")
    return taken and name.startswith(SAFETY)


def _row(change: Change) -> tuple[str, ...]:
    outcome = f"{change.outcome}, undone" if change.undone_by else change.outcome
    undo = "no" if change.recipe.why_not or change.undone_by else "yes"
    what = f"{change.verb} {change.path}"
    cells = (change.id, words.moment(change.time), change.client, what, outcome, undo)
    return tuple(map(words.printable, cells))


def _plain(change: Change) -> dict[str, object]:
    kept = asdict(change)
    for name in ("params", "before", "after", "recipe"):
        del kept[name]  # they may hold secrets: `show` prints what a person asks for
    return kept
