"""Changes that can lock people out: taken back unless somebody confirms them in time.

On the host itself the root helper keeps the files and systemd holds the timer (host/commit.py):
that survives the service. Elsewhere the service undoes the change itself, through PVE's API, which
needs the service alive and PVE within reach.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pvemcp.access.fresh import Fresh
from pvemcp.call import Call, Effect, Intent
from pvemcp.errors import Conflict, Fault, Missing, Unavailable
from pvemcp.host.ended import output_of
from pvemcp.host.executor import Executor
from pvemcp.store import Store

_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"PUT /nodes/\{node\}/network", "network"),
        (r"PUT /cluster/sdn", "sdn"),
        (r"\w+ /cluster/firewall/.*", "cluster-firewall"),
        (r"\w+ /nodes/\{node\}/firewall/.*", "host-firewall"),
        (r"\w+ /nodes/\{node\}/certificates/.*", "certificate"),
    )
)
_COLUMNS = "change, kind, applied, until, by_helper, state"
_FIREWALL = ("cluster-firewall", "host-firewall")
_HOW_FAR = {"sdn": ": this node and the cluster's settings, other nodes if they can be reached"}
_OTHER_FILE = (
    "On the host: compare [operations.commit-begin] of /etc/pvemcp/exec.toml with the package."
)
TAKEN_BACK = "confirm (expired)"
"""The tool of a call in which the service takes a change back that nobody confirmed."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One change that waits to be confirmed. Times are in seconds since the epoch."""

    change: str
    kind: str
    applied: float
    until: float
    by_helper: bool
    state: str
    """waiting, confirmed, reverted, or failed: it could not be taken back."""


def kind_of(intent: Intent) -> str:
    """Return which way of locking people out a write has, or "".

    Of the firewall's only those that can cut somebody off: the effects table says which.
    """
    method = f"{intent.verb} {intent.template}"
    kind = next((kind for pattern, kind in _KINDS if pattern.fullmatch(method)), "")
    return "" if kind in _FIREWALL and intent.effect is not Effect.DESTROY else kind


