"""The chain of the audit: what has been recorded cannot be changed, taken out or put in unseen.

Every record holds a keyed digest (HMAC-SHA256) over the record before it and itself. A record of
a call holds the digest of its row, one of an event the event itself. The key is a file beside the
database; whoever changes the database without it breaks the chain at that place. What was cut off
at the end shows against an anchor: number and digest of the newest record, written to the journal
and, if set, to a file, from time to time. Several processes write the same chain.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvemcp.errors import Misconfigured, Unavailable
from pvemcp.store import Store

KEY_FILE = "audit.key"
KEY_BYTES = 32
ANCHOR = "audit anchor"
"""The event of a line that tells the head."""
START, OPENED, CLOSED = "start", "opened", "closed"

quoted = json.encoder.encode_basestring_ascii
"""Writes a string as JSON."""
_WRITE: Mapping[type, Callable[[Any], str]] = {str: quoted, float: float.__repr__}
COLUMNS = (
    "id, process, time, client, grant_id, address, mcp_client, tool, arguments, steps, outcome, "
    "error, ms, about"
)
"""Of a row of `calls`, in the order of its digest."""
AT = {name: place for place, name in enumerate(COLUMNS.split(", "))}
"""Where each column is in a row."""
_INTO = "INTO chain (number, kind, time, call, body, mac)"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record: its number and its MAC as hexadecimal."""

    number: int
    mac: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is no call: an approval, a freeze, a grant. `time` is since the epoch."""

    number: int
    time: float
    kind: str
    about: Mapping[str, Any]


def load_key(folder: Path) -> bytes:
    """Return the key of the chain, made on first use. Raises Misconfigured and Unavailable."""
    path = folder / KEY_FILE
    try:
        return _read_key(path)
    except FileNotFoundError:
        _make_key(path)
        return _read_key(path)


def _read_key(path: Path) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise Misconfigured(
                    f"Others can read {path}, the key of the audit.",
                    hint=f"Run: chmod 0600 {path}. Whoever has read it can forge the audit.",
                )
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(
            f"The key of the audit, {path}, cannot be read: {error.strerror}.",
            hint="Run as root or as the user of the service.",
        ) from None
    if len(key) != KEY_BYTES:
        raise Misconfigured(
            f"{path} is not a key of the audit.",
            hint="Put it back from a copy. Without it the records before cannot be verified; move "
            "it away and a new chain begins.",
        )
    return key


def _make_key(path: Path) -> None:
    """Make the key, whole or not at all; of two processes at once one makes it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        place = path.parent.stat()
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            if os.geteuid() == 0:  # made by the administrator, used by the service's user
                os.fchown(file.fileno(), place.st_uid, place.st_gid)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise Unavailable(
            f"The key of the audit, {path}, cannot be made: {error.strerror}.",
            hint="Make room, or run as the user of the service.",
        ) from None


