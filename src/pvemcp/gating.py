"""What stands around every call that may write: policy, freezes, approvals, the journal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.access.approvals import Approvals
from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.access.policy import Policy
from pvemcp.access.taints import Taints
from pvemcp.access.trouble import Trouble
from pvemcp.approving import Gate
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Call, Effect, Principal
from pvemcp.connect import page_url
from pvemcp.errors import Fault
from pvemcp.host.ended import EFFECTS
from pvemcp.host.ending import end_jobs
from pvemcp.host.executor import Helper
from pvemcp.host.runner import Host, Runner
from pvemcp.host.shells import Record
from pvemcp.journal.book import Book
from pvemcp.journal.change import Change
from pvemcp.journal.changes import Changes
from pvemcp.journal.commits import TAKEN_BACK, Commits
from pvemcp.journal.overdue import PveOf
from pvemcp.pve.client import Pve, PveClient
from pvemcp.recordings import Recording, Recordings
from pvemcp.redaction import redact_text
from pvemcp.settings import Settings
from pvemcp.store import Store

logger = logging.getLogger(__name__)

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
    book = Book(store, audit.known)
    judge = policy or _policy(settings, store, audit, taints, book)
    pve.permit = host.permit = judge.permit
    host.stops = judge.stops
    host.shells.starts_recording = _recording(judge, Recordings(store), audit)
    pve.learn = judge.learn if judge.learns else None
    commits = Commits(
        store,
        host.executor,
        seconds=settings.confirm_seconds,
        helper=isinstance(host.executor, Helper),
        weak=settings.confirm_weak,
    )
    changes = Changes(book, commits, audit)
    pve.watch = changes.watch
    approvals = Approvals(
        store,
        ttl=settings.approval_time,
        most=settings.approvals_waiting,
        event=_told(audit, judge.trouble),
    )
    made = Gate(
        judge, approvals, store.key("plan"), changes, safety=settings.safety_snapshots,
        page=page_url(settings),
    )  # fmt: skip
    return made, changes


def _policy(settings: Settings, store: Store, audit: Audit, taints: Taints, book: Book) -> Policy:
    freezes = Freezes(store, event=audit.event)
    trouble = Trouble(
        freezes,
        {
            "destroys": settings.freeze_after_destroys,
            "denials": settings.freeze_after_denials,
            "approvals": settings.freeze_after_approvals,
        },
    )
    audit.observe(trouble.ended)
    return Policy(
        settings.policy,
        freezes=freezes,
        elevations=Elevations(store, most=settings.elevation_minutes, event=audit.event),
        trouble=trouble,
        tainted=taints.of,
        began=lambda upid, owner: book.began(upid, grant=owner),
    )


def _recording(policy: Policy, recordings: Recordings, audit: Audit) -> Record:
    """Return what begins the recording of a shell, where the policy wants one."""

    def start(host: Host, name: str, profile: str, size: Mapping[str, int]) -> Recording | None:
        call, who = host.call, host.call.principal
        rule = policy.records(who, profile, host.node)
        if not rule:
            return None
        about = {
            "title": f"{who.name}: {profile} shell on {host.node}", "client": who.name,
            "grant": who.grant, "address": who.address, "node": host.node, "profile": profile,
            "call": call.id, "rule": rule, **size,
        }  # fmt: skip
        return recordings.start(
            name, about, audit.event, lambda text: redact_text(text, audit.known)
        )

    return start


def _told(audit: Audit, trouble: Trouble | None) -> Callable[[str, Mapping[str, Any]], None]:
    """Return what is told of everything that happens to approvals."""

    def told(kind: str, about: Mapping[str, Any]) -> None:
        audit.event(kind, about)
        if trouble is not None:
            trouble.told(kind, about)

    return told


async def ending_jobs(host: Runner, policy: Policy, grants: Grants) -> None:
    """Stop jobs of clients soon after they are frozen, or elevation or grant are over.

    It looks at the start, since that may have happened before, and at changes: asking for jobs
    starts the helper.
    """
    looked: object = None
    while policy.freezes is not None and policy.elevations is not None:
        await asyncio.sleep(LOOK)
        with contextlib.suppress(Fault):  # the database or the helper is busy: look again
            frozen = tuple(policy.freezes.all())
            now = (frozen, tuple(policy.elevations.all()), grants.live())
            if now == looked:
                continue
            if looked is None and not frozen:
                looked = now  # at the start once is enough: there may be no helper, so no jobs
            if ended := await end_jobs(host.executor, _may_not_go_on(policy, grants)):
                logger.warning("ended, because their client may not go on: %s", ", ".join(ended))
            looked = now


def _may_not_go_on(policy: Policy, grants: Grants) -> Callable[[Mapping[str, Any]], str]:
    live = grants.live()
    known = {grant.id: grant for grant in grants.list() if grant.id in live}

    def why(job: Mapping[str, Any]) -> str:
        grant, owner = known.get(str(job["owner"])), str(job["owner"])
        if grant is None and grants.had(owner):
            return "its grant was revoked, or has expired"
        name, ceiling = (grant.name, grant.ceiling) if grant else (owner, Effect.DESTROY)
        who = Principal(name, ceiling, ApiToken("", ""), owner)
        return policy.stops(who, EFFECTS.get(str(job["profile"]), Effect.DESTROY))

    return why


def as_client(pve: PveClient, grants: Grants, default: ApiToken | None) -> PveOf:
    """Return what finds PVE as the client of a change may use it, as long as its grant is there."""

    def pve_of(change: Change) -> Pve | None:
        grant = next((one for one in grants.list() if one.id == change.grant), None)
        token = (grant.token or default) if grant is not None else None
        if grant is None or token is None:
            return None
        who = Principal(grant.name, grant.ceiling, token, grant.id)
        return pve.bind(Call(who, TAKEN_BACK, {}))

    return pve_of


def _stops(policy: Policy, grants: Grants) -> Callable[[Principal, Effect], str]:
    def why(who: Principal, effect: Effect) -> str:
        if who.grant and not grants.holds(who.grant):
            return f"the grant {who.name} was revoked, or has expired"
        return policy.stops(who, effect)

    return why


async def cutting(host: Runner, policy: Policy, grants: Grants | None = None) -> None:
    """End what runs of a client soon after it is frozen, or elevation or grant are over.

    Without `grants` the one caller has none.
    """
    if grants is not None:
        host.stops = _stops(policy, grants)
    while True:
        with contextlib.suppress(Fault):  # the database is busy: look again
            await host.cut()
            if policy.elevations is not None:
                await policy.elevations.sweep()
        await asyncio.sleep(LOOK)
