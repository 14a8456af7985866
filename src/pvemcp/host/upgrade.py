"""Keeps the installed version before an upgrade, and brings it back.

The package's scripts and `pvemcp rollback` run it as root. Standard library only, nothing of
pvemcp: it must work when the new version does not. The database is opened by processes of the
service's user, whose folder it is in; root copies plain files there, and follows no links.

Kept are the package (rebuilt from its files), settings and database, the last two times, in
/var/backups/pvemcp/upgrade-VERSION. What became of the last upgrade stands where all may read it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = USER = "pvemcp"
KEPT = Path("/var/backups/pvemcp")
ETC = Path("/etc/pvemcp")
STATE = Path("/var/lib/pvemcp")
OUTCOME = Path("/var/lib/pvemcp-upgrade/last.json")
PRISTINE = Path("/usr/lib/pvemcp/python/pvemcp/host")
"""Where conffiles stand as they were shipped."""
MOST, MARGIN = 2, 32 << 20
"""Versions that are kept; bytes that must stay free."""
GNU = tarfile.GNU_FORMAT
"""The only one that dpkg knows."""
UNWANTED = ("Status:", "Conffiles:", "Config-Version:")
COPY = """
import os, sqlite3, sys
for end in ("", "-wal", "-shm", "-journal"):
    if os.path.lexists(sys.argv[2] + end):
        os.unlink(sys.argv[2] + end)
source, target = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(target)
target.close()
"""
SCHEMA = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("PRAGMA user_version").fetchone()[0])
"""
RESTORE = """
import os, sqlite3, sys
old, now = sys.argv[1:]
def over(db):
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "elevations" in tables:
        db.execute("DELETE FROM elevations")
    if "approvals" in tables:
        db.execute("UPDATE approvals SET expires = created WHERE state IN ('waiting', 'approved')")
    if "commits" in tables:
        db.execute("UPDATE commits SET state = 'confirmed' WHERE state = 'waiting'")
def refreeze(db, frozen):
    known = [row[1] for row in db.execute("PRAGMA table_info(freezes)")]
    if known:
        db.execute("DELETE FROM freezes")
    for row in frozen if known else ():
        if "origin" not in known and (row.get("origin") or row.get("released")):
            continue
        values = {name: value for name, value in row.items() if name in known}
        marks = ", ".join("?" * len(values))
        columns = ", ".join(values)
        db.execute(f"INSERT INTO freezes ({columns}) VALUES ({marks})", [*values.values()])
with sqlite3.connect(old) as old_db:
    try:
        now_db = sqlite3.connect(now)
        known = [row[0] for row in now_db.execute("SELECT id FROM grants")]
        frozen = []
        if now_db.execute("SELECT 1 FROM sqlite_master WHERE name = 'freezes'").fetchone():
            now_db.row_factory = sqlite3.Row
            frozen = [dict(row) for row in now_db.execute("SELECT * FROM freezes")]
        now_db.close()
    except sqlite3.Error as error:
        print(f"Grants that were revoked since are valid again, for they cannot be read: {error}")
    else:
        marks = ", ".join("?" * len(known))
        old_db.execute(f"DELETE FROM grants WHERE id NOT IN ({marks})", known)
        over(old_db)
        refreeze(old_db, frozen)
old_db.close()
for end in ("-wal", "-shm"):
    if os.path.lexists(now + end):
        os.unlink(now + end)
os.replace(old, now)
"""
"""What was revoked since must not come back, nor what was allowed for a while; freezes stay."""


class Problem(Exception):  # noqa: N818 - told to the administrator, as it stands
    """Why it cannot be done, and what to do."""