class Chain:
    """Appends to the chain of one database. Use it inside `Store.whole`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._key = load_key(store.path.parent)
        self._newest: tuple[int, bytes] = (0, b"")
        """Number and MAC of the newest record, as far as this process knows."""

    def call(self, kind: str, number: int, row: str) -> None:
        """Append what a row of `calls` is now, as `row_text`: `kind` is OPENED or CLOSED."""
        self._append(kind, number, digest_of(row))

    def closed(self, rows: Sequence[tuple[int, str]]) -> None:
        """Append the numbers and texts of many closed calls, in half the time of `call`."""
        if not rows:
            return
        self.call(CLOSED, *rows[0])  # now the newest record is known
        records = []
        number, mac = self._newest
        for call, row in rows[1:]:
            number, body, moment = number + 1, digest_of(row), time.time()
            mac = self.mac(mac, number, CLOSED, moment, call, body)
            records.append((number, CLOSED, moment, call, body, mac))
        self.store.write_all(f"INSERT {_INTO} VALUES (?, ?, ?, ?, ?, ?)", records)  # noqa: S608
        self._newest = (number, mac)

    def event(self, kind: str, about: Mapping[str, Any]) -> None:
        """Append an event."""
        self._append(kind, None, canonical(about))

    def head(self) -> Head | None:
        """Return the newest record."""
        rows = self.store.rows("SELECT number, mac FROM chain ORDER BY number DESC LIMIT 1")
        return Head(rows[0][0], rows[0][1].hex()) if rows else None

    def events(self, *, since: float = 0.0, limit: int = 1000) -> list[Event]:
        """Return the newest events, oldest first."""
        rows = self.store.rows(
            "SELECT number, time, kind, body FROM chain WHERE call IS NULL AND time >= ? "
            "ORDER BY number DESC LIMIT ?",
            (since, limit),
        )
        return [Event(n, at, kind, json.loads(body)) for n, at, kind, body in reversed(rows)]

    def told(self, *kinds: str) -> list[Event]:
        """Return all events of these kinds, oldest first."""
        marks = ", ".join("?" * len(kinds))
        rows = self.store.rows(
            f"SELECT number, time, kind, body FROM chain WHERE kind IN ({marks}) "  # noqa: S608
            "ORDER BY number",
            kinds,
        )
        return [Event(n, at, kind, json.loads(body)) for n, at, kind, body in rows]

    def cut(self, through: int) -> None:
        """Forget the oldest records, once the calls up to that number are deleted.

        What stays must still verify: the MAC before it, and up to where calls are gone, are kept
        and sealed. Records are cut up to the first that is about a call which stays.
        """
        keep = self.store.rows("SELECT min(number) FROM chain WHERE call > ?", (through,))[0][0]
        last = self.store.rows(
            "SELECT number, mac FROM chain WHERE ? IS NULL OR number < ? "
            "ORDER BY number DESC LIMIT 1",
            (keep, keep),
        )
        base = self.base()
        number, mac = last[0] if last else base[:2]
        if keep is None and last:  # the newest record stays, or the chain would begin anew
            rows = self.store.rows(
                "SELECT number, mac FROM chain WHERE number < ? ORDER BY number DESC LIMIT 1",
                (number,),
            )
            number, mac = rows[0] if rows else base[:2]
        through = max(through, base[2])
        sealed = self._seal(number, mac, through)
        self.store.write("DELETE FROM chain WHERE number <= ?", (number,))
        self.store.write(
            "INSERT OR REPLACE INTO chain_base (only, number, mac, through, seal) "
            "VALUES (1, ?, ?, ?, ?)",
            (number, mac, through, sealed),
        )

    def base(self) -> tuple[int, bytes, int]:
        """Return number and MAC before the oldest record, and up to which call all are deleted."""
        rows = self.store.rows("SELECT number, mac, through FROM chain_base")
        return rows[0] if rows else (0, b"", 0)

    def sealed(self) -> bool:
        """Whether the base is as `cut` left it."""
        rows = self.store.rows("SELECT number, mac, through, seal FROM chain_base")
        return not rows or hmac.compare_digest(rows[0][3], self._seal(*rows[0][:3]))

    def _seal(self, number: int, mac: bytes, through: int) -> bytes:
        return hmac.digest(self._key, f"base {number} {mac.hex()} {through}".encode(), "sha256")

    def line(self, text: str) -> bytes:
        """Return the MAC of a line that is yet to come into the chain (see tail.py)."""
        return hashlib.blake2b(
            text.encode(), key=self._key, digest_size=32, person=b"tail"
        ).digest()

    def _append(self, kind: str, call: int | None, body: str) -> None:
        if self._follow(*self._newest, kind, call, body):
            return
        rows = self.store.rows("SELECT number, mac FROM chain ORDER BY number DESC LIMIT 1")
        if rows:  # another process, or a change that was not committed
            self._newest = rows[0]
            self._follow(*self._newest, kind, call, body)
            return
        number, before, _ = self.base()
        if not number and kind != START:
            self._append(START, None, self._beginning(call))
            self._append(kind, call, body)
            return
        self._insert("VALUES (?, ?, ?, ?, ?, ?)", number, before, kind, call, body)

    def _follow(self, number: int, before: bytes, kind: str, call: int | None, body: str) -> bool:
        """Append after a record, if that one is there and the newest."""
        after = "SELECT ?, ?, ?, ?, ?, ? FROM chain WHERE number = ? AND mac = ?"
        return number > 0 and self._insert(after, number, before, kind, call, body)

    def _insert(
        self, what: str, number: int, before: bytes, kind: str, call: int | None, body: str
    ) -> bool:
        moment = time.time()
        mac = self.mac(before, number + 1, kind, moment, call, body)
        row = (number + 1, kind, moment, call, body, mac)
        known = (number, before) if "WHERE" in what else ()
        if not self.store.write(f"INSERT OR IGNORE {_INTO} {what}", (*row, *known)):
            return False
        self._newest = (number + 1, mac)
        return True

    def _beginning(self, call: int | None) -> str:
        """Say which calls were there before the chain: all but the one that begins it."""
        through = self.store.rows("SELECT max(number) FROM calls WHERE ? IS NULL OR number < ?",
                                  (call, call))[0][0] or 0  # fmt: skip
        return canonical({"through": through, "digest": self.before(through)})

    def before(self, through: int) -> str:
        """Return the digest of the calls that were there before the chain began."""
        digest = hashlib.sha256()
        for row in self.store.rows(
            f"SELECT {COLUMNS} FROM calls WHERE number <= ? ORDER BY number",  # noqa: S608
            (through,),
        ):
            digest.update(digest_of(row_text(row)).encode())
        return digest.hexdigest()

    def mac(
        self, before: bytes, number: int, kind: str, moment: float, call: int | None, body: str
    ) -> bytes:
        """Return the MAC of a record after another."""
        said = f"{before.hex()} {number} {kind} {moment!r} {call} {body}"
        return hmac.digest(self._key, said.encode("utf-8", "surrogatepass"), "sha256")


def digest_of(text: str) -> str:
    """Return the digest of a row of `calls`, which is given as `row_text`."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str
).encode
"""Writes a value in the one way that is digested."""


def row_text(row: Sequence[Any]) -> str:
    """Return the COLUMNS of a call as `canonical` writes them."""
    return joined(fields(row))


def fields(row: Sequence[Any]) -> list[str]:
    """Return each column as `canonical` writes it, in a tenth of its time."""
    return [_WRITE.get(type(value), canonical)(value) for value in row]


def joined(columns: Sequence[str]) -> str:
    """Return the text of a row from its `fields`."""
    return f"[{','.join(columns)}]"
