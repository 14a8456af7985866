"""The database that goes back with an older version: what was stopped since stays so."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.host.upgrade import RESTORE
from pvemcp.migrations import MIGRATIONS
from pvemcp.store import FILE, Store

BEFORE_ORIGINS = next(n for n, script in enumerate(MIGRATIONS) if "own_freezes" in script)
"""The schema whose freezes were of one node."""
OLD = "INSERT INTO freezes VALUES ('old', 'all', 'root', '', 1)"
NEW = "INSERT INTO freezes VALUES ('old', '', '', 'all', 'root', '', 1, NULL)"


def older(path: Path, version: int) -> None:
    """Make a database of an older schema."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript("".join(MIGRATIONS[:version]))
        db.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", [2, BEFORE_ORIGINS, len(MIGRATIONS)])
def test_freezes_of_now_stay_and_elevations_of_then_are_over(tmp_path: Path, version: int) -> None:
    kept = tmp_path / "kept.db"
    older(kept, version)
    with closing(sqlite3.connect(kept)) as db, db:
        if version > 2:
            db.execute(
                "INSERT INTO elevations VALUES ('g', 'c', 'read', 'destroy', 0, ?, 'r', '', '')",
                (time.time() + 3000,),
            )
            db.execute(OLD if version <= BEFORE_ORIGINS else NEW)
    with Store(tmp_path) as store:
        Freezes(store).freeze("all", client="laptop", by="root", reason="since")
        store.write("INSERT INTO freezes VALUES ('', 'pve2', '', 'all', 'root', '', 1, NULL)")
    subprocess.run([sys.executable, "-c", RESTORE, kept, tmp_path / FILE], check=True, timeout=60)
    with Store(tmp_path) as store:
        found = {(each.client, each.origin) for each in Freezes(store).all()}
        expected = {2: set(), BEFORE_ORIGINS: {("laptop", "")}}
        assert found == expected.get(version, {("laptop", ""), ("", "pve2")})
        assert Elevations(store).all() == []
