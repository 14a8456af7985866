"""The question in a client's dialog: a form, or a link to the approval page.

A link is put where the policy wants a person outside the client, or where a client has no forms.
Opening it approves nothing: what the person says on the page does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp_types import CallToolRequestParams, ElicitResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from pvemcp.access.approvals import Approval, Approvals, Person
from pvemcp.errors import Denied, Invalid

Context = ServerRequestContext[Any, Any]

KEY = "approval"
"""Name of the one question in an input-required answer."""
SHOWN = 6000
"""Characters of a plan in a dialog; the host and the page show all of it."""


@dataclass(slots=True)
class Dialog:
    """The dialog of one client, for the length of one call."""

    ctx: Context
    approvals: Approvals
    page: str
    """Address of the approval page; empty: there is none."""
    opened: bool = field(default=False, init=False)
    """The person has opened the page, and may be about to answer there."""

    def kind(self, approval: Approval) -> Literal["form", "url", ""]:
        """Return how this client can be asked; empty when it cannot, or may not."""
        declared = self.ctx.session.client_capabilities
        able = declared.elicitation if declared else None
        if able is None:
            return ""
        # A client of 2025-06-18 declares nothing inside; it can show forms.
        forms = able.form is not None or able.url is None
        if forms and approval.channel == "any":
            return "form"
        return "url" if able.url is not None and self.page and approval.channel != "host" else ""

    def link(self, approval: Approval) -> str:
        """Return where the page shows the question; empty when there is no page."""
        return f"{self.page}/{approval.id}" if self.page else ""

    async def ask(self, approval: Approval) -> dict[str, Any] | None:
        """Put the question.

        Returns an input-required answer for the newer protocol; None when the question was put
        and its answer taken, or cannot be put. Raises Denied when the person said no.
        """
        kind = self.kind(approval)
        if not kind:
            return None
        if self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return {
                "resultType": "input_required",
                "inputRequests": {
                    KEY: {"method": "elicitation/create", "params": self._params(kind, approval)}
                },
                "requestState": approval.id,
            }
        with contextlib.suppress(TimeoutError, MCPError, NoBackChannelError):
            self._take(approval, await self._legacy(kind, approval))
        return None

    def answered(self, approval: Approval, params: CallToolRequestParams) -> None:
        """Take what the dialog answered to an input-required answer. Raises Denied for a no."""
        said = (params.input_responses or {}).get(KEY)
        if isinstance(said, ElicitResult):
            self._take(approval, said)

    async def over(self, approval: Approval) -> None:
        """Tell a client of the older protocol that the page behind its link has been answered."""
        if not self.opened or self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return
        with contextlib.suppress(MCPError, NoBackChannelError):
            await self.ctx.session.send_elicit_complete(approval.id, self.ctx.request_id)

    async def _legacy(self, kind: str, approval: Approval) -> ElicitResult:
        session, related = self.ctx.session, self.ctx.request_id
        asked = self._params(kind, approval)
        async with asyncio.timeout(max(approval.expires - time.time(), 1.0)):
            if kind == "url":
                return await session.elicit_url(
                    asked["message"], asked["url"], approval.id, related
                )
            return await session.elicit_form(asked["message"], asked["requestedSchema"], related)

    def _params(self, kind: str, approval: Approval) -> dict[str, Any]:
        if kind == "url":
            return {"mode": "url", "message": _message(approval), "url": self.link(approval)}
        where = self.link(approval) or f"pvemcp approvals show {approval.id}, on the host"
        schema = _schema(approval, f"Within {minutes_left(approval)} min. All of the plan: {where}")
        return {"mode": "form", "message": _message(approval), "requestedSchema": schema}

    def _take(self, approval: Approval, said: ElicitResult) -> None:
        """Note an answer. A dismissed dialog leaves the question to other channels."""
        person = Person(f"the user of {approval.client}", "client")
        if said.action == "cancel":
            return
        if said.action == "accept" and self.kind(approval) == "url":
            self.opened = True
            return
        content = said.content or {}
        yes = said.action == "accept" and (approval.confirm or content.get("approve") is True)
        if not yes:
            self.approvals.deny(approval.id, person)
            raise Denied(
                "the person who was asked said no. Nothing was done.",
                hint="Ask what they want instead, before you make the call again.",
            )
        try:
            self.approvals.approve(approval.id, person, typed=str(content.get("confirm", "")))
        except Invalid as mistyped:
            hint = "Nothing was approved. The same call asks the person again."
            raise Invalid(mistyped.message, hint=hint) from None


def minutes_left(approval: Approval) -> int:
    """Return how long a question waits still, at least one minute."""
    return max(1, round((approval.expires - time.time()) / 60))


def _message(approval: Approval) -> str:
    """Say what matters most in the first lines: Claude Code shows three, each cut at the
    terminal's width, and nothing of the rest.
    """
    asks = f"{approval.client} asks to run {approval.tool} ({approval.rule})."
    asks += f" {approval.persons} persons must say yes." if approval.persons > 1 else ""
    return "\n".join([*approval.brief, asks, in_short(approval)])


def in_short(approval: Approval) -> str:
    """Return a plan as far as a client is shown it."""
    if len(approval.text) <= SHOWN:
        return approval.text
    left = len(approval.text) - SHOWN
    more = f"… {left:,} more characters: pvemcp approvals show {approval.id}"
    return f"{approval.text[:SHOWN]}\n{more}"


def _schema(approval: Approval, where: str) -> dict[str, Any]:
    if approval.confirm:
        title = f"Type {approval.confirm} to confirm"
        field_: dict[str, Any] = {
            "confirm": {"type": "string", "title": title, "description": where, "maxLength": 200}
        }
    else:
        field_ = {"approve": {"type": "boolean", "title": "Approve this", "description": where}}
    return {"type": "object", "properties": field_, "required": list(field_)}
