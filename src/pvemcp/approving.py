"""How a call that may write is planned, judged, asked about, and let through.

The tool runs twice. First it plans: it reads, and its writes are only noted. The policy judges
that plan. Then it runs for real, with a license for exactly the planned writes. Where a person
must be asked in between, the answer comes from the client's dialog, the host or the approval
page; the plan is made anew afterwards, and the approval counts only for the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp_types import CallToolRequestParams, ElicitResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from pvemcp.access.approvals import Approval, Approvals, Person
from pvemcp.access.policy import Judgement, Policy
from pvemcp.call import Call, Intent, License, Verdict
from pvemcp.errors import ApprovalNeeded, Denied, Fault
from pvemcp.journal.changes import Changes
from pvemcp.plans.plan import Lookup, Plan, is_root, look_up, question, verdict_line
from pvemcp.plans.planning import rehearse
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews import preview
from pvemcp.plans.safety import safety, take
from pvemcp.pve.client import Pve

Context = ServerRequestContext[Any, Any]
Run = Callable[[], Awaitable[Any]]

KEY = "approval"
"""Name of the one question in an input-required answer."""
PATIENCE = 45.0
"""Seconds that a call with the id of a waiting approval waits for the person."""
LOOK_EVERY = 0.5
SHOWN = 6000
"""Characters of a plan in a dialog; the host and the page show all of it."""


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


async def through(gate: Gate, request: Request, run: Run) -> Any:
    """Plan a tool's run, and run it if it may be.

    Returns the tool's own answer, a plan as text, or an input-required answer as a dictionary.
    Raises Denied, ApprovalNeeded, and the Faults of the tool.
    """
    plan, answer = await _plan(gate, request, run)
    if plan is None:
        return answer
    judgement = gate.policy.judge(request.call, plan.judged)
    if judgement.verdict is not Verdict.DENY and any(is_root(i) for i, _ in plan.writes):
        judgement = replace(judgement, verdict=Verdict.ASK, channel="host", rule="commands as root")
    if judgement.verdict is Verdict.DENY:
        raise Denied(
            f"the policy denies this call ({judgement.rule}): {judgement.why}. Nothing was done.",
            hint="Only an administrator can change it: the setting `policy`.",
        )
    if request.dry_run:
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
    asked_before = request.params.request_state or ""
    id_ = asked_before or request.approval
    if asked_before:
        _answered(gate, request, asked_before)
    elif id_:
        await _wait(gate, id_, grant)
    else:
        approval = gate.approvals.ask(call, question(plan, call, shown=request.shown), judgement)
        id_ = approval.id
        if approval.state == "waiting":
            asked = await _ask(gate, request, approval)
            if asked is not None:
                return asked
    if (found := gate.approvals.get(id_)).state == "waiting":
        raise _needed(gate, found)
    fresh, _ = await _plan(gate, request, run)
    if fresh is None:
        raise Denied("what was approved no longer does anything", hint="Look at the target again.")
    used = gate.approvals.take(id_, grant=grant, digest=fresh.digest, call=call.id)
    call.approval, call.approved_by = used.id, used.by
    return fresh


async def _wait(gate: Gate, id_: str, grant: str) -> None:
    """Wait a while for the person; an approval of another grant is Denied."""
    until = time.monotonic() + gate.patience
    while (found := gate.approvals.get(id_)).state == "waiting":
        if found.grant != grant:
            raise Denied(f"the approval {id_} was not asked for by this client")
        if time.monotonic() >= until:
            return
        await asyncio.sleep(LOOK_EVERY)


async def _ask(gate: Gate, request: Request, approval: Approval) -> dict[str, Any] | None:
    """Ask through the client's dialog, if it has one and the policy lets it.

    Returns an input-required answer for the newer protocol; None when the question was put
    and answered, or cannot be put.
    """
    if approval.channel != "any" or not _has_dialog(request.ctx):
        return None
    message, schema = _message(approval), _schema(approval)
    if request.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        form = {"mode": "form", "message": message, "requestedSchema": schema}
        return {
            "resultType": "input_required",
            "inputRequests": {KEY: {"method": "elicitation/create", "params": form}},
            "requestState": approval.id,
        }
    with contextlib.suppress(TimeoutError, MCPError, NoBackChannelError):
        async with asyncio.timeout(max(approval.expires - time.time(), 1.0)):
            related = request.ctx.request_id
            said = await request.ctx.session.elicit_form(message, schema, related)
        _take_answer(gate, approval, said)
    return None


def _has_dialog(ctx: Context) -> bool:
    declared = ctx.session.client_capabilities
    elicitation = declared.elicitation if declared else None
    if elicitation is None:
        return False
    # A client of 2025-06-18 declares nothing inside; it can show forms.
    return elicitation.form is not None or elicitation.url is None


def _message(approval: Approval) -> str:
    text = approval.text
    if len(text) > SHOWN:
        text = f"{text[:SHOWN]}\n… the rest: pvemcp approvals show {approval.id}"
    return f"{approval.client} asks to run {approval.tool}.\n{text}"


def _schema(approval: Approval) -> dict[str, Any]:
    if approval.confirm:
        title = f"Type {approval.confirm} to confirm"
        field_: dict[str, dict[str, Any]] = {
            "confirm": {"type": "string", "title": title, "maxLength": 200}
        }
    else:
        field_ = {"approve": {"type": "boolean", "title": "Approve this"}}
    return {"type": "object", "properties": field_, "required": list(field_)}


def _answered(gate: Gate, request: Request, id_: str) -> None:
    """Take what the client's dialog answered to an input-required answer."""
    responses = request.params.input_responses or {}
    said = responses.get(KEY)
    if isinstance(said, ElicitResult):
        _take_answer(gate, gate.approvals.get(id_), said)


def _take_answer(gate: Gate, approval: Approval, said: ElicitResult) -> None:
    """Note a dialog's answer. A dismissed dialog leaves the question to other channels."""
    person = Person(f"the user of {approval.client}", "client")
    content = said.content or {}
    if said.action == "cancel":
        return
    yes = said.action == "accept" and (approval.confirm or content.get("approve") is True)
    if not yes:
        gate.approvals.deny(approval.id, person)
        raise Denied("the person who was asked said no. Nothing was done.")
    gate.approvals.approve(approval.id, person, typed=str(content.get("confirm", "")))


def _needed(gate: Gate, approval: Approval) -> Fault:
    yes = sum(d.verdict == "approve" for d in approval.decisions)
    count = f" {yes} of {approval.persons} persons said yes." if approval.persons > 1 else ""
    page = f" or at {gate.page}/{approval.id}" if gate.page else ""
    minutes = max(1, round((approval.expires - time.time()) / 60))
    return ApprovalNeeded(
        f"A person must approve this first; nothing was done.{count}\n{approval.text}",
        hint="A person does that on the host of pvemcp "
        f"(pvemcp approvals approve {approval.id}){page}, within {minutes} min. "
        f"Then make the same call with approval={approval.id}.",
    )
