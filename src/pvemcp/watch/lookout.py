"""Looks at the service again and again: the journal hears of every change, alerts of what lasts."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from pvemcp.access.freeze import Freeze, Freezes
from pvemcp.access.grants import Grant, Grants
from pvemcp.access.told import Hearer, Told
from pvemcp.backup_status import problem
from pvemcp.errors import Fault
from pvemcp.settings import Settings
from pvemcp.watch.alerts import Alerts
from pvemcp.watch.clock import Clock
from pvemcp.watch.conditions import Known, conditions
from pvemcp.watch.readiness import Readiness, Report, State

logger = logging.getLogger(__name__)

LONGEST = 15.0
"""Seconds between two looks; fewer where alerts are to come sooner."""
REMEMBERED = 3600.0
"""Seconds for which a lock-out counts."""
RESTARTED = 600.0
"""Seconds after the start in which an end without notice before it is told."""
LOCKED_OUT = "too_many_attempts"


class Lookout:
    """Feeds the alerts of one service."""

    def __init__(
        self,
        settings: Settings,
        *,
        readiness: Readiness,
        alerts: Alerts,
        grants: Grants,
        freezes: Freezes,
        told: Told,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._readiness = readiness
        self._alerts = alerts
        self._grants = grants
        self._freezes = freezes
        self._told = told
        self._clock = clock
        self._period = min(LONGEST, settings.alert_after / 4)
        self._states: dict[str, State] = {}
        self._lockouts: deque[tuple[float, str]] = deque(maxlen=1000)
        self._unclean: tuple[float, str] | None = None

    def turned_away(self, reason: str, address: str) -> None:
        """Note that somebody was not let in."""
        if reason == LOCKED_OUT:
            self._lockouts.append((self._clock.now(), address))

    def restarted(self, text: str) -> None:
        """Note that the service was ended without notice before."""
        logger.warning("%s", text)
        self._unclean = (self._clock.now(), text)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(self._period)
            try:
                await self.look()
            except Exception:
                logger.exception("looking after the service failed")

    async def look(self) -> None:
        """Look once."""
        report = await self._readiness.look(self._period)
        self._note(report)
        now = self._clock.now()
        while self._lockouts and not 0 <= now - self._lockouts[0][0] < REMEMBERED:
            self._lockouts.popleft()
        unclean = self._unclean
        known = Known(
            now=now,
            report=report,
            grants=self._list_grants(),
            backup=problem(self._settings, now),
            lockouts=list(self._lockouts),
            freezes=self._list_freezes(),
            behind=self._list_behind(),
            unclean=unclean[1] if unclean and 0 <= now - unclean[0] < RESTARTED else "",
        )
        await self._alerts.consider(conditions(known, self._settings.alert_after), now)

    def _list_grants(self) -> Sequence[Grant]:
        try:
            return self._grants.list()
        except Fault:
            return ()  # the check of the store says so

    def _list_freezes(self) -> Sequence[Freeze]:
        try:
            return self._freezes.all()
        except Fault:
            return ()

    def _list_behind(self) -> Sequence[Hearer]:
        try:
            return self._told.behind(self._freezes.own())
        except Fault:
            return ()

    def _note(self, report: Report) -> None:
        """Tell the journal what has changed."""
        for finding in report.findings:
            before = self._states.get(finding.name, State.OK)
            self._states[finding.name] = finding.state
            if finding.state is before or State.OFF in (finding.state, before):
                continue
            good = finding.state is State.OK
            level = logging.INFO if good else logging.WARNING
            word = "is well again" if good else f"is {finding.state}"
            logger.log(level, "check %s %s: %s", finding.name, word, finding.reason)