class Commits:
    """The changes of one service that wait to be confirmed. `seconds` 0: none do."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        *,
        seconds: int = 0,
        helper: bool = False,
        weak: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`helper`: the executor is the root helper; `weak`: do without it where it cannot help."""
        self._store = store
        self._executor = executor
        self.seconds = seconds
        self._helper = helper
        self._weak = weak
        self._now = now

    def kind(self, call: Call, intent: Intent) -> str:
        """Return the kind of a write that must be confirmed, or ""."""
        return kind_of(intent) if self.seconds and call.tool != TAKEN_BACK else ""

    def by_helper(self, intent: Intent) -> bool:
        """Whether the helper of this host can take it back: it is about this host's files."""
        return self._helper and intent.node in ("", self._executor.node)

    def note(self, call: Call, intent: Intent) -> str:
        """Say in a plan that a write must be confirmed."""
        kind = self.kind(call, intent)
        if not kind:
            return ""
        if self.by_helper(intent):
            who = "the root helper takes it back" + _HOW_FAR.get(kind, "")
        elif kind in _FIREWALL:
            who = "this service takes it back, if it lives and reaches PVE (no root helper there)"
        else:
            return "nothing can take it back by itself: there is no root helper there"
        return f"unless change_confirm comes over a new connection in {self.seconds} s, {who}"

    async def begin(self, change: str, intent: Intent, kind: str) -> bool:
        """Arm the way back, before the write is sent; False: there is none, as the plan says.

        Raises a Fault when that fails.
        """
        by_helper = self.by_helper(intent)
        if not by_helper and not self._weak:
            raise Conflict(
                f"{intent.verb} {intent.path} was not sent: the root helper cannot take it back "
                "there",
                hint="Use the pvemcp of that node, or an administrator sets confirm_weak = true.",
            )
        if not by_helper and kind not in _FIREWALL:
            return False
        if by_helper:
            await self._arm(change, intent, kind)
        self._store.write(
            "INSERT INTO commits (change, kind, applied, until, by_helper, state) "
            "VALUES (?, ?, 0, ?, ?, 'waiting')",
            (change, kind, self._now() + self.seconds, int(by_helper)),
        )
        return True

    async def _arm(self, change: str, intent: Intent, kind: str) -> None:
        try:
            params = {"change": change, "seconds": self.seconds, "kind": kind}
            await self._ask("commit-begin", params)
        except Fault as fault:
            raise Unavailable(
                f"{intent.verb} {intent.path} was not sent, because its way back was not armed: "
                f"{fault.message}",
                hint=fault.hint if isinstance(fault, Unavailable) else _OTHER_FILE,
            ) from None

    def applied(self, change: str) -> None:
        """Note that the change is made: what confirms it must have connected after this."""
        Fresh.require()
        now = self._now()
        sql = "UPDATE commits SET applied = ? WHERE change = ? AND state = 'waiting'"
        self._store.write(sql, (now, change))
        sql = "UPDATE commits SET until = ? WHERE change = ? AND NOT by_helper"
        self._store.write(sql, (now + self.seconds, change))

    async def drop(self, change: str) -> None:
        """Forget the way back of a change that was refused."""
        found = self.get(change)
        self._set(change, "confirmed")
        if found.by_helper:
            await self._ask("commit-confirm", {"change": change})

    async def confirm(self, change: str, *, opened: float) -> None:
        """Let a change stand. `opened`: since when its client is connected; 0: over no network.

        Raises Conflict when it is too late, or the connection too old.
        """
        found = self.get(change)
        if found.state != "waiting":
            raise Conflict(f"{change} is {found.state} already")
        if not found.applied:
            raise Conflict(f"{change} is still being made", hint="Wait for it.")
        if opened and opened <= found.applied:
            raise Conflict(
                f"this connection was there before {change}: it does not show that the service "
                "can still be reached",
                hint="Call again: this connection is closed now, and the next one is new.",
            )
        if found.by_helper:
            await self._ask("commit-confirm", {"change": change})
        if not self._set(change, "confirmed"):
            raise Conflict(f"{change} was taken back just now")

    def taken_back(self, change: str) -> bool:
        """Note that a change is taken back; False when it was confirmed first."""
        return self._set(change, "reverted")

    def stands(self, change: str) -> None:
        """Note that the helper has let a change stand."""
        self._set(change, "confirmed")

    def failed(self, change: str) -> None:
        """Note that a change that was to be taken back could not be."""
        self._store.write("UPDATE commits SET state = 'failed' WHERE change = ?", (change,))

    def overdue(self, grace: float) -> list[Commit]:
        """Return those that still wait so many seconds after their time."""
        rows = self._store.rows(
            f"SELECT {_COLUMNS} FROM commits WHERE state = 'waiting' AND until < ?",  # noqa: S608
            (self._now() - grace,),
        )
        return [_commit(row) for row in rows]

    def later(self, change: str) -> list[str]:
        """Return what waits, was made after a change, and is the service's to take back; the
        newest first.
        """
        rows = self._store.rows(
            "SELECT change FROM commits WHERE state = 'waiting' AND NOT by_helper "
            "AND rowid > (SELECT rowid FROM commits WHERE change = ?) ORDER BY rowid DESC",
            (change,),
        )
        return [row[0] for row in rows]

    async def became(self, change: str) -> str:
        """Ask the helper what became of a change: waiting, reverted, or gone. Raises a Fault."""
        return (await self._ask("commit-state", {"change": change})).strip()

    def get(self, change: str) -> Commit:
        """Return one of them. Raises Missing."""
        rows = self._store.rows(
            f"SELECT {_COLUMNS} FROM commits WHERE change = ?",  # noqa: S608 - constants
            (change,),
        )
        if not rows:
            raise Missing(f"{change[:40]} needs no confirmation")
        found = _commit(rows[0])
        late = found.state == "waiting" and found.by_helper and self._now() > found.until
        return replace(found, state="reverted") if late else found

    def waiting(self, changes: list[str]) -> list[Commit]:
        """Return those of the given changes that wait."""
        found = []
        for change in changes:
            try:
                commit = self.get(change)
            except Missing:
                continue
            found += [commit] if commit.state == "waiting" else []
        return found

    def _set(self, change: str, state: str) -> bool:
        sql = "UPDATE commits SET state = ? WHERE change = ? AND state = 'waiting'"
        return self._store.write(sql, (state, change)) > 0

    async def _ask(self, operation: str, params: dict[str, Any]) -> str:
        """Have the helper run an operation; return what it wrote. Raises Unavailable, Denied."""
        request = {"do": "operation", "name": operation, "params": params, "timeout": 30}
        link = await self._executor.open({**request, "owner": "pvemcp", "call": "commit"})
        return await output_of(link, operation)


def _commit(row: tuple[Any, ...]) -> Commit:
    change, kind, applied, until, by_helper, state = row
    return Commit(change, kind, applied, until, bool(by_helper), state)
