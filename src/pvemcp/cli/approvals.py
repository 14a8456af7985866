"""Commands for approvals: what waits for a person, and the person's yes or no."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pvemcp.access.approvals import Approval, Approvals, Person
from pvemcp.audit import Audit
from pvemcp.cli import words
from pvemcp.errors import Denied, Invalid
from pvemcp.host.approved import FOLDER as APPROVED
from pvemcp.store import Store


@click.group(short_help="See what waits for a person; approve or deny it.")
def approvals() -> None:
    """See what waits for a person; approve or deny it. Run it as root or as the service's user.

    A client that wants to destroy something, or what the policy lists, must wait until a person
    has seen the plan and said yes.
    """


@approvals.command("list")
@click.option("--all", "everything", is_flag=True, help="Also what was used, denied or expired.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with times since the epoch.")
@click.pass_context
def list_(context: click.Context, everything: bool, as_json: bool) -> None:  # noqa: FBT001 - click
    """List what waits for a person, the newest first."""
    with Store(words.settings(context).state_dir) as store:
        found = Approvals(store, event=Audit(store, None).event).all(live=not everything)
    if as_json:
        click.echo(json.dumps([_plain(one) for one in found], indent=2))
    elif not found:
        click.echo("Nothing waits for a person.")
    else:
        head = ("ID", "CLIENT", "TOOL", "ARGUMENTS", "STATE", "SINCE", "EXPIRES")
        click.echo(words.table(head, [_row(one) for one in found]))


@approvals.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with times since the epoch.")
@click.pass_context
def show(context: click.Context, id: str, as_json: bool) -> None:  # noqa: FBT001 - click
    """Show one plan: what would be done, to what, and what would be lost."""
    with Store(words.settings(context).state_dir) as store:
        found = Approvals(store, event=Audit(store, None).event).get(id)
    click.echo(json.dumps(_plain(found), indent=2) if as_json else _text(found))


@approvals.command()
@click.argument("id")
@click.option("--confirm", metavar="TEXT", help="What must be typed, for a script.")
@click.option("--reason", default="", metavar="TEXT", help="Why; the audit keeps it.")
@click.option("--yes", is_flag=True, help="Do not ask, where nothing must be typed.")
@click.pass_context
def approve(context: click.Context, id: str, confirm: str | None, reason: str, yes: bool) -> None:  # noqa: FBT001 - click
    """Say yes to a plan, after it was shown. The client then makes the same call again."""
    settings = words.settings(context)
    with Store(settings.state_dir) as store:
        asked = Approvals(store, event=Audit(store, None).event)
        found = asked.get(id)
        commands = _commands(found)  # these are shown, and no others are handed over
        if confirm is None and not yes:
            click.echo(_text(found))
        elif commands:
            click.echo("\n".join(_as_root(found)))
        if found.confirm and confirm is None and not yes:
            asked_for = f"Type {found.confirm} to approve it"
            confirm = click.prompt(asked_for, default="", show_default=False)
        elif not found.confirm and not yes:
            click.confirm("Approve it?", abort=True)
        _require_root(found)
        done = asked.approve(id, _person(), typed=confirm or "", reason=reason)
    if done.state == "approved":
        until = min(done.expires, time.time() + settings.approval_time)
        hand_over(id, commands, until=until)
    if done.state == "approved":
        left = max(0, round((done.expires - time.time()) / 60))
        click.echo(f"Approved. The client may use it once, within {left} min.")
    else:
        click.echo(f"Noted. {done.persons} different persons must say yes.")


@approvals.command()
@click.argument("id")
@click.option("--reason", default="", metavar="TEXT", help="Why; the client and the audit see it.")
@click.pass_context
def deny(context: click.Context, id: str, reason: str) -> None:
    """Say no to a plan. An approved one that was not used yet can be denied, too."""
    if os.geteuid() == 0:  # whatever the service's database says
        _place(id, APPROVED).unlink(missing_ok=True)
    with Store(words.settings(context).state_dir) as store:
        Approvals(store, event=Audit(store, None).event).deny(id, _person(), reason=reason)
    click.echo("Denied. The client is told when it asks.")


def _commands(one: Approval) -> list[dict[str, Any]]:
    return [write["run"] for write in one.writes if "run" in write]


def _require_root(one: Approval) -> None:
    if _commands(one) and os.geteuid() != 0:
        raise Denied(f"{one.id} is a command as root: only root can approve it", hint="Use sudo.")


def hand_over(
    id_: str, commands: Sequence[Mapping[str, Any]], *, until: float, folder: Path = APPROVED
) -> None:
    """Give the helper what was shown to the person, and approved: it believes nobody else.

    The database is the service's, which may have put another plan there in the meantime. `until`
    is in seconds since the epoch.
    """
    for command in commands:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({**command, "expires": until})
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(_place(id_, folder), flags, 0o600), "w") as file:
            file.write(text)


def _place(id_: str, folder: Path) -> Path:
    if not re.fullmatch(r"ap-[0-9a-f]{10}", id_):
        raise Invalid(
            f"{id_!r:.40} is not the id of an approval", hint="See pvemcp approvals list."
        )
    return folder / f"{id_}.json"


def _as_root(one: Approval) -> list[str]:
    """Write what the helper would be given, whatever the plan says of it."""
    given = (json.dumps(command, ensure_ascii=True) for command in _commands(one))
    return [f"{one.id} as root: {text}" for text in given]


def _person() -> Person:
    return Person(words.person(), "host")


def _row(one: Approval) -> tuple[str, ...]:
    arguments = json.dumps(dict(one.arguments), ensure_ascii=True)
    return (
        one.id,
        words.printable(one.client),
        words.printable(one.tool),
        words.printable(arguments if len(arguments) <= 60 else f"{arguments[:60]}…"),
        one.state,
        words.moment(one.created),
        words.moment(one.expires),
    )


def _text(one: Approval) -> str:
    who = f"{one.client} ({one.mcp_client or 'unknown client'}) at {one.address or 'this host'}"
    asked, expires = words.moment(one.created), words.moment(one.expires)
    left = round((one.expires - time.time()) / 60)
    ends = f"expires {expires}, in {left} min" if left > 0 else f"expires {expires}"
    lines = [
        f"{one.id}: {one.state}, asked {asked}, {ends}",
        f"by {who}; rule: {one.rule}; needs {one.persons} person{'s' * (one.persons != 1)}",
        f"arguments: {json.dumps(dict(one.arguments), ensure_ascii=True)}",
        "",
        *one.text.splitlines(),
        *_as_root(one),
    ]
    lines += [
        f"{d.verdict}: {d.person} ({d.channel}), {words.moment(d.time)} {d.reason}".rstrip()
        for d in one.decisions
    ]
    return "\n".join(words.printable(line) for line in lines)


def _plain(one: Approval) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "digest"}
