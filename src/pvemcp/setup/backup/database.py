"""The database in a backup: a consistent copy of the running one, made and kept in memory.

Nothing of it is ever in a plain file but where it is used. The audit is large and the rest small,
so a backup holds all of the tables but, of the audit, only its newest row: its head.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pvemcp.errors import Invalid, Misconfigured, Missing
from pvemcp.migrations import MIGRATIONS
from pvemcp.setup.backup.archive import damaged
from pvemcp.store import BUSY_MS, FILE, migrate, refuse_strangers, translated

MOST = 512 * 1024**2
"""Bytes of a copy, which is in memory."""
_AUDIT = {"calls": "number"}
"""Tables of the audit, with the column that orders them."""
_CHAIN = ("chain", "chain_base")
"""The chain of the audit: its key is in no backup, so that it begins anew elsewhere."""
_OVER = (
    "DELETE FROM elevations",
    "UPDATE approvals SET expires = created WHERE state IN ('waiting', 'approved')",
    "UPDATE commits SET state = 'confirmed' WHERE state = 'waiting'",
)
"""Ends what was allowed for a while: it may have been used, denied, ended or confirmed since."""
_OF_THE_PROCESS = ("state",)
"""Says what runs now: restored, it would tell of a process that never ended."""


def snapshot(state: Path, *, whole_audit: bool) -> bytes:
    """Return the database as one file, while others write to it. Raises Missing, Unavailable."""
    with _reading(state / FILE) as source, closing(_empty()) as copy:
        for name in _tables(source):
            _copy(source, copy, name, whole=whole_audit)
        _finish(source, copy)
        return _serialized(copy)


def head(database: bytes) -> dict[str, Any]:
    """Return number, id and time of the newest call; empty without any."""
    with opened(database) as db:
        found = db.execute("SELECT number, id, time FROM calls ORDER BY number DESC LIMIT 1")
        row = found.fetchone()
    return dict(zip(("number", "id", "time"), row, strict=True)) if row else {}


def schema(database: bytes) -> int:
    """Return the version of the schema."""
    with opened(database) as db:
        return _version(db)


@contextmanager
def opened(database: bytes) -> Iterator[sqlite3.Connection]:
    """Open a copy of a serialized database, in memory. Raises Invalid when it is none."""
    with closing(_empty()) as db:
        try:
            db.deserialize(database)
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise damaged("its database is damaged")
            yield db
        except (sqlite3.Error, OverflowError, MemoryError):
            raise damaged("its database is damaged") from None


def brought_up_to_date(database: bytes, *, audit_of: Path | None) -> bytes:
    """Return a database of this version's schema, with the audit of the state folder `audit_of`.

    The audit of a host is never lost by a restore: where there is one, it stays. Raises
    Misconfigured for one of a newer pvemcp.
    """
    with opened(database) as db:
        found = _version(db)
        if found > len(MIGRATIONS) or found < 1:
            raise Misconfigured(
                f"The backup has schema {found}, this pvemcp knows {len(MIGRATIONS)}.",
                hint="Install the version that made it, or a newer one; nothing was changed.",
            )
        migrate(db, Path("the database of the backup"))
        if audit_of is not None:
            _take_audit(db, audit_of / FILE)
        return _serialized(db)


def settled(database: bytes, state: Path) -> bytes:
    """Return a database of this version as it may count now, in place of that of a state folder.

    What a person allowed for some minutes when the backup was made is over. What is frozen now
    stays frozen, and nothing else does.
    """
    with opened(database) as db:
        for statement in _OVER:
            db.execute(statement)
        if (state / FILE).exists():
            with _reading(state / FILE) as source:
                if "freezes" in _tables(source):
                    db.execute("DELETE FROM freezes")
                    _copy_rows(source, db, "freezes", whole=True)
        return _serialized(db)


def clients_in(state: Path) -> set[str]:
    """Return the names of the grants of a state folder; none when there is no database."""
    if not (state / FILE).exists():
        return set()
    with _reading(state / FILE) as db:
        return {str(name) for (name,) in db.execute("SELECT name FROM grants")}


def calls_in(state: Path) -> int:
    """Return how many calls the audit of a state folder has; 0 when there is no database."""
    if not (state / FILE).exists():
        return 0
    with _reading(state / FILE) as db:
        return int(db.execute("SELECT count(*) FROM calls").fetchone()[0])


def _take_audit(db: sqlite3.Connection, path: Path) -> None:
    with _reading(path) as source:
        if _version(source) > len(MIGRATIONS):
            raise Misconfigured(
                f"{path} was written by a newer pvemcp.", hint="Install that version first."
            )
        for name in (*_AUDIT, *_CHAIN):
            db.execute(f"DELETE FROM {_quoted(name)}")  # noqa: S608
            _copy_rows(source, db, name, whole=True, chain=True)


def _empty() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    return db


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database in one read transaction, which sees one moment of it."""
    if not path.exists():
        raise Missing(
            f"There is no database at {path}.",
            hint="The service makes it when it starts; correct PVEMCP_STATE_DIR if there is one.",
        )
    refuse_strangers(path)
    with (
        translated(path),
        closing(
            sqlite3.connect(
                f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_MS / 1000
            )
        ) as db,
    ):
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise Invalid(f"{path} is damaged.", hint="See pvemcp doctor.")
        yield db


