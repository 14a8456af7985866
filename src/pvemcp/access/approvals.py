"""Approvals: what waits for a person, who said what, and what was used. In the database.

An approval binds one grant to one plan: the digest covers the tool, its exact arguments, every
write, and the state of what is written to. It is used once, and expires. Nothing here asks
whether a person may approve: whoever calls `approve` knows (the host's root, the approval page, a
client's dialog).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pvemcp.access.events import Event, untold
from pvemcp.access.policy import Judgement
from pvemcp.call import Call
from pvemcp.errors import Conflict, Denied, Invalid, Limited, Missing
from pvemcp.redaction import redact_text
from pvemcp.store import Store

State = Literal["waiting", "approved", "denied", "used", "expired"]
Channel = Literal["client", "host", "page"]

KEEP = 30 * 86400.0
"""Seconds that an approval which can no longer be used is kept for the record."""

_COLUMNS = (
    "id, digest, grant_id, client, address, mcp_client, tool, arguments, call_id, plan, created, "
    "expires, channel, persons, confirm, rule, state, used_by"
)
_INSERT = f"INSERT INTO approvals ({_COLUMNS}) VALUES ({', '.join('?' * 18)})"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM approvals"  # noqa: S608
_LIVE = ("waiting", "approved")


@dataclass(frozen=True, slots=True)
class Person:
    """Who decides: `root`, `alice@pve`, `the user of laptop`; and where."""

    name: str
    channel: Channel


@dataclass(frozen=True, slots=True)
class Decision:
    """What one person said. `time` is in seconds since the epoch."""

    person: str
    channel: str
    verdict: str
    reason: str
    time: float


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be approved. `text` is the whole plan, masked; `writes` what a page may check:
    verb, path, template, node, vmid, kind and id of each."""

    tool: str
    arguments: Mapping[str, Any]
    """As the audit has them: redacted."""
    digest: bytes
    text: str
    writes: Sequence[Mapping[str, Any]] = ()
    confirm: str = ""
    """What the person must type, or nothing."""
    brief: Sequence[str] = ()
    """The plan in few lines, for a dialog that shows no more; masked."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One question and what became of it. Times are in seconds since the epoch."""

    id: str
    digest: bytes
    grant: str
    client: str
    address: str
    mcp_client: str
    tool: str
    arguments: Mapping[str, Any]
    call: str
    text: str
    brief: tuple[str, ...]
    writes: tuple[Mapping[str, Any], ...]
    created: float
    expires: float
    channel: str
    persons: int
    confirm: str
    rule: str
    state: State
    used_by: str
    decisions: tuple[Decision, ...] = ()

    @property
    def by(self) -> str:
        """Who said yes, and where."""
        return ", ".join(
            f"{d.person} ({d.channel})" for d in self.decisions if d.verdict == "approve"
        )


