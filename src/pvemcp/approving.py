"""How a call that may write is planned, judged, asked about, and let through.

The tool runs twice. First it plans: it reads, and its writes are only noted. The policy judges
that plan. Then it runs for real, with a license for exactly the planned writes. Where a person
must be asked in between, the answer comes from the client's dialog, the host or the approval
page; the plan is made anew afterwards, and the approval counts only for the same one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mcp_types import CallToolRequestParams

from pvemcp.access.approvals import Approval, Approvals
from pvemcp.access.policy import POOLS, Judgement, Policy
from pvemcp.call import Call, Intent, License, Target, Verdict
from pvemcp.dialogs import Context, Dialog, in_short, minutes_left
from pvemcp.errors import ApprovalNeeded, Denied, Fault
from pvemcp.journal.changes import Changes
from pvemcp.plans.plan import Lookup, Plan, is_root, look_up, question, verdict_line
from pvemcp.plans.planning import rehearse
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews import preview
from pvemcp.plans.previews.named import makes_a_new_one
from pvemcp.plans.safety import safety, take
from pvemcp.pve.client import Pve
from pvemcp.redaction import redact_text

Run = Callable[[], Awaitable[Any]]

PATIENCE = 45.0
"""Seconds that a call with the id of a waiting approval waits for the person."""
LOOK_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Gate:
    """What every call that may write passes."""

    policy: Policy
    approvals: Approvals
    key: bytes = field(repr=False)
    """Keys the digests of plans."""
    changes: Changes
    """Journals what is written."""
    lookup: Lookup = preview
    page: str = ""
    """Where the approval page is; empty: there is none."""
    patience: float = PATIENCE
    safety: int = 3
    """Safety snapshots that a guest keeps; 0: none are taken."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to call a tool, as far as this module asks about it."""

    ctx: Context
    params: CallToolRequestParams
    call: Call
    pve: Pve
    arguments: Mapping[str, Any]
    """The tool's own, without the two common ones, not redacted."""
    dry_run: bool
    approval: str
    shown: Callable[[str], str]
    legible: Callable[[str], str]
    """As a person sees it who answers for it: nothing that could be a command is masked."""


async def through(gate: Gate, request: Request, run: Run) -> Any:
    """Plan a tool's run, and run it if it may be.

    Returns the tool's own answer, a plan as text, or an input-required answer as a dictionary.
    Raises Denied, ApprovalNeeded, and the Faults of the tool.
    """
    plan, answer = await _plan(gate, request, run)
    if plan is None:
        return answer
    request.call.plan = [redact_text(request.shown(line)) for line in plan.brief()]
    judgement = await _judged(gate, request, plan)
    if request.dry_run:
        _shows(request.call)
        return f"{plan.text()}\n{verdict_line(judgement)}\nNothing was done."
    if judgement.verdict is Verdict.ASK:
        asked = await _approved(gate, request, plan, judgement, run)
        if isinstance(asked, dict):
            return asked
        plan = asked
    request.call.license = License((w[0] for w in plan.writes), open_ended=plan.open_ended)
    try:
        await take(request.pve, request.call, plan.first)
        answer = await run()
    finally:
        await gate.changes.settle(request.pve)
    return _with_confirmation(gate, request.call, answer)


async def _judged(gate: Gate, request: Request, plan: Plan) -> Judgement:
    """Return what the policy makes of a plan. Raises Denied when it denies it."""
    writes = plan.judged
    if gate.policy.about_pools and await request.pve.blind(*POOLS):
        writes = [(i, replace(t, pools_seen=_is_new(i, t))) for i, t in writes]
    judgement = gate.policy.judge(request.call, writes)
    if judgement.verdict is Verdict.DENY:
        raise Denied(
            f"the policy denies this call ({judgement.rule}): {judgement.why}. Nothing was done.",
            hint="Only an administrator can change it: the setting `policy`.",
        )
    if any(is_root(intent) for intent, _ in plan.writes):
        return replace(judgement, verdict=Verdict.ASK, channel="host", rule="commands as root")
    return judgement


def _is_new(intent: Intent, target: Target) -> bool:
    """Whether a guest is made by the write: it is in no pool yet."""
    return makes_a_new_one(intent) and str(target.vmid) == str(intent.params.get("vmid"))


_NARROWER = ("any", "person", "host")
"""Channels, each leaving out some of the one before it."""


def _suffices(found: Approval, judgement: Judgement) -> None:
    """Raise Denied where the policy wants more by now than this approval was asked with.

    A guest may have come under another rule without becoming another: by its pool, or by the time.
    """
    narrow = _NARROWER.index(found.channel) >= _NARROWER.index(judgement.channel)
    if not narrow or found.persons < judgement.persons:
        raise Denied(
            f"the policy wants more for it than when {found.id} was asked ({judgement.rule})",
            hint="Make the call without it: a person is asked anew.",
        )


