"""The clients that all nodes of a cluster share: one file of root's, taken over into the database.

The file lies in the cluster's file system, and a copy of it in the mirror. What was taken over last
stays in force while the file is missing or damaged: the start needs no quorum, and a broken file
locks nobody out and lets nobody in. Only a whole file that lists fewer clients ends one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvemcp.access.grants import CLUSTER, NAME_FORMAT
from pvemcp.call import Effect
from pvemcp.errors import Misconfigured, Unavailable
from pvemcp.store import Store

log = logging.getLogger(__name__)

FILE = "clients.json"
FORMAT = 1
SERIAL = "shared clients"
"""Where the database keeps the serial of what was taken over last."""
LIMIT = 1 << 20
"""Bytes: what a file in /etc/pve can hold."""
PERIOD = 1.0
"""Seconds between two looks at the file."""
LAG = 10.0
"""Seconds that the mirror's copy may be behind a change that root made on this node."""
_ID = re.compile(r"[0-9a-f]{16}")
_HASH = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[^\s@!=]+@[^\s@!=]+![^\s@!=]+")
_FIELDS = (
    *("id", "name", "hash", "ceiling", "created", "expires", "token_id", "token_secret"),
    *("previous_hash", "previous_until"),
)
REPAIR = "As root on any node, look at it: /etc/pve/priv/pvemcp/clients.json."


@dataclass(frozen=True, slots=True)
class SharedClient:
    """One client as the file holds it. Hashes are SHA-256 in hexadecimal; times are since 1970."""

    id: str
    name: str
    hash: str
    ceiling: str
    created: float
    expires: float | None = None
    token_id: str | None = None
    token_secret: str | None = field(default=None, repr=False)
    previous_hash: str | None = None
    previous_until: float | None = None


@dataclass(frozen=True, slots=True)
class SharedClients:
    """What the file holds. `serial` grows with every change."""

    serial: int = 0
    clients: tuple[SharedClient, ...] = ()


def parse(content: bytes) -> SharedClients:
    """Read the file. Raises Misconfigured, naming the first thing that is wrong."""
    try:
        found = json.loads(content) if len(content) <= LIMIT else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("clients"), list):
        raise _damaged("it is not whole" if content else "it is empty")
    if found.get("format") != FORMAT:
        raise _damaged(f"its format is {found.get('format')!r:.20}, and {FORMAT} is known here")
    serial = found.get("serial")
    if type(serial) is not int or not 0 < serial < 1 << 62:
        raise _damaged("its serial is no number")
    clients = tuple(map(_client, found["clients"]))
    for what in ("id", "name", "hash"):
        values = [getattr(client, what) for client in clients]
        if len(set(values)) != len(values):
            raise _damaged(f"two clients have the same {what}")
    return SharedClients(serial, clients)


def encode(shared: SharedClients) -> bytes:
    """Return the file's content."""
    rows = [{name: getattr(client, name) for name in _FIELDS} for client in shared.clients]
    whole = {"format": FORMAT, "serial": shared.serial, "clients": rows}
    return json.dumps(whole, indent=1).encode() + b"\n"


def _client(row: Any) -> SharedClient:
    if not isinstance(row, dict):
        raise _damaged("a client is no table")
    name = str(row.get("name"))[:80]
    checks: Mapping[str, bool] = {
        "id": _matches(_ID, row.get("id")),
        "name": _matches(NAME_FORMAT, row.get("name")),
        "hash": _matches(_HASH, row.get("hash")),
        "ceiling": row.get("ceiling") in {str(effect) for effect in Effect},
        "created": _is_time(row.get("created")),
        "expires": row.get("expires") is None or _is_time(row["expires"]),
        "previous_hash": row.get("previous_hash") is None or _matches(_HASH, row["previous_hash"]),
        "previous_until": row.get("previous_until") is None or _is_time(row["previous_until"]),
        "token_id": row.get("token_id") is None or _matches(_TOKEN, row["token_id"]),
        "token_secret": (row.get("token_id") is None)
        is not isinstance(row.get("token_secret"), str),
    }
    if wrong := [key for key, good in checks.items() if not good]:
        raise _damaged(f"the client {name}: {', '.join(wrong)}")
    values: dict[str, Any] = {key: row.get(key) for key in _FIELDS}
    return SharedClient(**values)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e11  # type: ignore[operator]