class Approvals:
    """All approvals of this service. Times come from `now`, in seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        *,
        ttl: float = 600.0,
        most: int = 20,
        event: Event = untold,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`ttl`: seconds until a question expires; `most`: how many of one grant may wait."""
        self._store = store
        self._ttl = ttl
        self._most = most
        self._event = event
        self._now = now

    def ask(self, call: Call, question: Question, judgement: Judgement) -> Approval:
        """Put a question, or return the same one that waits already.

        Raises Limited when too many questions of this grant wait.
        """
        grant = call.principal.owner
        with self._store.whole():
            found = self._live(grant, question.digest, judgement)
            if found is not None:
                return found
            self._bound(grant)
            made = self._insert(call, grant, question, judgement)
        self._tell("asked", made)
        return made

    def _live(self, grant: str, digest: bytes, judgement: Judgement) -> Approval | None:
        rows = self._store.rows(
            f"{_SELECT} WHERE grant_id = ? AND digest = ? AND channel = ? AND persons = ? "
            "AND state IN (?, ?) AND expires > ?",
            (grant, digest, judgement.channel, judgement.persons, *_LIVE, self._now()),
        )
        return self._approval(rows[0]) if rows else None

    def _bound(self, grant: str) -> None:
        now = self._now()
        waiting = self._store.rows(
            "SELECT count(*), min(expires) FROM approvals "
            "WHERE grant_id = ? AND state = 'waiting' AND expires > ?",
            (grant, now),
        )[0]
        if waiting[0] >= self._most:
            raise Limited(
                "approvals_waiting",
                f"{waiting[0]} questions of this client wait for a person already",
                hint="A person must answer some first, on the host (pvemcp approvals list) or the "
                "approval page.",
                wait=max(waiting[1] - now, 1.0),
            )
        old = "SELECT id FROM approvals WHERE expires < ?"
        self._store.write(f"DELETE FROM decisions WHERE approval IN ({old})", (now - KEEP,))  # noqa: S608
        self._store.write("DELETE FROM approvals WHERE expires < ?", (now - KEEP,))

    def _insert(self, call: Call, grant: str, question: Question, judgement: Judgement) -> Approval:
        now = self._now()
        plan = json.dumps(
            {
                "text": question.text, "writes": list(question.writes),
                "brief": list(question.brief),
            }
        )  # fmt: skip
        who = call.principal
        row = (
            f"ap-{secrets.token_hex(5)}",
            question.digest,
            grant,
            who.name,
            who.address,
            call.client,
            question.tool,
            json.dumps(question.arguments, default=str),
            call.id,
            plan,
            now,
            now + self._ttl,
            judgement.channel,
            judgement.persons,
            question.confirm,
            judgement.rule,
            "waiting",
            "",
        )
        self._store.write(_INSERT, row)
        return self._approval(row)

    def get(self, id_: str) -> Approval:
        """Return one approval. Raises Missing."""
        rows = self._store.rows(f"{_SELECT} WHERE id = ?", (id_,))
        if not rows:
            raise Missing(
                f"there is no approval {id_[:40]}", hint="List them: pvemcp approvals list."
            )
        return self._approval(rows[0])

    def all(self, *, live: bool = True, limit: int = 200) -> list[Approval]:
        """Return approvals, newest first; with `live` only those that wait or may still be used."""
        where = "WHERE state IN (?, ?) AND expires > ?" if live else "WHERE ? != ? AND ? >= 0"
        rows = self._store.rows(
            f"{_SELECT} {where} ORDER BY created DESC LIMIT ?", (*_LIVE, self._now(), limit)
        )
        return [self._approval(row) for row in rows]

    def approve(self, id_: str, person: Person, *, typed: str = "", reason: str = "") -> Approval:
        """Say yes. Raises Invalid when what must be typed is not, Denied for a wrong channel, and
        Conflict when it no longer waits or this person has said yes before.
        """
        with self._store.whole():
            found = self._answerable(id_, person)
            if found.confirm and typed.strip() != found.confirm:
                raise Invalid(
                    f"to approve {id_}, type {found.confirm}: that is what would be lost",
                    hint="Nothing was approved.",
                )
            self._decide(found, person, "approve", reason)
            yes = sum(d.verdict == "approve" for d in found.decisions) + 1
            if yes >= found.persons:
                self._store.write("UPDATE approvals SET state = 'approved' WHERE id = ?", (id_,))
        return self._told("approved", id_)

    def deny(self, id_: str, person: Person, *, reason: str = "") -> Approval:
        """Say no: nobody can say yes any more. Raises Conflict when it no longer waits."""
        with self._store.whole():
            found = self._answerable(id_, person, denying=True)
            self._decide(found, person, "deny", reason)
            self._store.write("UPDATE approvals SET state = 'denied' WHERE id = ?", (id_,))
        return self._told("denied", id_)

    def take(self, id_: str, *, grant: str, digest: bytes, call: str) -> Approval:
        """Use an approval for a call, once. Raises Denied with the reason when it is of no use."""
        with self._store.whole():
            found = self.get(id_)
            if found.grant != grant:
                raise Denied(f"the approval {id_} was not given to this client")
            problem = _unusable(found)
            if not problem and found.digest != digest:
                problem = "was for another plan: the arguments or the target are not what they were"
            if not problem:
                sql = "UPDATE approvals SET state = 'used', used_by = ? WHERE id = ?"
                self._store.write(sql, (call, id_))
        if problem:
            self._tell("refused", found, why=problem)
            raise Denied(
                f"the approval {id_} {problem}",
                hint="Make the call without it: a person is asked anew.",
            )
        return self._told("used", id_)

    def _answerable(self, id_: str, person: Person, *, denying: bool = False) -> Approval:
        found = self.get(id_)
        if found.state != "waiting" and not (denying and found.state == "approved"):
            raise Conflict(f"the approval {id_} is {found.state}", hint="It cannot be changed.")
        if person.channel == "client" and found.channel != "any" and not denying:
            raise Denied(f"the policy wants {id_} answered by a person on the host or the page")
        if person.channel != "host" and found.channel == "host" and not denying:
            raise Denied(
                f"{id_} is a command as root: only root can approve it, on the host itself",
                hint=f"There: pvemcp approvals approve {id_}.",
            )
        said = any(d.person == person.name and d.verdict == "approve" for d in found.decisions)
        if said and not denying:
            raise Conflict(
                f"{person.name} has approved {id_} already",
                hint=f"It needs {found.persons} different persons.",
            )
        return found

    def _decide(self, found: Approval, person: Person, verdict: str, reason: str) -> None:
        self._store.write(
            "INSERT OR REPLACE INTO decisions (approval, person, channel, verdict, reason, time) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                found.id,
                person.name,
                person.channel,
                verdict,
                redact_text(reason)[:500],
                self._now(),
            ),
        )

    def _told(self, kind: str, id_: str) -> Approval:
        found = self.get(id_)
        self._tell(kind, found)
        return found

    def _tell(self, kind: str, found: Approval, **more: str) -> None:
        last = found.decisions[-1] if found.decisions else None
        about = {
            "approval": found.id,
            "tool": found.tool,
            "client": found.client,
            "grant": found.grant,
            "call": found.used_by or found.call,
            "rule": found.rule,
            **({"by": found.by} if found.by else {}),
            **({"reason": last.reason} if last and last.reason else {}),
            **more,
        }
        self._event(f"approval {kind}", about)

    def _approval(self, row: tuple[Any, ...]) -> Approval:
        values = dict(zip(_COLUMNS.split(", "), row, strict=True))
        plan = json.loads(values["plan"])
        state: State = values["state"]
        if state in _LIVE and values["expires"] <= self._now():
            state = "expired"
        rows = self._store.rows(
            "SELECT person, channel, verdict, reason, time FROM decisions WHERE approval = ? "
            "ORDER BY time",
            (values["id"],),
        )
        return Approval(
            id=values["id"],
            digest=values["digest"],
            grant=values["grant_id"],
            client=values["client"],
            address=values["address"],
            mcp_client=values["mcp_client"],
            tool=values["tool"],
            arguments=json.loads(values["arguments"]),
            call=values["call_id"],
            text=plan["text"],
            brief=tuple(plan.get("brief", ())),
            writes=tuple(plan["writes"]),
            created=values["created"],
            expires=values["expires"],
            channel=values["channel"],
            persons=values["persons"],
            confirm=values["confirm"],
            rule=values["rule"],
            state=state,
            used_by=values["used_by"],
            decisions=tuple(Decision(*each) for each in rows),
        )


def _unusable(found: Approval) -> str:
    match found.state:
        case "approved":
            return ""
        case "waiting":
            return "still waits for a person"
        case "used":
            return f"was used already, by the call {found.used_by}"
        case "denied":
            said = found.decisions[-1].reason if found.decisions else ""
            return f"was refused by a person{f', who says: {said}' if said else ''}"
        case state:
            return f"is {state}"
