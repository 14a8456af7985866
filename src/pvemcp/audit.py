"""The audit: every call leaves a row in the database and a JSON line in the journal.

Each row has a record in a keyed chain (chain.py), and so has each event that is no call.

A call that may change something has its row before anything happens (`opened`), so that a kill
in the middle leaves a trace; if that row cannot be written the call is refused. Every call is
recorded before its answer goes out (`record`): one without such a row in the tail (tail.py), from
where it comes into the database before anything newer. When *that* fails (disk full, database
locked) the answer still goes out, because what was done cannot be taken back: the journal line is
written, the failure is logged loudly, and a change stays visible as "unfinished".
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pvemcp.call import Call, Step
from pvemcp.chain import (
    ANCHOR,
    AT,
    CLOSED,
    COLUMNS,
    OPENED,
    Event,
    Head,
    fields,
    joined,
    quoted,
    row_text,
)
from pvemcp.errors import Fault, Unavailable
from pvemcp.ledger import Ledger
from pvemcp.redaction import Known, redact, redact_text
from pvemcp.store import Store
from pvemcp.tail import Row

__all__ = ["Audit", "Entry", "as_json"]

log = logging.getLogger(__name__)

ARGUMENTS_LIMIT = 32 * 1024
"""Characters of JSON. What a call's arguments have beyond it is left out of the audit."""
STEPS_LIMIT = 1000
RUNNING = "running"
UNFINISHED = "unfinished: may have happened"


@dataclass(frozen=True, slots=True)
class Entry:
    """One audited call. `time` is in seconds since the epoch."""

    id: str
    time: float
    client: str
    """Name of the grant."""
    grant: str
    address: str
    mcp_client: str
    tool: str
    arguments: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    """verb, path, effect, verdict, status, ms, upid of each request to PVE."""
    outcome: str
    """ok, cancelled, internal, the code of a Fault, `running`, or `unfinished: …` after a kill."""
    error: str
    ms: float
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else is known: pve_user, session, plan, approval, approved_by, tool_use, trace, result
    (characters)."""


class Audit:
    """Writes calls down. `journal` gets one JSON line a call (None: no lines).

    `known` masks the values that are known to be secret; the default knows none. `observers`
    are told of every closed call.
    """

    def __init__(
        self,
        store: Store,
        journal: TextIO | None,
        known: Known = str,
        observers: Sequence[Callable[[Call], None]] = (),
    ) -> None:
        self.lost = 0
        """Calls without a row."""
        self._observers = observers
        self._store = store
        self._ledger = Ledger(store)
        self.known = known
        self._journal = journal
        self._process = identity(os.getpid())
        self.copy: Callable[[str], None] | None = None
        """Gets each line that the journal gets, but for anchors."""

    def observe(self, told: Callable[[Call], None]) -> None:
        """Tell of every call that is closed from now on."""
        self._observers = [*self._observers, told]

    def redact(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call as they may be written down."""
        return redact(arguments, self.known)

    @property
    def trouble(self) -> str:
        """Why nothing could be written to the database the last time; empty when it could."""
        return self._ledger.trouble

    def running(self) -> AbstractContextManager[None]:
        """Take over first what killed processes have recorded; write out the rest at the end."""
        return self._ledger.running()

    def opened(self, call: Call) -> None:
        """Write the row of a call that may change something, before it does.

        Raises Unavailable when that is impossible; the call must then not go on.
        """
        row = self._values(call)
        try:
            call.row = self._ledger.write(OPENED, call.row, row, row_text(row))
        except Fault as fault:
            raise Unavailable(
                f"Refused before anything was changed: the audit cannot be written. "
                f"{fault.message}",
                hint=fault.hint,
            ) from None

    def record(self, call: Call) -> None:
        """Write a closed call down, before its answer goes out. Never raises a Fault."""
        row = self._values(call)
        columns = fields(row)
        text = joined(columns)
        try:
            if call.row:
                self._ledger.write(CLOSED, call.row, row, text)
            else:
                self._ledger.append(row, text)
        except Fault as fault:
            self.lost += 1
            log.error("AUDIT LOST: call %s (%s): %s", call.id, call.tool, fault)  # noqa: TRY400
        self._write_line(call, row, columns)
        for observe in self._observers:
            observe(call)

    def event(
        self, kind: str, about: Mapping[str, Any], *, client: str = "", grant: str = ""
    ) -> None:
        """Write down something that is no call: who was refused, what was frozen, approved, made.

        Raises Unavailable when that is impossible.
        """
        said = {"client": client, "grant": grant, **about}
        shown = json.loads(
            self.known(_json({k: v for k, v in said.items() if v not in ("", None)}))
        )
        self._ledger.event(kind, shown)
        if self._told:
            moment = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._line(_json({"event": kind, "time": moment, **shown}))

    def events(self, limit: int = 100, *, since: float | None = None) -> list[Event]:
        """Return the newest events that are no calls, oldest first; `since` as of `rows`."""
        return self._ledger.chain.events(since=since or 0.0, limit=limit)

    def head(self) -> Head | None:
        """Return the newest record of the chain, with all that was recorded before it."""
        self._ledger.flush()
        return self._ledger.chain.head()

    def anchor(self, head: Head) -> str:
        """Write a head of the chain to the journal, and return that line."""
        line = _json({"event": ANCHOR, "number": head.number, "mac": head.mac})
        self._journaled(line)
        return line

    def rows(
        self,
        since: float | None = None,
        client: str | None = None,
        limit: int = 100,
        *,
        grant: str | None = None,
    ) -> list[Entry]:
        """Return the newest `limit` calls, oldest first. `since` is in seconds since the epoch."""
        late = [
            row
            for row in self._ledger.waiting()
            if row[AT["time"]] >= (since or 0.0)
            and client in (None, row[AT["client"]])
            and grant in (None, row[AT["grant_id"]])
        ]
        found = self._store.rows(
            f"SELECT {COLUMNS} FROM calls WHERE time >= ? AND (? IS NULL OR client = ?) "  # noqa: S608
            "AND (? IS NULL OR grant_id = ?) "
            "ORDER BY number DESC LIMIT ?",
            (since or 0.0, client, client, grant, grant, limit),
        )
        running = functools.cache(is_running)
        both = {
            row[AT["id"]]: row for row in (*reversed(found), *late)
        }  # some have moved in between
        return [_entry(row, running) for row in both.values()][-limit:]

    def clients(self) -> set[str]:
        """Return the names of all whose calls are recorded."""
        names = self._store.rows("SELECT DISTINCT client FROM calls")
        return {name for (name,) in names} | {row[AT["client"]] for row in self._ledger.waiting()}

    def _values(self, call: Call) -> Row:
        who = call.principal
        client, tool, arguments, steps, about = self._masked(
            call.client,
            call.tool,
            _json(call.arguments),
            f"[{','.join(map(_step, call.steps[:STEPS_LIMIT]))}]",
            _json(_about(call)),
        )
        return (
            call.id,
            self._process,
            call.started,
            who.name,
            who.grant,
            who.address,
            _storable(client[:200]),
            _storable(tool[:200]),
            _arguments(arguments),
            steps,
            call.outcome,
            _storable(redact_text(call.error, self.known)) if call.error else "",
            round(call.ms, 3),
            about,
        )

    def _masked(self, *texts: str) -> tuple[str, ...]:
        """Mask known values in texts; looking through them at once costs a fifth."""
        whole = "\0".join(texts)
        return texts if self.known(whole) == whole else tuple(map(self.known, texts))

    @property
    def _told(self) -> bool:
        """Whether anybody wants lines."""
        return self._journal is not None or self.copy is not None

    def _write_line(self, call: Call, row: Row, columns: Sequence[str]) -> None:
        if not self._told:
            return
        moment = datetime.fromtimestamp(call.started, UTC).isoformat(timespec="milliseconds")
        id_, _, _, client, grant, address, mcp_client, tool = columns[:8]
        outcome, error, ms = columns[10:13]
        arguments, steps, about = row[8], row[9], row[13]  # JSON already
        self._line(
            f'{{"event":"call","time":"{moment}","id":{id_},"client":{client},"grant_id":{grant},'
            f'"address":{address},"mcp_client":{mcp_client},"tool":{tool},"outcome":{outcome},'
            f'"error":{error},"ms":{ms},"arguments":{arguments},"steps":{steps},"about":{about}}}'
        )

    def _line(self, text: str) -> None:
        if self.copy is not None:
            self.copy(text)
        self._journaled(text)

    def _journaled(self, text: str) -> None:
        if self._journal is None:
            return
        try:
            self._journal.write(f"{text}\n")
            self._journal.flush()
        except (OSError, ValueError):  # the reader has gone, or the stream is closed
            self._journal = None
            log.exception("The journal can no longer be written; the audit goes on in the database")


