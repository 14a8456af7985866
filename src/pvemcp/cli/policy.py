"""Commands that show the policy, and which rule would decide."""

from __future__ import annotations

from dataclasses import fields, replace

import click

from pvemcp.cli import words
from pvemcp.settings.policy import Hours, Rule

_DEFAULTS = (
    ("deny", "what touches users, tokens, ACLs, root@pam or the client's own account"),
    ("allow", "stopping a task that the client itself started"),
    ("ask", "every write to a guest with PVE's protection flag or the tag `protected`, or unseen"),
    ("ask", "a higher ceiling for a while (`elevate`); no rule allows it without a person"),
    ("ask", "the effect destroy; commands as root, by root on the host alone"),
    ("allow", "the effect change"),
)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@click.group()
def policy() -> None:
    """Show what is allowed, asked and denied. The rules stand in the settings, as `[[policy]]`."""


@policy.command()
@click.pass_context
def show(context: click.Context) -> None:
    """Show the rules in the order in which they are tried, and the defaults after them."""
    rules = words.settings(context).policy
    for number, rule in enumerate(rules, 1):
        click.echo(words.printable(f"{number}. {rule.verdict}  {rule.name}: {_conditions(rule)}"))
    if all(rule.verdict == "record" for rule in rules):
        click.echo("No rules decide; the defaults hold.")
    click.echo("Then:")
    for verdict, what in _DEFAULTS:
        click.echo(f"   {verdict}  {what}")
    click.echo("Whatever the rules allow, a grant's ceiling and PVE's permissions stay.")


@policy.command()
@click.option("--effect", type=click.Choice(("read", "change", "destroy")), default="change")
@click.option("--tool", default="api_change", show_default=True)
@click.option(
    "--path",
    default="",
    help="PVE's path, such as /nodes/pve1/qemu/105/config; of a command host/change or lxc/105.",
)
@click.option("--client", default="", help="Name of the grant.")
@click.option("--tag", multiple=True, help="A tag of the guest; can be given several times.")
@click.option("--pool", default="")
@click.option("--protected", is_flag=True, help="PVE's protection flag is set.")
@click.option("--unseen", is_flag=True, help="The token cannot see the guest's tags and pool.")
@click.option("--after-untrusted-text", is_flag=True, help="The client has read others' text.")
@click.pass_context
def test(
    context: click.Context,
    *,
    effect: str,
    tool: str,
    path: str,
    client: str,
    tag: tuple[str, ...],
    pool: str,
    protected: bool,
    unseen: bool,
    after_untrusted_text: bool,
) -> None:
    """Say which rule would decide about a write, or a read, now."""
    from pvemcp.access.policy import Policy  # noqa: PLC0415 - only this command needs it
    from pvemcp.access.rules import target_at  # noqa: PLC0415
    from pvemcp.call import ApiToken, Call, Effect, Intent, Principal  # noqa: PLC0415

    who = Principal(client, Effect.DESTROY, ApiToken("-", ""), client)
    target = target_at(path, tags=tag, pool=pool, protected=protected)
    target = replace(target, known=not unseen)
    read = ["a text of others"] if after_untrusted_text else []
    policy = Policy(words.settings(context).policy, tainted=lambda _: read)
    recorded = policy.records(who, path.partition("/")[2], target.node)
    if recorded and path.startswith("host/"):
        click.echo(words.printable(f"a shell there is recorded (rule {recorded!r})"))
    if effect == "read":
        click.echo(words.printable(policy.read(Call(who, tool, {}), path, target)))
        return
    verb = "PUT" if path.startswith("/") else "RUN"
    intent = Intent(verb, path, Effect.parse(effect), node=target.node)
    found = policy.judge(Call(who, tool, {}), [(intent, target)])
    more = f", {found.persons} persons" if found.persons > 1 else ""
    where = ", not in the client's own dialog" if found.channel != "any" else ""
    click.echo(words.printable(f"{found.verdict}{more}{where} ({found.rule})"))


def _conditions(rule: Rule) -> str:
    said = []
    for field in fields(Rule):
        value = getattr(rule, field.name)
        if field.name in ("name", "verdict") or value in ((), None) or value == field.default:
            continue
        shown = (
            [_hours(each) if isinstance(each, Hours) else str(each) for each in value]
            if (isinstance(value, tuple))
            else [str(value).lower()]
        )
        said.append(f"{field.name} = {', '.join(shown)}")
    return "; ".join(said) or ("every shell" if rule.verdict == "record" else "every write")


def _hours(hours: Hours) -> str:
    days = ",".join(_DAYS[day] for day in sorted(hours.days))
    start, end = (f"{each // 60:02d}:{each % 60:02d}" for each in (hours.start, hours.end))
    return f"{days} {start}-{end}"