def _damaged(why: str) -> Misconfigured:
    return Misconfigured(f"the cluster's list of clients is damaged: {why}", hint=REPAIR)


class Shared:
    """Keeps the database as the file is. `problem` says why the file does not count now."""

    def __init__(self, store: Store, path: Path, changed: Callable[[], None]) -> None:
        self._store = store
        self._path = path
        self._changed = changed
        self._seen: tuple[int, ...] = ()
        self._older_since = 0.0
        self.problem = ""

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            try:
                self.look()
            except Exception:
                log.exception("the cluster's clients could not be taken over")
            await asyncio.sleep(PERIOD)

    def look(self) -> None:
        """Take the file over if it has changed. Never raises a Fault."""
        seen = self._stamp()
        if seen == self._seen:
            return
        try:
            self._say(self._taken_over())
            if not self._older_since:
                self._seen = seen
        except Unavailable as fault:
            self._say(fault.message)  # and again at the next look

    def _taken_over(self) -> str:
        """Take the file over; return why it does not count, if it does not. Raises Unavailable."""
        try:
            found = parse(self._path.read_bytes())
        except (OSError, Misconfigured):
            return doubt(self._store, self._path)
        if self._waits_for_newer(found):
            return ""
        take_over(self._store, found)
        self._changed()
        return ""

    def _waits_for_newer(self, found: SharedClients) -> bool:
        """Whether a copy lags behind what root changed here; one that stays is a restore."""
        rows = self._store.rows("SELECT value FROM state WHERE name = ?", (SERIAL,))
        if not rows or found.serial >= int(rows[0][0]):
            self._older_since = 0.0
            return False
        self._older_since = self._older_since or time.monotonic()
        if time.monotonic() - self._older_since < LAG:
            return True
        log.warning("%s is older than the clients known here, and counts again", self._path)
        self._older_since = 0.0
        return False

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return (0,)
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem


def doubt(store: Store, path: Path) -> str:
    """Return why the file does not count now; empty when it does, or when nothing is shared.

    Raises Unavailable.
    """
    try:
        parse(path.read_bytes())
    except OSError as error:
        missing = f"{path}: {error.strerror}; the cluster's clients stay as they were"
        return missing if _known(store) else ""
    except Misconfigured as fault:
        return f"{fault.message}; the clients of before stay in force"
    return ""


def take_over(store: Store, shared: SharedClients) -> None:
    """Make the shared grants of a database those of the file, as one change. Raises Unavailable."""
    clients = shared.clients
    wanted = {client.id for client in clients}
    with store.whole():
        store.write("REPLACE INTO state (name, value) VALUES (?, ?)", (SERIAL, str(shared.serial)))
        for gone in set(_known(store)) - wanted:
            store.write("DELETE FROM grants WHERE id = ?", (gone,))
        for client in clients:  # a name may have passed from one client to another
            name = f"{client.id}@cluster"
            store.write("UPDATE grants SET name = ? WHERE id = ?", (name, client.id))
        for client in clients:
            _put(store, client)
    store.changed()


def _known(store: Store) -> list[str]:
    return [str(row[0]) for row in store.rows("SELECT id FROM grants WHERE origin = ?", (CLUSTER,))]


def _put(store: Store, client: SharedClient) -> None:
    taken = store.rows("SELECT 1 FROM grants WHERE name = ? AND id <> ?", (client.name, client.id))
    if taken:
        log.warning(
            "a grant of this node alone has the name of the cluster's client %s, "
            "which is shown as %s@cluster here",
            client.name,
            client.name,
        )
    values = {
        **{name: getattr(client, name) for name in _FIELDS},
        "name": f"{client.name}@cluster" if taken else client.name,
        "hash": bytes.fromhex(client.hash),
        "previous_hash": bytes.fromhex(client.previous_hash) if client.previous_hash else None,
        "origin": CLUSTER,
    }
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    updates = ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
    store.write(
        f"INSERT INTO grants ({columns}) VALUES ({marks}) "  # noqa: S608 - names of columns
        f"ON CONFLICT (id) DO UPDATE SET {updates}",
        tuple(values.values()),
    )
