"""Changes that nobody confirmed in time: taken back by this service, or noted that the helper did.

A service that was killed meanwhile does it at its next start. Both stand in the audit: what the
service takes back as a call, what the root helper has taken back as an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from pvemcp.audit import Audit
from pvemcp.call import Call, Effect, Unplanned
from pvemcp.errors import Fault, Unavailable
from pvemcp.journal.book import Book
from pvemcp.journal.change import Change
from pvemcp.journal.commits import TAKEN_BACK, Commit, Commits
from pvemcp.pve.client import Pve

log = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between two looks."""
GRACE = 3.0
"""Seconds beyond a change's time in which whoever made it, or the helper, takes it back."""
FAILED, BY_HELPER = "change not taken back", "change taken back"
"""Kinds of the events."""

PveOf = Callable[[Change], Pve | None]
"""Returns PVE as the client of a change may use it; None when nobody knows its token any more."""


class Overdue:
    """Sees to what is overdue, for one service."""

    def __init__(self, book: Book, commits: Commits, audit: Audit) -> None:
        self._book = book
        self._commits = commits
        self._audit = audit

    async def watch(self, pve_of: PveOf) -> None:
        """Look again and again, for ever."""
        while True:
            with suppress(Fault):  # the database or the helper is busy: look again
                await self.look(pve_of)
            await asyncio.sleep(LOOK)

    async def look(self, pve_of: PveOf, *, grace: float = GRACE) -> None:
        """See once to what is overdue. Raises Unavailable."""
        for one in self._commits.overdue(grace):
            if one.by_helper:
                await self._note(one)
            else:
                await self.take_back(one.change, pve_of)

    async def _note(self, one: Commit) -> None:
        try:
            became = await self._commits.became(one.change)
        except Unavailable:
            raise
        except Fault:  # an exec.toml of before there was this operation: its timer is long over
            became = "reverted"
        if became == "reverted" and self._commits.taken_back(one.change):
            about = {"change": one.change, "kind": one.kind, "by": "the root helper"}
            self._tell(BY_HELPER, one.change, about)
        elif became == "gone":  # the helper let it stand, and the service was killed meanwhile
            self._commits.stands(one.change)

    async def take_back(self, id_: str, pve_of: PveOf) -> None:
        """Take a change back as its client, unless it was confirmed. PVE's Faults end here.

        What its client changed there afterwards, its undo too, stands on it: that goes first.
        """
        change = self._book.get(id_)
        for later in map(self._book.get, self._commits.later(id_)):
            if (later.target, later.grant) == (change.target, change.grant):
                await self._take_back(later, pve_of)
        await self._take_back(change, pve_of)

    async def _take_back(self, change: Change, pve_of: PveOf) -> None:
        if not self._commits.taken_back(change.id):
            return
        pve, why = pve_of(change), change.recipe.why_not
        if pve is None or not change.recipe.requests:
            why = why or "the token of its client is not known any more"
            self._failed(change, why)
            return
        call = Call(
            pve.call.principal, TAKEN_BACK, {"change": change.id}, effect=Effect.DESTROY,
            license=Unplanned(), undoes=change.id, automatic=True,
        )  # fmt: skip
        with suppress(Fault):  # a full disk must not keep people locked out
            self._audit.opened(call)
        log.warning("change %s was not confirmed: %s", change.id, change.undo)
        try:
            for request in change.recipe.requests:
                await pve.of(call).request(request.verb, request.path, request.params)
            self._book.undone(change, call)
            call.close("ok")
        except Fault as fault:
            call.close(fault.code, str(fault))
            self._failed(change, str(fault))
        finally:
            call.close("cancelled")
            self._audit.record(call)

    def _failed(self, change: Change, why: str) -> None:
        log.error("change %s was not confirmed and could not be taken back: %s", change.id, why)
        self._commits.failed(change.id)
        self._tell(FAILED, change.id, {"change": change.id, "why": why})

    def _tell(self, kind: str, id_: str, about: dict[str, str]) -> None:
        client = ""
        with suppress(Fault):
            client = self._book.get(id_).client
        with suppress(Fault):
            self._audit.event(kind, about, client=client)