def _tables(source: sqlite3.Connection) -> list[str]:
    found = source.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
    return [str(name) for (name,) in found if not str(name).startswith("sqlite_")]


def _copy(source: sqlite3.Connection, copy: sqlite3.Connection, name: str, *, whole: bool) -> None:
    [(sql,)] = source.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
    )
    copy.execute(sql)
    _copy_rows(source, copy, name, whole=whole)


def _copy_rows(
    source: sqlite3.Connection,
    copy: sqlite3.Connection,
    name: str,
    *,
    whole: bool,
    chain: bool = False,
) -> None:
    if name in _OF_THE_PROCESS or (name in _CHAIN and not chain):
        return
    columns = [str(row[1]) for row in source.execute(f"PRAGMA table_info({_quoted(name)})")]
    listed, marks = ", ".join(map(_quoted, columns)), ", ".join("?" * len(columns))
    chosen = ""
    if name in _AUDIT and not whole:
        order = _quoted(_AUDIT[name])
        chosen = f" WHERE {order} = (SELECT max({order}) FROM {_quoted(name)})"  # noqa: S608
    copy.execute("BEGIN")
    copy.executemany(
        f"INSERT INTO {_quoted(name)} ({listed}) VALUES ({marks})",  # noqa: S608
        source.execute(f"SELECT {listed} FROM {_quoted(name)}{chosen}"),  # noqa: S608
    )
    copy.execute("COMMIT")
    _refuse_large(copy)


def _finish(source: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    """Add indexes, views and triggers, once the rows are in."""
    rest = source.execute("SELECT sql FROM sqlite_master WHERE type <> 'table' AND sql IS NOT NULL")
    for (sql,) in rest.fetchall():
        copy.execute(sql)
    if source.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        copy.execute("DELETE FROM sqlite_sequence")
        copy.executemany(
            "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
            source.execute("SELECT name, seq FROM sqlite_sequence"),
        )
    copy.execute(f"PRAGMA user_version = {_version(source)}")


def _serialized(db: sqlite3.Connection) -> bytes:
    _refuse_large(db)
    return db.serialize()


def _refuse_large(db: sqlite3.Connection) -> None:
    pages, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    if pages * size > MOST:
        raise Invalid(
            f"The database is larger than {MOST // 1024**2} MiB with its audit.",
            hint="Leave out --with-audit, or lower audit_keep_days and audit_max_mb.",
        )


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
