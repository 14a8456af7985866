"""Freezes: a person, or the service itself, has stopped changes; of one client or of all.

They stand in the database, so that the command line, the approval page and a restart agree. Every
step looks there, but for reads a moment after another one of the same call.

Each belongs to the node on which it was made. Other nodes of the cluster send theirs (see
peers/spread.py); a freeze that holds is any of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pvemcp.access.events import Event, untold
from pvemcp.access.grants import CLUSTER
from pvemcp.call import Call, Effect
from pvemcp.errors import Denied, Missing
from pvemcp.redaction import redact_text
from pvemcp.store import Store

MODES = ("read-only", "all")
"""What still goes through: reads, or nothing at all."""
EVERYONE = ""
MOMENT = 0.01
"""Seconds in which the reads of one call do with one look."""
HERE = ""
"""The origin of a freeze that was made on this node."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """One freeze. `client` is a grant's name, empty for all; `since` seconds since the epoch.

    `origin` is the node that made it, empty for this one; `grant` the id of a client that the
    cluster shares, which is the same on every node.
    """

    client: str
    mode: str
    by: str
    reason: str
    since: float
    origin: str = HERE
    grant: str = ""

    def __str__(self) -> str:
        what = ("changes", "are") if self.mode == "read-only" else ("everything", "is")
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(self.since))
        place = f" on {self.origin}" if self.origin else ""
        why = f": {self.reason}" if self.reason else ""
        who = _who(self.client)
        return f"{what[0]} of {who} {what[1]} frozen since {when} by {self.by}{place}{why}"

    @property
    def remedy(self) -> str:
        """How a person ends it: the command, and on which node."""
        client = self.client.removesuffix(f" of {self.origin}")
        command = f"pvemcp thaw{f' --client {client}' if client else ''}"
        return f"{command}, on {self.origin}" if self.origin else command


class Freezes:
    """The freezes that one service knows."""

    def __init__(
        self,
        store: Store,
        *,
        event: Event = untold,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._event = event
        self._now = now
        self._version: tuple[int, int] | None = None
        self._kept: list[Freeze] = []
        self._looked = ("", float("-inf"))
        """For which call, and when."""

    def all(self) -> list[Freeze]:
        """Return every freeze that holds, that of everyone first. Read anew after any write."""
        version = self._store.version()
        if version != self._version:
            found = self._rows("released IS NULL")
            if found:
                sql = "SELECT id, name FROM grants WHERE origin = ?"
                found = _named(found, dict(self._store.rows(sql, (CLUSTER,))))
            self._kept = sorted(found, key=lambda one: (one.client, one.origin))
            self._version = version
        return self._kept

    def freeze(self, mode: str, *, client: str = EVERYONE, by: str, reason: str = "") -> Freeze:
        """Freeze a client or all; a freeze made here that is there already becomes this one."""
        reason = redact_text(reason)
        made = Freeze(client, mode, by[:100], reason[:500], self._now())
        self._put(made)
        self._store.changed()
        self._event("freeze", {"client": client, "mode": mode, "by": by, "reason": reason})
        return made

    def thaw(self, *, client: str = EVERYONE, by: str) -> None:
        """End a freeze that was made here. Raises Missing when there is none of that client."""
        gone = self._store.write(
            "DELETE FROM freezes WHERE client = ? AND origin = ?", (client, HERE)
        )
        self._store.changed()
        if not gone:
            raise self._nothing(client)
        self._event("thaw", {"client": client, "by": by})

    def release(self, *, client: str = EVERYONE, by: str) -> list[Freeze]:
        """End on this node alone what other nodes froze; return that. Raises Missing.

        It stays so when such a node says it again; a new freeze of it counts.
        """
        found = [each for each in self.all() if each.origin and each.client == client]
        if not found:
            raise Missing(
                f"no other node has frozen {_who(client)}",
                hint="pvemcp freeze --status shows what is frozen.",
            )
        for each in found:
            self._store.write(
                "UPDATE freezes SET released = ? WHERE origin = ? AND grant_id = ?",
                (self._now(), each.origin, each.grant),
            )
        self._store.changed()
        for each in found:
            about = {"client": client, "by": by, "origin": each.origin}
            self._event("thaw", {**about, "reason": "on this node alone"})
        return found

    def own(self) -> list[Freeze]:
        """Return those of this node that are about other nodes too: all but of its own clients."""
        mine = (each for each in self.all() if not each.origin)
        return [each for each in mine if each.grant or each.client == EVERYONE]

    def made_on(self, origin: str) -> list[Freeze]:
        """Return what a node has said, as it said it."""
        return self._rows("origin = ?", origin)

    def take(self, origin: str, given: Sequence[Freeze]) -> int:
        """Make the freezes of another node these, and no others.

        Returns how many of them were ended here by hand.
        """
        given = [replace(each, origin=origin) for each in given]
        before = self.made_on(origin)
        made = [each for each in given if each not in before]
        gone = [each for each in before if each not in given]
        if made or gone:
            with self._store.whole():
                for each in gone:
                    self._store.write(
                        "DELETE FROM freezes WHERE client = ? AND origin = ?",
                        (each.client, origin),
                    )
                for each in made:
                    self._put(each)
            self._store.changed()
        self._tell(origin, made, gone)
        return len(self._rows("origin = ? AND released IS NOT NULL", origin))

    def of(self, client: str) -> Freeze | None:
        """Return the strictest freeze that holds for a client."""
        return _strictest(self.all(), client)

    def stops(self, client: str, effect: Effect) -> str:
        """Say why something of a client with this effect may not go on; "" when it may."""
        found = self._stopping(client, effect)
        return str(found) if found is not None else ""

    def check(self, call: Call, effect: Effect) -> None:
        """Raise Denied when a freeze is in the way of a step with this effect."""
        for_call, at = self._looked
        if effect is Effect.READ and for_call == call.id and time.monotonic() - at < MOMENT:
            return
        found = self._stopping(call.principal.name, effect)
        if found is None:
            self._looked = (call.id, time.monotonic())
            return
        raise Denied(
            f"{found}. This step was not done.",
            hint=f"A person thaws it on the host: {found.remedy}.",
        )

    def _stopping(self, client: str, effect: Effect) -> Freeze | None:
        found = self.of(client)
        reads = found is not None and found.mode == "read-only" and effect is Effect.READ
        return None if reads else found

    def _rows(self, where: str, *parameters: str) -> list[Freeze]:
        found = self._store.rows(
            "SELECT client, mode, person, reason, since, origin, grant_id FROM freezes "  # noqa: S608
            f"WHERE {where}",
            parameters,
        )
        return [Freeze(*row) for row in found]

    def _put(self, made: Freeze) -> None:
        self._store.write(
            "INSERT OR REPLACE INTO freezes "
            "(client, mode, person, reason, since, origin, grant_id) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (made.client, made.mode, made.by, made.reason, made.since, made.origin, made.grant),
        )

    def _tell(self, origin: str, made: Sequence[Freeze], gone: Sequence[Freeze]) -> None:
        thawed = {each.client for each in gone} - {each.client for each in made}
        for client in sorted(thawed):
            self._event("thaw", {"client": client, "by": f"node {origin}", "origin": origin})
        for each in made:
            about = {"client": each.client, "mode": each.mode, "by": each.by}
            self._event("freeze", {**about, "reason": each.reason, "origin": origin})

    def _nothing(self, client: str) -> Missing:
        elsewhere = sorted({one.origin for one in self.all() if one.client == client})
        if not elsewhere:
            return Missing(
                f"{f'client {client}' if client else 'the service'} is not frozen",
                hint="pvemcp freeze --status shows what is.",
            )
        nodes, option = ", ".join(elsewhere), f" --client {client}" if client else ""
        return Missing(
            f"{_who(client)} was not frozen here, but on {nodes}",
            hint=f"Run pvemcp thaw{option} on {nodes}. If that node cannot be reached any more: "
            f"pvemcp thaw{option} --here.",
        )


def _strictest(held: Sequence[Freeze], client: str) -> Freeze | None:
    found = [each for each in held if each.client in (EVERYONE, client)] if held else []
    return max(found, key=lambda each: MODES.index(each.mode), default=None)


def _named(found: Sequence[Freeze], shared: dict[str, str]) -> list[Freeze]:
    """Give freezes their clients as this node knows them: by ids, since names may differ.

    A client that is not known here has a name that no grant can have.
    """
    ids = {name: id_ for id_, name in shared.items()}

    def named(each: Freeze) -> Freeze:
        if each.client == EVERYONE:
            return each
        if not each.origin:
            return replace(each, grant=ids.get(each.client, ""))
        return replace(each, client=shared.get(each.grant, f"{each.client} of {each.origin}"))

    return [named(each) for each in found]


def _who(client: str) -> str:
    return f"client {client}" if client else "every client"