def _about(call: Call) -> dict[str, Any]:
    found = {
        "pve_user": call.principal.token.id,
        "session": call.session,
        "plan": list(call.plan),
        "approval": call.approval,
        "approved_by": call.approved_by,
        "tool_use": call.tool_use,
        "trace": call.trace,
        "result": call.result_size,
    }
    return {name: value for name, value in found.items() if value}


def _step(step: Step) -> str:
    """Write a step as JSON; the encoder would take three times as long."""
    upid = f',"upid":{quoted(step.upid)}' if step.upid else ""
    note = f',"note":{quoted(step.note)}' if step.note else ""
    return (
        f'{{"verb":{quoted(step.method)},"path":{quoted(step.path)},"effect":"{step.effect}",'
        f'"verdict":"{step.verdict}","status":{step.status},"ms":{step.ms:.1f}{upid}{note}}}'
    )


def _storable(text: str) -> str:
    """Write half characters, which JSON may hold and SQLite may not, as their escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _arguments(text: str) -> str:
    if len(text) <= ARGUMENTS_LIMIT:
        return text
    return _json({"left out": f"{len(text):,} characters", "begin": text[:2000]})


_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


def _entry(row: tuple[Any, ...], running: Callable[[str], bool]) -> Entry:
    id_, process, time, client, grant, address, mcp_client, tool, arguments, steps = row[:10]
    outcome, error, ms, about = row[10:]
    if outcome == "open":
        outcome = RUNNING if running(process) else UNFINISHED
    return Entry(
        id=id_,
        time=time,
        client=client,
        grant=grant,
        address=address,
        mcp_client=mcp_client,
        tool=tool,
        arguments=json.loads(arguments),
        steps=tuple(json.loads(steps)),
        outcome=outcome,
        error=error,
        ms=ms,
        about=json.loads(about),
    )


def as_json(entry: Entry) -> str:
    """Return the entry as one line of JSON, with the time in ISO 8601."""
    moment = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds")
    return _json(asdict(entry) | {"time": moment})


def identity(pid: int) -> str:
    """Return `PID/START`: a pid alone may have been given to another process since."""
    try:
        # Field 22 of proc(5) stat, counted after the command, which may contain spaces.
        started = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2]
        return f"{pid}/{started.split()[19]}"
    except (OSError, IndexError):
        return f"{pid}/"


def is_running(process: str) -> bool:
    """Whether the process of that identity still runs."""
    pid, _, started = process.partition("/")
    return bool(started) and identity(int(pid)) == process
