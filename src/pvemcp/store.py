"""One SQLite file for everything that must survive a restart: grants, audit, keys.

WAL with synchronous=NORMAL: a commit reaches the kernel before it returns, so killing the process
loses nothing; a power cut may lose the last commits and never damages the file. A commit costs
about 50 us, so the event loop's own thread does it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from pvemcp.errors import Fault, Misconfigured, Missing, Unavailable
from pvemcp.migrations import MIGRATIONS

FILE = "pvemcp.db"
BUSY_MS = 1000
"""How long a statement waits for another process (the command line writes for microseconds)."""
OPENING_MS = 10_000
"""The same while it is opened: another process may just be making or migrating it."""
KEY_BYTES = 32


class Store:
    """The database of one process. Opening it makes or migrates the file.

    With `change=False` it does neither (root, who only looks, would make a file that the service
    cannot write): a missing file raises Missing, one of another version Misconfigured.
    Every method raises Unavailable when the file is locked, full, or damaged.
    """

    def __init__(self, state_dir: Path, *, change: bool = True) -> None:
        self.path = state_dir / FILE
        self._inserted = 0
        with as_owner(state_dir):
            if change:
                _prepare(state_dir, self.path)
            else:
                _require(self.path)
            with translated(self.path):
                # Transactions are written out below; sqlite3 must not open any by itself.
                self._db = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_MS / 1000)
            try:
                if change:
                    self._open()
                else:
                    self._require_version()
            except Fault:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the last process to do so folds the write-ahead log into it."""
        self._db.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        with translated(self.path):
            return self._db.execute(sql, parameters).fetchall()

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run and commit one statement; return how many rows it touched."""
        with translated(self.path):
            return self._db.execute(sql, parameters).rowcount

    def write_all(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement with each of the rows; use it inside `whole`."""
        with translated(self.path):
            self._db.executemany(sql, rows)

    def add(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run and commit an INSERT of one row; return its number."""
        with translated(self.path):
            return self._db.execute(sql, parameters).lastrowid or 0

    def insert(self, sql: str, parameters: Sequence[Any] = ()) -> bool:
        """Run and commit an INSERT; False when a unique value is taken."""
        with translated(self.path):
            try:
                self._db.execute(sql, parameters)
            except sqlite3.IntegrityError:
                return False
            self._inserted += 1
            return True

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Commit what is written in the block as one; nothing of it after an exception."""
        self.write("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.write("ROLLBACK")
            raise
        self.write("COMMIT")

    def data_version(self) -> int:
        """Return a number that changes whenever another connection has committed something."""
        with translated(self.path):
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def read(self) -> None:
        """Read the file anew: what this connection holds in memory would be answered without it."""
        with translated(self.path):
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_MS / 1000)) as db:
                db.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def version(self) -> tuple[int, int]:
        """Return what also changes after an `insert` of this connection."""
        return self.data_version(), self._inserted

    def changed(self) -> None:
        """Make `version` another: something was written that is kept in memory elsewhere."""
        self._inserted += 1

    def key(self, name: str) -> bytes:
        """Return the random key of that name (32 bytes), made on first use and then kept."""
        fresh = secrets.token_bytes(KEY_BYTES)
        self.insert("INSERT INTO key (name, value) VALUES (?, ?)", (name, fresh))
        return bytes(self.rows("SELECT value FROM key WHERE name = ?", (name,))[0][0])

    def check(self) -> str:
        """Return what SQLite's own quick check finds; "ok" is good."""
        return str(self.rows("PRAGMA quick_check(1)")[0][0])

    def give_back(self, pages: int) -> None:
        """Return up to that many unused pages to the file system.

        It does nothing in a file that was made before new ones had auto_vacuum: they are reused.
        """
        with translated(self.path):
            # Not execute(): it stops after the first page.
            self._db.executescript(f"PRAGMA incremental_vacuum({pages:d})")

    def _open(self) -> None:
        with translated(self.path):
            self._db.execute(f"PRAGMA busy_timeout = {OPENING_MS}")
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts in a file that is new
            _use_wal(self._db)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA secure_delete = ON")  # a revoked grant's PVE token is wiped
            migrate(self._db, self.path)
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    def _require_version(self) -> None:
        with translated(self.path):
            found = _version(self._db)
        if found != len(MIGRATIONS):
            raise Misconfigured(
                f"{self.path} has schema {found}, this pvemcp uses {len(MIGRATIONS)}.",
                hint="An older one is brought up to date when the service starts; a newer one "
                "needs the pvemcp that wrote it.",
            )


