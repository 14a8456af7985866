"""What an administrator should hear of: a pure look at what is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pvemcp.access.freeze import Freeze
from pvemcp.access.grants import Grant
from pvemcp.access.told import ONCE, Hearer
from pvemcp.watch.readiness import Finding, Report, State

DAY = 86400.0
TITLES = {
    "pve": "Proxmox VE cannot be worked",
    "store": "the database or the audit fails",
    "helper": "commands on the host cannot be run",
    "certificate": "the certificate of the service",
    "clock": "the clocks differ",
    "disk": "the disk of the audit",
    "clients": "the clients that the cluster shares",
}
AT_ONCE = ("disk", "certificate", "clock")
"""Checks whose warning is told at once; those of others pass."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now. `key` tells it from all others."""

    key: str
    severity: str
    """warning or error."""
    title: str
    text: str
    after: float = 0.0
    """Seconds that it must last before anybody is told."""
    passing: bool = False
    """It has happened, and its end is no news."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known at one moment, in seconds since the epoch."""

    now: float
    report: Report
    grants: Sequence[Grant] = ()
    backup: str = ""
    """What is wrong with backups, or nothing."""
    lockouts: Sequence[tuple[float, str]] = ()
    """When an address was locked out for wrong secrets, in the last hour."""
    freezes: Sequence[Freeze] = ()
    behind: Sequence[Hearer] = ()
    """Nodes that do not know the freezes of this one as they are."""
    unclean: str = ""
    """That the service was ended without notice before, or nothing."""


def conditions(known: Known, patience: float) -> Iterator[Condition]:
    """Return everything that is wrong; a failing check must last for `patience` seconds."""
    for finding in known.report.findings:
        yield from _of_check(finding, patience)
    for grant in known.grants:
        if grant.ends_soon(known.now):
            left = (grant.expires or known.now) - known.now
            yield Condition(
                f"grant:{grant.name}",
                "warning",
                f"the grant {grant.name} is about to expire",
                f"It ends in {_span(left)}. Make another: pvemcp grant create NAME --ceiling "
                f"{grant.ceiling}.",
                passing=True,
            )
    yield from _of_freezes(known, patience)
    if known.backup:
        yield Condition("backup", "error", "the backup failed", known.backup)
    if known.lockouts:
        yield _of_lockouts([address for _, address in known.lockouts])
    if known.unclean:
        yield Condition(
            "restart", "warning", "the service was ended without notice", known.unclean,
            passing=True,
        )  # fmt: skip


def _of_freezes(known: Known, patience: float) -> Iterator[Condition]:
    for freeze in known.freezes:
        what = f"client {freeze.client}" if freeze.client else "every client"
        origin = f"@{freeze.origin}" if freeze.origin else ""
        yield Condition(
            f"freeze:{freeze.client}{origin}", "warning", f"{what} is frozen",
            f"{freeze}. When all is well: {freeze.remedy}.",
        )  # fmt: skip
    for node in known.behind:
        yield Condition(
            f"untold:{node.node}", "warning", f"{node.node} does not know of a freeze or a thaw",
            f"{node.behind}. {ONCE}.", patience,
        )  # fmt: skip


def _of_check(finding: Finding, patience: float) -> Iterator[Condition]:
    title = TITLES.get(finding.name, finding.name)
    key = f"check:{finding.name}"
    if finding.state is State.FAIL:
        yield Condition(key, "error", title, finding.reason, patience)
    elif finding.state is State.WARN and finding.name in AT_ONCE:
        yield Condition(key, "warning", title, finding.reason)


def _of_lockouts(addresses: Sequence[str]) -> Condition:
    names = list(dict.fromkeys(addresses))
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Condition(
        "auth",
        "warning",
        "somebody tries secrets",
        f"In the last hour {len(addresses)} requests came with wrong secrets after the limit of "
        f"their address was reached: {shown}.",
        passing=True,
    )


def _span(seconds: float) -> str:
    return f"{seconds / DAY:.0f} days" if seconds > 2 * DAY else f"{seconds / 3600:.0f} hours"
