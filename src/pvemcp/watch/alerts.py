"""Who was told what: each condition once, a reminder a day, and a word when it is over.

It is remembered in the database, so that a restart tells nothing twice; when the database cannot be
written (a full disk is one of the conditions) it is remembered in the process.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pvemcp.errors import Fault
from pvemcp.store import Store
from pvemcp.watch.channels import Channel, tell
from pvemcp.watch.conditions import Condition
from pvemcp.watch.messages import Message, message

logger = logging.getLogger(__name__)

REMIND = 86400.0
"""Seconds after which somebody is told again that it is still so."""
SETTLED = 60.0
"""Seconds that a condition must be gone before it is over: one that flaps is one."""
PASSED = 3600.0
"""Seconds after which what only happened may be told anew."""
HOUR, MOST = 3600.0, 20
"""So many messages are sent in an hour."""
BACK_OFF, LONGEST = 30.0, 3600.0
"""Seconds until an alert that nobody took is sent again; doubled each time."""
_COLUMNS = "key, severity, title, text, since, told, gone, passing"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one condition. Times are in seconds since the epoch, None for never."""

    key: str
    severity: str
    title: str
    text: str
    since: float
    told: float | None = None
    gone: float | None = None
    passing: bool = False


@dataclass(slots=True)
class _Delay:
    until: float
    seconds: float


class Alerts:
    """Tells of conditions. `sent` counts messages by channel; `mask` hides secrets."""

    def __init__(
        self,
        store: Store,
        channels: Sequence[Channel],
        *,
        sent: Counter[str],
        mask: Callable[[str], str] = str,
    ) -> None:
        self._store = store
        self._channels = channels
        self._sent = sent
        self._mask = mask
        self._known = {entry.key: entry for entry in self._read()}
        self._recent: deque[float] = deque(maxlen=MOST)
        self._delays: dict[str, _Delay] = {}

    @property
    def entries(self) -> list[Entry]:
        """What is known, the oldest first."""
        return sorted(self._known.values(), key=lambda entry: entry.since)

    async def consider(self, found: Iterable[Condition], now: float) -> None:
        """Compare what is wrong now with what was told."""
        active = {condition.key: condition for condition in found}
        for condition in active.values():
            await self._active(condition, now)
        for entry in [*self._known.values()]:
            if entry.key not in active:
                await self._inactive(entry, now)

    async def test(self, now: float) -> dict[str, str]:
        """Send a test message over every channel; return each one's problem, or nothing."""
        about = Condition("test", "info", "a test", "If you read this, alerts reach you.")
        return await self._send(message("test", about, now, self._mask))

    async def _active(self, condition: Condition, now: float) -> None:
        entry = self._known.get(condition.key)
        if entry is None:
            entry = Entry(*_said(condition), since=now, passing=condition.passing)
        worse = entry.severity != condition.severity and condition.severity == "error"
        told = entry.told if entry.told is None else min(entry.told, now)  # the clock was put back
        entry = replace(
            entry,
            severity=condition.severity, title=condition.title, text=condition.text,
            since=min(entry.since, now), told=None if worse else told, gone=None,
        )  # fmt: skip
        self._keep(entry)
        if entry.told is None:
            due, event = now - entry.since >= condition.after, "raised"
        else:
            due, event = now - entry.told >= REMIND, "reminder"
        if due and await self._try(message(event, condition, now, self._mask), now):
            self._keep(replace(entry, told=now))

    async def _inactive(self, entry: Entry, now: float) -> None:
        if entry.told is None:
            self._forget(entry.key)
            return
        if entry.gone is None or entry.gone > now:
            entry = replace(entry, gone=now)
            self._keep(entry)
        if now - (entry.gone or now) < (PASSED if entry.passing else SETTLED):
            return
        over = Condition(entry.key, "info", entry.title, "It is over.")
        if entry.passing or await self._try(message("recovered", over, now, self._mask), now):
            self._forget(entry.key)

    async def _try(self, what: Message, now: float) -> bool:
        """Send a message now, if it is its time; return whether somebody has it."""
        delay = self._delays.get(what.key)
        if delay is not None and now < delay.until <= now + LONGEST:
            return False
        if len(self._recent) == MOST and 0 <= now - self._recent[0] < HOUR:
            return False
        self._recent.append(now)
        level = logging.INFO if what.severity == "info" else logging.WARNING
        logger.log(level, "alert (%s): %s: %s", what.event, what.title, what.text)
        if not self._channels:
            return True
        problems = await self._send(what)
        if all(problems.values()):
            seconds = min(LONGEST, delay.seconds * 2 if delay else BACK_OFF)
            self._delays[what.key] = _Delay(now + seconds, seconds)
            return False
        self._delays.pop(what.key, None)
        return True

    async def _send(self, what: Message) -> dict[str, str]:
        problems = await tell(self._channels, what)
        for name, problem in problems.items():
            self._sent[f"{name} failed" if problem else name] += 1
            if problem:
                logger.error("the alert was not taken by %s: %s", name, problem)
        return problems

    def _read(self) -> list[Entry]:
        found = self._store.rows(f"SELECT {_COLUMNS} FROM alerts")  # noqa: S608 - constant
        return [Entry(*row) for row in found]

    def _keep(self, entry: Entry) -> None:
        if self._known.get(entry.key) == entry:
            return
        self._known[entry.key] = entry
        values = (
            entry.key, entry.severity, entry.title, entry.text,
            entry.since, entry.told, entry.gone, int(entry.passing),
        )  # fmt: skip
        self._write(f"INSERT OR REPLACE INTO alerts ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", values)  # noqa: S608

    def _forget(self, key: str) -> None:
        self._known.pop(key, None)
        self._delays.pop(key, None)
        self._write("DELETE FROM alerts WHERE key = ?", (key,))

    def _write(self, sql: str, values: tuple[object, ...]) -> None:
        try:
            self._store.write(sql, values)
        except Fault as fault:
            logger.warning("what was told is not written down: %s", fault)


def _said(condition: Condition) -> tuple[str, str, str, str]:
    return condition.key, condition.severity, condition.title, condition.text