def _use_wal(db: sqlite3.Connection) -> None:
    """Set the journal mode; where others set it too, SQLite says busy at once, without waiting."""
    until = time.monotonic() + OPENING_MS / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to this version's, or leave all as it is.

    `path` is for the message of the Misconfigured that a newer schema raises. Raises sqlite3.Error.
    """
    if _version(db) == len(MIGRATIONS):
        return
    # Two processes may start at once: the version is read again once the lock is held.
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _version(db)
        if found > len(MIGRATIONS):
            raise Misconfigured(
                f"{path} was written by a newer pvemcp (schema {found}; this one knows "
                f"{len(MIGRATIONS)}).",
                hint="Install that version again, or name another PVEMCP_STATE_DIR.",
            )
        for script in MIGRATIONS[found:]:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """Split at semicolons: executescript() would commit before the migration is whole."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Have root be the user whose folder it is, while it opens files by their names there.

    A link that this user puts in their place in the last moment leads root nowhere else then.
    """
    owner = folder.stat() if os.geteuid() == 0 and folder.is_dir() else None
    if owner is None or owner.st_uid == 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _prepare(folder: Path, path: Path) -> None:
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
        place = folder.stat()
        refuse_strangers(path)
        if place.st_mode & stat.S_IWOTH:
            raise Misconfigured(
                f"state_dir: every user of this machine can write to {folder}.",
                hint=f"Run: chmod 0700 {shlex.quote(str(folder))}. Or name another folder.",
            )
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        # Not opened for it: closing it would end the locks that this process may have on it.
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    except FileExistsError:
        pass  # another process made the file in the same moment
    except OSError as exc:
        raise _unusable(folder, exc) from None


def refuse_strangers(path: Path) -> None:
    """Refuse a database in another user's folder, and links in its place: they could lead root
    to any file of the machine. Raises Misconfigured, and OSError without the folder.
    """
    folder = path.parent
    owner = folder.stat().st_uid
    strange = os.geteuid() not in (0, owner) and owner != 0
    linked = any(path.with_name(FILE + end).is_symlink() for end in ("", "-wal", "-shm"))
    if strange or linked:
        raise Misconfigured(
            f"state_dir: {folder} "
            + ("holds a link in place of the database." if linked else "belongs to another user."),
            hint="Name a folder of the service's own user in PVEMCP_STATE_DIR.",
        )


def _require(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError:
        raise Missing(
            f"There is no database yet at {path}.",
            hint="The service makes it when it starts, or the first grant does; run both as the "
            "same user. If there should be one, correct PVEMCP_STATE_DIR.",
        ) from None
    except OSError as exc:
        raise _unusable(path, exc) from None


def _unusable(path: Path, exc: OSError) -> Misconfigured:
    return Misconfigured(
        f"state_dir: {exc.filename or path} cannot be used: {exc.strerror}.",
        hint="Run as the user of the service (or as root), or set PVEMCP_STATE_DIR to a "
        "folder that you may write.",
    )


class translated:  # noqa: N801 - used as a function; a generator would cost three times as much
    """Turn sqlite3's errors into Faults that name the file."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise _fault(self._path, error) from None


def _fault(path: Path, exc: sqlite3.Error) -> Fault:
    match getattr(exc, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(
                f"The database {path} is locked by another process.",
                hint="Try again; if it stays so, look for a backup or a shell that holds it open.",
            )
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return Unavailable(
                f"The database {path} cannot be written: {exc}.",
                hint="Make room on that file system, or look for disk errors in the kernel's log.",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return Unavailable(
                f"The database {path} cannot be opened for writing: {exc}.",
                hint="Run as the user of the service or as root; check the owner of its folder.",
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Unavailable(
                f"The database {path} is damaged: {exc}.",
                hint="Stop the service, move the file away (and its -wal and -shm), and start "
                "again. Grants must then be made anew and the old audit stays in the moved file.",
            )
    return Unavailable(f"The database {path} failed: {exc}.", hint="See pvemcp doctor.")