def run(*argv: str, **options: Any) -> str:
    """Run a command and return what it says."""
    done = subprocess.run(  # noqa: S603 - what it runs stands here
        argv, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        raise Problem(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()}")
    return str(done.stdout)


def installed() -> str:
    """Return the version that is installed."""
    return run("dpkg-query", "-Wf", "${Version}", PACKAGE)


def as_service(script: str, *arguments: str) -> str:
    """Run a script as the service's user."""
    command = ("/usr/bin/python3", "-I", "-c", script, *arguments)
    return run(*command, user=USER, group=USER, extra_groups=[], cwd="/")


def keep(new: str) -> None:
    """Keep what is installed, all of it or nothing."""
    version = installed()
    KEPT.mkdir(mode=0o700, parents=True, exist_ok=True)
    place, fresh = KEPT / f"upgrade-{version}", KEPT / f".upgrade-{version}"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        need_room()
        fresh.mkdir(mode=0o700)
        pack(fresh / "package.deb")
        run("cp", "-a", str(ETC), str(fresh / "etc"))
        keep_database(fresh)
        record = {"version": version, "next": new, "time": time.time()}
        (fresh / "record.json").write_text(json.dumps(record))
    except (OSError, Problem) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise Problem(
            f"The upgrade to {new} was not begun, for version {version} could not be kept in "
            f"{KEPT}: {error}\nVersion {version} goes on running. Repair that, and upgrade again."
        ) from None
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    for old in kept()[MOST:]:
        shutil.rmtree(KEPT / f"upgrade-{old['version']}")


def need_room() -> None:
    """Refuse a file system that could become full."""
    sizes = [path.stat().st_size for path in files() if path.is_file()]
    database = STATE / "pvemcp.db"
    wanted = sum(sizes) // 2 + MARGIN
    for place in (KEPT, STATE):
        size = database.lstat().st_size if database.exists() else 0
        free = os.statvfs(place)
        if (left := free.f_bavail * free.f_frsize) < (need := wanted + size):
            raise Problem(f"{place} has {left >> 20} MiB free, {need >> 20} MiB are needed.")
        wanted = MARGIN


def files() -> Iterator[Path]:
    """Return what the package has installed, folders before their content."""
    for line in run("dpkg-query", "-L", PACKAGE).splitlines():
        if (path := Path(line)) != Path("/.") and os.path.lexists(path):
            yield path


def pack(target: Path) -> None:
    """Write a Debian package of what is installed."""
    with target.open("wb") as deb:
        deb.write(b"!<arch>\n")
        member(deb, "debian-binary", io.BytesIO(b"2.0\n"))
        for name, fill in (("control.tar.gz", add_control), ("data.tar.gz", add_files)):
            with target.with_name(name).open("w+b") as part:
                with tarfile.open(fileobj=part, mode="w:gz", compresslevel=1, format=GNU) as tar:
                    fill(tar)
                member(deb, name, part)
            target.with_name(name).unlink()
        deb.flush()
        os.fsync(deb.fileno())


def member(deb: Any, name: str, content: Any) -> None:
    """Add a member to an ar(5) archive."""
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    deb.write(f"{name:<16}{int(time.time()):<12}{0:<6}{0:<6}{100644:<8}{size:<10}`\n".encode())
    shutil.copyfileobj(content, deb)
    deb.write(b"\n" * (size % 2))


def add_control(tar: tarfile.TarFile) -> None:
    """Add what dpkg knows of the package."""
    lines, wanted = [], True
    for line in run("dpkg-query", "-s", PACKAGE).splitlines():
        wanted = wanted if line.startswith(" ") else not line.startswith(UNWANTED)
        lines += [f"{line}\n"] if wanted else []
    add(tar, "./control", "".join(lines).encode())
    for line in run("dpkg-query", "--control-path", PACKAGE).splitlines():
        path = Path(line)
        if (kind := path.suffix[1:]) not in ("list", "md5sums-new"):
            add(tar, f"./{kind}", path.read_bytes(), mode=stat.S_IMODE(path.stat().st_mode))


def add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    """Add a file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), mode, int(time.time())
    tar.addfile(info, io.BytesIO(content))


def add_files(tar: tarfile.TarFile) -> None:
    """Add what is installed; of a conffile what was shipped, or dpkg would call edits its own."""
    conffiles = run("dpkg-query", "-Wf", "${Conffiles}", PACKAGE).split()[::2]
    for path in files():
        shipped = PRISTINE / path.name
        source = shipped if str(path) in conffiles and shipped.exists() else path
        tar.add(source, arcname=f".{path}", recursive=False)


def keep_database(folder: Path) -> None:
    """Copy the database, consistent also while the service runs."""
    database, copy = STATE / "pvemcp.db", STATE / ".upgrade.db"
    if not database.exists():
        return
    try:
        as_service(COPY, str(database), str(copy))
        fresh = folder / ".pvemcp.db"
        with opened(copy) as source, fresh.open("wb") as target:
            shutil.copyfileobj(source, target)
        fresh.rename(folder / "pvemcp.db")
    finally:
        copy.unlink(missing_ok=True)


def opened(path: Path) -> io.BufferedReader:
    """Open a plain file in a folder of the service's user."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise Problem(f"{path} is not a file.")
    return file


def schema(path: Path) -> int:
    """Return the version of the tables of a copy: user_version, in the header."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(64)[60:], "big")


def kept() -> list[dict[str, Any]]:
    """Return the records of what is kept, the newest first."""
    found = [json.loads(path.read_text()) for path in KEPT.glob("upgrade-*/record.json")]
    return sorted(found, key=lambda record: -record["time"])


def settle(version: str) -> None:
    """Copy the database again, now that the service has stopped: it misses nothing then."""
    if (folder := KEPT / f"upgrade-{version}").is_dir():
        keep_database(folder)


def tell(outcome: str, version: str, before: str) -> None:
    """Write down what became of an upgrade."""
    OUTCOME.parent.mkdir(mode=0o755, exist_ok=True)
    told = {"outcome": outcome, "version": version, "from": before, "time": time.time()}
    fresh = OUTCOME.with_suffix(".new")
    fresh.write_text(json.dumps(told))
    fresh.chmod(0o644)
    fresh.rename(OUTCOME)


def rollback(*, dry_run: bool) -> None:
    """Bring back the version before the installed one, with its settings and data."""
    now = installed()
    candidates = [record for record in kept() if record["version"] != now]
    if not candidates:
        raise Problem(f"No version before {now} is kept in {KEPT}: there is nothing to go back to.")
    version = candidates[0]["version"]
    folder = KEPT / f"upgrade-{version}"
    restores = must_restore(folder)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(candidates[0]["time"]))
    say(f"Version {version} replaces {now}, with the settings of {when}.")
    if restores:
        say(f"The database becomes that of {when}, for {version} cannot read the present one.")
        say("Grants that were revoked since stay revoked.")
    say(f"What is there now is kept in {folder}/after.")
    if not dry_run:
        bring_back(folder, version, now, restores=restores)


def must_restore(folder: Path) -> bool:
    """Whether the kept version could not read the present database."""
    then, now = folder / "pvemcp.db", STATE / "pvemcp.db"
    if not then.exists() or not now.exists():
        return then.exists()
    try:
        return int(as_service(SCHEMA, str(now))) != schema(then)
    except Problem:  # it is damaged
        return True


def bring_back(folder: Path, version: str, now: str, *, restores: bool) -> None:
    """Do it, in an order in which a failure leaves either version whole."""
    run("systemctl", "stop", "pvemcp.service")
    after = folder / "after"
    shutil.rmtree(after, ignore_errors=True)
    after.mkdir(mode=0o700)
    run("cp", "-a", str(ETC), str(after / "etc"))
    if restores:
        try:
            keep_database(after)
        except Problem as problem:
            say(f"The present database cannot be kept: {problem}")
        restore_database(folder / "pvemcp.db")
    try:
        put_back(folder / "etc")
        env = {**os.environ, "PVEMCP_ROLLBACK": "1", "DEBIAN_FRONTEND": "noninteractive"}
        run("dpkg", "--force-downgrade,confold", "-i", str(folder / "package.deb"), env=env)
        put_back(folder / "etc")  # dpkg may have had its own way with a conffile
    except (OSError, Problem):
        if installed() == now:
            put_back(after / "etc")
            if restores and (after / "pvemcp.db").exists():
                restore_database(after / "pvemcp.db")
            run("systemctl", "start", "--no-block", "pvemcp.service")
        raise
    settings = (ETC / "pvemcp.toml").exists()
    tell("rolled back", version, now)
    if settings and run("systemctl", "show", "-P", "ActiveState", "pvemcp.service") != "active\n":
        raise Problem(f"Version {version} is back, but not ready: journalctl -u pvemcp -n 50")
    say(f"Version {version} is back{' and ready' if settings else ''}.")


def put_back(settings: Path) -> None:
    """Make the settings what a copy of them has."""
    for path in ETC.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    run("cp", "-a", f"{settings}/.", str(ETC))


def restore_database(source: Path) -> None:
    """Put a kept database in place of the present one."""
    fresh = STATE / ".rollback.db"
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as target, source.open("rb") as kept_one:
        shutil.copyfileobj(kept_one, target)
        owner = STATE.stat()
        os.fchown(target.fileno(), owner.st_uid, owner.st_gid)
    if said := as_service(RESTORE, str(fresh), str(STATE / "pvemcp.db")):
        say(said.strip())


def say(text: str) -> None:
    """Tell the administrator."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="pvemcp")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("keep").add_argument("new")
    commands.add_parser("settle").add_argument("version")
    told = commands.add_parser("outcome")
    for name in ("outcome", "version", "before"):
        told.add_argument(name)
    back = commands.add_parser("rollback", help="go back to the version before the last upgrade")
    back.add_argument("--dry-run", action="store_true", help="only say what would be done")
    asked = parser.parse_args(arguments)
    try:
        if os.geteuid():
            raise Problem("Only root can do that: sudo pvemcp rollback")
        match asked.command:
            case "keep":
                keep(asked.new)
            case "settle":
                settle(asked.version)
            case "outcome":
                tell(asked.outcome, asked.version, asked.before)
            case "rollback":
                rollback(dry_run=asked.dry_run)
    except (OSError, Problem) as error:
        sys.stderr.write(f"pvemcp: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
