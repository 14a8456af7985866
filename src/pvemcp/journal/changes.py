"""The journal at work: it stands around every write that is sent, and sees it to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pvemcp.audit import Audit
from pvemcp.call import Call, Effect, Intent
from pvemcp.errors import Fault, Uncertain
from pvemcp.journal.book import Book, kept
from pvemcp.journal.change import Change, Recipe, State, differences, never
from pvemcp.journal.commits import Commit, Commits
from pvemcp.journal.guests import SAFETY
from pvemcp.journal.overdue import Overdue
from pvemcp.journal.subject import Facts, Subject
from pvemcp.journal.subjects import subject_of
from pvemcp.pve.client import Answer, Pve
from pvemcp.pve.tasks import TaskEnd, peek

log = logging.getLogger(__name__)

FIRST_LOOK, LAST_LOOK, GROWTH = 1.0, 30.0, 1.6
"""Seconds between two looks at a task that outlives its call."""
LONGEST = 86_400.0
"""Seconds after which nobody follows a task any more; whoever looks at the change completes it."""
LOST = "the state before or after could not be read"


@dataclass(slots=True)
class Sent:
    """A change of a call that is under way."""

    id: str
    subject: Subject
    intent: Intent
    before: State | None
    upid: str = ""
    safety: str = ""
    commit: str = ""
    """Its kind, when it must be confirmed."""


class Changes:
    """Journals the changes of one service."""

    def __init__(self, book: Book, commits: Commits, audit: Audit) -> None:
        self.book = book
        self.commits = commits
        self.overdue = Overdue(book, commits, audit)
        self._following: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def watch(self, pve: Pve, intent: Intent) -> AsyncIterator[Callable[[Answer], None]]:
        """Journal one write: `PveClient.watch`. Raises Unavailable when it cannot be journaled."""
        if pve.call.whole:
            yield lambda _: None
            return
        subject = subject_of(
            await pve.description(), intent.verb, intent.template, intent.params, path=intent.path
        )
        async with self.around(pve, intent, subject) as told:
            yield told

    @contextlib.asynccontextmanager
    async def around(
        self, pve: Pve, intent: Intent, subject: Subject
    ) -> AsyncIterator[Callable[[Answer], None]]:
        """Journal what is done to a subject in the block as one change. See `watch`."""
        sent = await self._begin(pve, intent, subject)
        answers: list[Answer] = []
        try:
            if sent.commit and not await self.commits.begin(sent.id, intent, sent.commit):
                sent.commit = ""
            yield answers.append
        except Uncertain as fault:
            self._end(sent, "uncertain", str(fault), never("whether it happened is not known"))
            raise
        except Fault as fault:
            await self._failed(pve, sent, fault)
            raise
        except BaseException:
            self._end(sent, "uncertain", "cut off", never("whether it happened is not known"))
            raise
        sent.upid = answers[0].upid if answers else ""
        if sent.upid:
            with _loud(sent):
                self.book.running(sent.id, sent.upid)
            pve.call.changes.append(sent)
        else:
            await self._complete(pve, sent, "done", "")

    async def _failed(self, pve: Pve, sent: Sent, fault: Fault) -> None:
        """Close a change that PVE refused. It may have done a part before.

        Seen on PVE 9.2: settings that came before a disk that cannot be made stay, as pending.
        """
        after = await _read(pve, sent.subject)
        if sent.before is None or after is None or not differences(sent.before, after):
            recipe = never("it was refused, so nothing was changed")
            self._end(sent, "failed", str(fault), recipe)
        else:
            recipe = await _recipe(pve, sent, after)
            with _loud(sent):
                self.book.close(sent.id, "failed", error=str(fault), after=after, recipe=recipe)
        if sent.commit:
            await self._forget(sent)

    async def _begin(self, pve: Pve, intent: Intent, subject: Subject) -> Sent:
        await self._settle(pve, [s for s in _under_way(pve) if s.intent.scope == intent.scope])
        before = await _read(pve, subject)
        commit = self.commits.kind(pve.call, intent)
        safety = _safety(pve, self.book, intent)
        sent = Sent("", subject, intent, before, safety=safety, commit=commit)
        sent.id = self.book.open(pve.call, intent, str(subject), before)
        return sent

    async def settle(self, pve: Pve) -> None:
        """Close what a call has changed, before its answer goes out; follow what still runs."""
        await self._settle(pve, _under_way(pve))
        for sent in _under_way(pve):
            self._in_background(self._follow(pve, sent))
        pve.call.changes.clear()

    async def _settle(self, pve: Pve, those: list[Sent]) -> None:
        for sent in those:
            if await self._look(pve, sent):
                pve.call.changes.remove(sent)

    async def _look(self, pve: Pve, sent: Sent) -> bool:
        """Complete a change whose task has ended; False while it runs, or nobody can say."""
        try:
            end = await peek(pve, sent.upid)
        except Fault:
            return False
        if end.status == "running":
            return False
        await self._complete(pve, sent, *_outcome(end))
        return True

    async def _follow(self, pve: Pve, sent: Sent) -> None:
        pause, waited = FIRST_LOOK, 0.0
        while waited < LONGEST:
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * GROWTH, LAST_LOOK)
            if await self._look(pve, sent):
                return

    def waiting(self, call: Call) -> list[Commit]:
        """Return what a call has changed that must be confirmed."""
        if not self.commits.seconds:
            return []
        return self.commits.waiting([c.id for c in self.book.list(call=call.id)])

    async def close(self) -> None:
        """Follow no task any more; what runs is completed when somebody looks."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    async def completed(self, pve: Pve, change: Change) -> Change:
        """Return a change; one whose task has ended since is completed first."""
        if change.outcome != "running":
            return change
        sent = Sent(
            change.id,
            await subject_of_change(pve, change),
            _intent(change),
            change.before,
            change.upid,
        )
        return self.book.get(change.id) if await self._look(pve, sent) else change

    async def _complete(self, pve: Pve, sent: Sent, outcome: str, error: str) -> None:
        try:
            after = await _read(pve, sent.subject)
        except asyncio.CancelledError:
            self._end(sent, outcome, error, never(LOST))
            raise
        recipe = await _recipe(pve, sent, after)
        with _loud(sent):
            self.book.close(sent.id, outcome, error=error, after=after, recipe=recipe)
            if sent.commit:
                self._applied(pve, sent)

    def _applied(self, pve: Pve, sent: Sent) -> None:
        """Wait for somebody to confirm a change; without the helper it is taken back from here."""
        self.commits.applied(sent.id)
        if not self.commits.by_helper(sent.intent):
            self._in_background(self._take_back(pve, sent))

    async def _take_back(self, pve: Pve, sent: Sent) -> None:
        await asyncio.sleep(self.commits.seconds)
        await self.overdue.take_back(sent.id, lambda _: pve)

    async def _forget(self, sent: Sent) -> None:
        with contextlib.suppress(Fault):
            await self.commits.drop(sent.id)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    def _end(self, sent: Sent, outcome: str, error: str, recipe: Recipe) -> None:
        with _loud(sent):
            self.book.close(sent.id, outcome, error=error, after=None, recipe=recipe)


