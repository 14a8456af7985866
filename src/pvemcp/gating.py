"""What stands around every call that may write: policy, freezes, approvals, the journal."""

from __future__ import annotations

import asyncio
import contextlib

from pvemcp.access.approvals import Approvals
from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.access.policy import Policy
from pvemcp.access.taints import Taints
from pvemcp.approving import Gate
from pvemcp.audit import Audit
from pvemcp.connect import page_url
from pvemcp.errors import Fault
from pvemcp.host.executor import Helper
from pvemcp.host.runner import Runner
from pvemcp.journal.book import Book
from pvemcp.journal.changes import Changes
from pvemcp.journal.commits import Commits
from pvemcp.pve.client import PveClient
from pvemcp.settings import Settings
from pvemcp.store import Store

UNTRUSTED = 1800.0
"""Seconds for which it counts that a client has read text of others."""
LOOK = 0.5
"""Seconds between two looks at the freezes, for what runs already."""


def gated(
    settings: Settings,
    store: Store,
    pve: PveClient,
    host: Runner,
    audit: Audit,
    *,
    policy: Policy | None = None,
) -> tuple[Gate, Changes]:
    """Have PVE's client and the host ask the policy at every step, and the journal note it.

    Returns what calls pass that may write, and the journal, which the caller closes. `policy`
    judges instead of the settings'.
    """
    taints = Taints(UNTRUSTED)
    audit.observe(taints.observe)
    judge = policy or Policy(
        settings.policy,
        freezes=Freezes(store, event=audit.event),
        elevations=Elevations(store, most=settings.elevation_minutes, event=audit.event),
        tainted=taints.of,
    )
    pve.permit = host.permit = judge.permit
    commits = Commits(
        store,
        host.executor,
        seconds=settings.confirm_seconds,
        helper=isinstance(host.executor, Helper),
        weak=settings.confirm_weak,
    )
    changes = Changes(Book(store, audit.known), commits)
    pve.watch = changes.watch
    approvals = Approvals(
        store,
        ttl=settings.approval_time,
        most=settings.approvals_waiting,
        event=audit.event,
    )
    made = Gate(
        judge, approvals, store.key("plan"), changes, safety=settings.safety_snapshots,
        page=page_url(settings),
    )  # fmt: skip
    return made, changes


async def cutting(host: Runner, policy: Policy) -> None:
    """End what runs of a client soon after it is frozen, or its elevation is over."""
    while True:
        with contextlib.suppress(Fault):  # the database is busy: look again
            await host.cut(policy.stops)
            if policy.elevations is not None:
                await policy.elevations.sweep()
        await asyncio.sleep(LOOK)