def _with_confirmation(gate: Gate, call: Call, answer: Any) -> Any:
    """Add to an answer what must be confirmed, and until when."""
    waiting = gate.changes.waiting(call)
    if not waiting or not isinstance(answer, str):
        return answer
    left = max(0, round(min(one.until for one in waiting) - time.time()))
    lines = [f'change_confirm(change="{one.change}")' for one in waiting]
    return f"{answer}\nIt is taken back in {left} s, unless you call:\n" + "\n".join(lines)


async def _plan(gate: Gate, request: Request, run: Run) -> tuple[Plan | None, Any]:
    """Return the plan; or None and the answer of a tool that writes nothing. Raises its Fault."""
    rehearsal = await rehearse(request.call, run)
    if not rehearsal.intents:
        if rehearsal.fault is not None:
            raise rehearsal.fault
        return None, rehearsal.result
    before = await safety(request.pve, rehearsal.intents, keep=gate.safety)
    rehearsal = replace(rehearsal, intents=(*before.first, *rehearsal.intents))

    async def lookup(pve: Pve, intent: Intent) -> Preview:
        found = await gate.lookup(pve, intent)
        notes = {
            "safety snapshot": before.notes.get(intent.digest, ""),
            "confirm": gate.changes.commits.note(pve.call, intent),
        }
        more = ((name, note) for name, note in notes.items() if note)
        return replace(found, facts=(*found.facts, *more))

    found = await look_up(
        request.pve, request.call, rehearsal, request.arguments, key=gate.key, lookup=lookup
    )
    return replace(found, first=before.first), None


async def _approved(
    gate: Gate, request: Request, plan: Plan, judgement: Judgement, run: Run
) -> Plan | dict[str, Any]:
    """Return the plan once a person has approved it, or the question to the client."""
    call, grant = request.call, request.call.principal.owner
    dialog = Dialog(request.ctx, gate.approvals, gate.page)
    asked_before = request.params.request_state or ""
    if id_ := asked_before or request.approval:
        found = _own(gate, id_, grant)
        _suffices(found, judgement)
        if asked_before:
            dialog.answered(found, request.params)
        elif found.state == "waiting" and found.digest != plan.digest:
            raise Denied(
                f"the approval {id_} waits for another plan: the arguments or the target are not "
                "what they were",
                hint="Make the call without it: a person is asked anew.",
            )
    else:
        _shows(call)
        found = gate.approvals.ask(call, question(plan, call, shown=request.legible), judgement)
        if found.state == "waiting" and (asked := await dialog.ask(found)) is not None:
            return asked
    if request.approval or dialog.opened:
        await _wait(gate, found)
        await dialog.over(found)
    if (found := gate.approvals.get(found.id)).state == "waiting":
        raise _needed(dialog, found)
    fresh, _ = await _plan(gate, request, run)
    if fresh is None:
        raise Denied("what was approved no longer does anything", hint="Look at the target again.")
    _suffices(found, await _judged(gate, request, fresh))
    used = gate.approvals.take(found.id, grant=grant, digest=fresh.digest, call=call.id)
    call.approval, call.approved_by = used.id, used.by
    return fresh


def _shows(call: Call) -> None:
    """Note that the client sees what others wrote: the plan of a file shows lines of it."""
    if call.told_by:
        call.tainted.append(call.told_by)


def _own(gate: Gate, id_: str, grant: str) -> Approval:
    found = gate.approvals.get(id_)
    if found.grant != grant:
        raise Denied(f"the approval {id_} was not given to this client")
    return found


async def _wait(gate: Gate, approval: Approval) -> None:
    """Wait a while for the person."""
    until = time.monotonic() + gate.patience
    while gate.approvals.get(approval.id).state == "waiting":
        if time.monotonic() >= until:
            return
        await asyncio.sleep(LOOK_EVERY)


def _needed(dialog: Dialog, approval: Approval) -> Fault:
    yes = sum(d.verdict == "approve" for d in approval.decisions)
    count = f" {yes} of {approval.persons} persons said yes." if approval.persons > 1 else ""
    link = "" if approval.channel == "host" else dialog.link(approval)
    page = f" or at {link}" if link else ""
    return ApprovalNeeded(
        f"A person must approve this first ({approval.rule}); nothing was done.{count}\n"
        f"{in_short(approval)}",
        hint="A person does that on the host of pvemcp "
        f"(pvemcp approvals approve {approval.id}){page}, within {minutes_left(approval)} min. "
        f"Then make the same call with approval={approval.id}.",
    )