async def subject_of_change(pve: Pve, change: Change) -> Subject:
    """Return what a change worked on."""
    description = await pve.description()
    return subject_of(description, change.verb, change.template, change.params, path=change.path)


def _under_way(pve: Pve) -> list[Sent]:
    return [one for one in pve.call.changes if isinstance(one, Sent)]


def _outcome(end: TaskEnd) -> tuple[str, str]:
    return ("failed", end.exitstatus) if end.status == "failed" else ("done", "")


def _intent(change: Change) -> Intent:
    return Intent(
        change.verb,
        change.path,
        Effect.parse(change.effect),
        template=change.template,
        params=change.params,
        node=change.node,
    )


async def _read(pve: Pve, subject: Subject) -> State | None:
    """Return the state of a target; None when it cannot be read: that stops no change."""
    try:
        return kept(await subject.read(pve))
    except Fault:
        return None
    except Exception:
        log.exception("the state of %s could not be read", subject)
        return None


async def _recipe(pve: Pve, sent: Sent, after: State | None) -> Recipe:
    if sent.before is None or after is None:
        return never(LOST)
    intent = sent.intent
    facts = Facts(
        intent.verb,
        intent.template,
        intent.path,
        intent.params,
        sent.before,
        after,
        await pve.description(),
        sent.safety,
    )
    try:
        recipe = sent.subject.undo(facts)
    except Exception:
        log.exception("no way back was found for %s", sent.subject)
        return never("no way back was found")
    if recipe.keys or recipe.why_not:
        return recipe
    if not sent.before:
        return recipe  # whatever was made since is part of it
    changed = {*sent.before, *after}
    return replace(recipe, keys=tuple(n for n in changed if sent.before.get(n) != after.get(n)))


def _safety(pve: Pve, book: Book, intent: Intent) -> str:
    """Return the safety snapshot that this call has taken of the guest just before."""
    if not intent.template.endswith("/rollback"):
        return ""
    guest = intent.path.partition("/snapshot/")[0]
    for change in book.list(call=pve.call.id):
        name = str(change.params.get("snapname", ""))
        taken = change.path == f"{guest}/snapshot" and change.outcome == "done"
        if taken and name.startswith(SAFETY):
            return name
    return ""


@contextlib.contextmanager
def _loud(sent: Sent) -> Iterator[None]:
    """What was done cannot be taken back when its row cannot be written: it stays unfinished."""
    try:
        yield
    except Fault as fault:
        log.error("JOURNAL LOST: change %s: %s", sent.id, fault)  # noqa: TRY400
