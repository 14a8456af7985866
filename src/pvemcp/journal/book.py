"""The journal's rows: written before a change is sent, closed when its end is known."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.audit import identity, is_running
from pvemcp.call import Call, Intent
from pvemcp.errors import Fault, Missing, Unavailable
from pvemcp.journal.change import Change, Recipe, State, never, recipe_of
from pvemcp.journal.sealing import seal, unseal
from pvemcp.redaction import Known, redact, redact_text
from pvemcp.store import Store

UNFINISHED = "unfinished: may have happened"
PREFIX = "ch-"
KEPT = 256 * 1024
"""Characters of JSON of one state that are kept."""

LISTED = "change_list shows them; on the host: pvemcp changes list."

_COLUMNS = (
    "id, call_id, process, time, ended, client, grant_id, pve_user, tool, verb, path, template, "
    "effect, node, shown, target, outcome, error, upid, undo, undoes, undone_by, sealed"
)
_NAMES = _COLUMNS.split(", ")
_INSERT = f"INSERT INTO changes ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM changes"  # noqa: S608


class Book:
    """The journal in the database. `known` masks values that are known to be secret."""

    def __init__(
        self, store: Store, known: Known = str, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._known = known
        self._now = now
        self._key = b""
        self._process = identity(os.getpid())

    def open(self, call: Call, intent: Intent, target: str, before: State | None) -> str:
        """Write the row of a change that is about to be sent, and return its id.

        Raises Unavailable when that is impossible; the change must then not be sent.
        """
        who, id_ = call.principal, f"{PREFIX}{secrets.token_hex(5)}"
        shown = redact({k: v for k, v in intent.params.items() if k != "node"}, self._known)
        sealed = {"params": dict(intent.params), "before": before, "after": None, "recipe": None}
        row = (
            id_, call.id, self._process, self._now(), None, who.name, who.owner,
            who.token.id, call.tool, intent.verb, intent.path, intent.template,
            str(intent.effect), intent.node, json.dumps(shown), target, "open", "", "",
            "not known yet", call.undoes, "", self._sealed(id_, sealed),
        )  # fmt: skip
        try:
            self._store.write(_INSERT, row)
        except Fault as fault:
            raise Unavailable(
                f"Refused before it was sent: the journal of changes cannot be written. "
                f"{fault.message}",
                hint=fault.hint,
            ) from None
        return id_

    def running(self, id_: str, upid: str) -> None:
        """Note that PVE does it in a task."""
        sql = "UPDATE changes SET outcome = 'running', upid = ? WHERE id = ?"
        self._store.write(sql, (upid, id_))

    def began(self, upid: str, *, grant: str) -> bool:
        """Whether a change of this grant began the task."""
        sql = "SELECT 1 FROM changes WHERE upid = ? AND grant_id = ? LIMIT 1"
        return bool(self._store.rows(sql, (upid, grant)))

    def close(
        self, id_: str, outcome: str, *, error: str = "", after: State | None, recipe: Recipe
    ) -> None:
        """Write down how a change ended, the state after it, and how it is taken back."""
        (row,) = self._store.rows("SELECT sealed FROM changes WHERE id = ?", (id_,))
        if recipe.lost or recipe.requests:
            recipe = self._within(recipe)
        content = {**self._opened(id_, row[0]), "after": after, "recipe": recipe.as_json()}
        self._store.write(
            "UPDATE changes SET outcome = ?, error = ?, ended = ?, undo = ?, sealed = ? "
            "WHERE id = ?",
            (
                outcome,
                redact_text(error, self._known),
                self._now(),
                _one_line(recipe, self._known),
                self._sealed(id_, content),
                id_,
            ),
        )

    def undone(self, change: Change, call: Call) -> None:
        """Note that a change was taken back; what that one had taken back stands again."""
        with self._store.whole():
            sql = "UPDATE changes SET undone_by = ? WHERE id = ?"
            self._store.write(sql, (call.id, change.id))
            if change.undoes:
                self._store.write(sql, ("", change.undoes))

    def get(self, id_: str, *, grant: str | None = None) -> Change:
        """Return one change; with a grant, only its own. Raises Missing."""
        rows = self._store.rows(
            f"{_SELECT} WHERE id = ? AND (? IS NULL OR grant_id = ?)", (id_, grant, grant)
        )
        if not rows:
            raise Missing(f"there is no change {id_[:40]}", hint=LISTED)
        return self._change(rows[0])

    def list(
        self,
        *,
        grant: str | None = None,
        since: float = 0.0,
        target: str = "",
        call: str = "",
        limit: int = 100,
    ) -> list[Change]:
        """Return the newest `limit` changes, newest first: of a grant, of a target, of a call."""
        rows = self._store.rows(
            f"{_SELECT} WHERE (? IS NULL OR grant_id = ?) AND time >= ? "
            "AND (? = '' OR target = ? OR target LIKE ? || ' %') AND (? = '' OR call_id = ?) "
            "ORDER BY number DESC LIMIT ?",
            (grant, grant, since, target, target, target, call, call, limit),
        )
        return [self._change(row) for row in rows]

    def _within(self, recipe: Recipe) -> Recipe:
        size = len(json.dumps(recipe.as_json(), default=str))
        return recipe if size <= KEPT else never(f"the way back has {size:,} characters")

    def _change(self, row: tuple[Any, ...]) -> Change:
        values = dict(zip(_NAMES, row, strict=True))
        outcome = values["outcome"]
        if outcome == "open" and not is_running(values["process"]):
            outcome = UNFINISHED
        content = self._opened(values["id"], values["sealed"])
        recipe = content["recipe"]
        return Change(
            **{name: values[name] for name in _SAME},
            call=values["call_id"],
            grant=values["grant_id"],
            user=values["pve_user"],
            shown=json.loads(values["shown"]),
            outcome=outcome,
            params=content["params"],
            before=content["before"],
            after=content["after"],
            recipe=recipe_of(recipe) if recipe else never("how it ended is not known"),
        )

    def _sealed(self, id_: str, content: Mapping[str, Any]) -> bytes:
        return seal(self._secret(), id_, content)

    def _opened(self, id_: str, sealed: bytes) -> dict[str, Any]:
        try:
            found: dict[str, Any] = unseal(self._secret(), id_, bytes(sealed))
        except ValueError as error:
            why = never(f"what was kept of it cannot be read: {error}").as_json()
            return {"params": {}, "before": None, "after": None, "recipe": why}
        return found

    def _secret(self) -> bytes:
        self._key = self._key or self._store.key("changes")
        return self._key


_SAME = (
    "id", "time", "ended", "client", "tool", "verb", "path", "template", "effect", "node",
    "target", "error", "upid", "undo", "undoes", "undone_by",
)  # fmt: skip


def kept(state: State | None) -> State | None:
    """Return a state that is small enough to be kept, or None."""
    return state if state is None or len(json.dumps(state, default=str)) <= KEPT else None


def _one_line(recipe: Recipe, known: Known) -> str:
    return redact_text(recipe.text(), known)[:500]
