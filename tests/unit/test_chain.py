"""The audit under attack: by whoever can write its database and does not have its key."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pvemcp.access.grants import Grants
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Call, Effect, Principal
from pvemcp.chain import KEY_FILE, Chain, Head
from pvemcp.errors import Misconfigured
from pvemcp.retention import delete_batch
from pvemcp.settings import Settings
from pvemcp.store import FILE, Store
from pvemcp.verifying import anchors_in, verify

WHO = Principal("laptop", Effect.DESTROY, ApiToken("a@pve!t", "s"), "g1")


def record(folder: Path, count: int, *, opened: bool = False, started: float = 1e9) -> None:
    """Record some calls, and write them all to the database."""
    with Store(folder) as store, (audit := Audit(store, None)).running():
        for number in range(count):
            call = Call(WHO, "guest_power", {"guests": number}, started=started + number)
            if opened:
                audit.opened(call)
            call.close("ok")
            audit.record(call)


def problem(folder: Path, anchors: list[Head] | None = None) -> str:
    """Return what verifying says."""
    with Store(folder) as store:
        return verify(Chain(store), anchors or [])


def attack(folder: Path, *statements: str) -> None:
    """Change the database behind the service's back."""
    with sqlite3.connect(folder / FILE) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def test_what_was_written_verifies(tmp_path: Path) -> None:
    record(tmp_path, 5, opened=True)
    record(tmp_path, 5)
    with Store(tmp_path) as store:
        Audit(store, None).event("freeze", {"by": "root"}, client="laptop")
    assert problem(tmp_path) == ""
    with Store(tmp_path) as store:
        [start, event] = Chain(store).events()
    assert (start.kind, event.kind, event.about) == (
        "start", "freeze", {"client": "laptop", "by": "root"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["UPDATE calls SET arguments = '{}' WHERE number = 4"], "row of call 4 .* was changed"),
        (["UPDATE calls SET outcome = 'denied' WHERE number = 2"], "row of call 2 .* was changed"),
        (["UPDATE calls SET about = '{\"x\":1}' WHERE number = 2"], "row of call 2 .* changed"),
        (["DELETE FROM calls WHERE number = 3"], "row of call 3 was deleted"),
        (
            [("INSERT INTO calls SELECT 99, 'forged', process, time, client, grant_id, address, "
             "mcp_client, tool, arguments, steps, outcome, error, ms, about FROM calls LIMIT 1")],
            "call 99 .* was inserted",
        ),
        (["DELETE FROM chain WHERE number = 4"], "record 4 is missing"),
        (["UPDATE chain SET body = 'x' WHERE number = 5"], r"record 5 \(closed, call 4\) was"),
        (["UPDATE chain SET time = 0 WHERE number = 5"], "record 5 .* was changed"),
        (["UPDATE chain SET kind = 'closed' WHERE number = 1"], "record 1 .* was changed"),
        (
            ["UPDATE chain SET number = -4 WHERE number = 4", ("UPDATE chain SET number = 4 "
             "WHERE number = 5"), "UPDATE chain SET number = 5 WHERE number = -4"],
            "record 4 .* moved",
        ),
        (
            ["DELETE FROM chain WHERE number = 5", ("INSERT INTO chain SELECT 5, kind, time, call, "
             "body, mac FROM chain WHERE number = 4")],
            "record 5 .* inserted",
        ),
        (
            ["DELETE FROM chain WHERE number < 4",
             "INSERT INTO chain_base SELECT 1, 3, mac, 2, mac FROM chain WHERE number = 4"],
            "seal",
        ),
    ],
)  # fmt: skip
def test_what_is_changed_without_the_key_is_found(
    tmp_path: Path, statements: list[str], says: str
) -> None:
    record(tmp_path, 8)
    attack(tmp_path, *statements)
    with Store(tmp_path) as store:
        found = verify(Chain(store))
    assert re.search(says, found), found


def test_a_tail_that_is_cut_off_shows_against_an_anchor(tmp_path: Path) -> None:
    record(tmp_path, 8)
    with Store(tmp_path) as store:
        head = Audit(store, None).head()
    assert head is not None
    attack(tmp_path, "DELETE FROM chain WHERE number > 6", "DELETE FROM calls WHERE number > 5")
    assert problem(tmp_path) == ""
    assert "records after 6 are missing" in problem(tmp_path, [head])


def test_an_older_copy_in_its_place_shows_against_an_anchor(tmp_path: Path) -> None:
    record(tmp_path, 3)
    shutil.copy(tmp_path / FILE, tmp_path / "old.db")
    record(tmp_path, 3)
    with Store(tmp_path) as store:
        head = Audit(store, None).head()
    assert head is not None
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"{FILE}{end}").unlink(missing_ok=True)
    shutil.copy(tmp_path / "old.db", tmp_path / FILE)
    record(tmp_path, 5)
    assert problem(tmp_path) == ""
    assert "is not the one that its anchor knows" in problem(tmp_path, [head])


def test_a_chain_begun_anew_shows_against_an_anchor(tmp_path: Path) -> None:
    record(tmp_path, 3)
    with Store(tmp_path) as store:
        head = Audit(store, None).head()
    assert head is not None
    attack(tmp_path, "DELETE FROM chain", "DELETE FROM calls")
    (tmp_path / KEY_FILE).unlink()
    record(tmp_path, 6)
    assert problem(tmp_path) == ""
    assert "anchor" in problem(tmp_path, [head])


def test_calls_from_before_the_chain_are_covered_by_its_beginning(tmp_path: Path) -> None:
    record(tmp_path, 4)
    attack(tmp_path, "DELETE FROM chain")
    record(tmp_path, 2)
    assert problem(tmp_path) == ""
    attack(tmp_path, "UPDATE calls SET tool = 'x' WHERE number = 2")
    assert "from before the chain" in problem(tmp_path)


def test_what_retention_leaves_still_verifies(tmp_path: Path) -> None:
    record(tmp_path, 300, opened=True)
    record(tmp_path, 20, started=2e9)
    settings = Settings(state_dir=tmp_path, audit_keep_days=1)
    with Store(tmp_path) as store:
        while delete_batch(store, settings, 2e9 + 3600):
            pass
        assert store.rows("SELECT count(*) FROM calls") == [(20,)]
        assert verify(Chain(store)) == ""
    record(tmp_path, 3)
    assert problem(tmp_path) == ""
    attack(tmp_path, "DELETE FROM calls WHERE number = 310")
    assert "call 310 was deleted" in problem(tmp_path)


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    record(tmp_path, 1)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=record, args=(tmp_path, 40)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert problem(tmp_path) == ""
    with Store(tmp_path) as store:
        assert store.rows("SELECT count(*) FROM calls") == [(121,)]


def test_the_key_is_of_its_owner_alone_and_of_the_right_size(tmp_path: Path) -> None:
    record(tmp_path, 1)
    key = tmp_path / KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with Store(tmp_path) as store, pytest.raises(Misconfigured, match="Others can read"):
        Chain(store)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with Store(tmp_path) as store, pytest.raises(Misconfigured, match="is not a key"):
        Chain(store)


def test_anchors_are_found_among_the_lines_of_a_journal() -> None:
    lines = [
        "INFO something",
        '{"event":"call","number":1}',
        'pve1 pvemcp[1]: {"event":"audit anchor","number":7,"mac":"ab"}',
        '{"event":"audit anchor","number":"x"}',
        '{"event":"audit anchor"',
    ]
    assert anchors_in(lines) == [Head(7, "ab")]


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def pvemcp(tmp_path: Path) -> Run:
    """Run the command line on the folder."""

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "pvemcp", *words]
        env = {"PVEMCP_STATE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, check=False, timeout=30
        )

    return run


def test_the_command_line_verifies_and_exports(tmp_path: Path, pvemcp: Run) -> None:
    record(tmp_path, 3)
    with Store(tmp_path) as store:
        audit = Audit(store, None)
        head = audit.head()
        assert head is not None
        anchor = audit.anchor(head)
        Audit(store, None).event("freeze", {"by": "root"})
    done = pvemcp("audit", "verify", "--anchors", "-", stdin=anchor)
    assert (done.returncode, "1 anchors agree" in done.stdout) == (0, True)
    lines = [json.loads(line) for line in pvemcp("audit", "export").stdout.splitlines()]
    assert [line["tool"] for line in lines if "tool" in line] == ["guest_power"] * 3
    assert [line["event"] for line in lines if "event" in line] == ["start", "freeze"]
    attack(tmp_path, "DELETE FROM chain WHERE number > 2")
    done = pvemcp("audit", "verify", "--anchors", "-", stdin=anchor)
    assert (done.returncode, "BROKEN" in done.stderr) == (1, True)


def test_what_is_done_to_grants_is_in_the_chain_without_their_secrets(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        _, first = grants.create("laptop", Effect.READ)
        _, second = grants.rotate("laptop", grace=0, token=ApiToken("a@pve!t", "s3cr3t-s3cr3t"))
        grants.revoke("laptop")
        events = Chain(store).events()
        assert [event.kind for event in events] == [
            "start", "grant made", "grant rotated", "grant revoked",
        ]  # fmt: skip
        text = str(events)
        assert "laptop" in text
        for secret in (first, second, "s3cr3t"):
            assert secret not in text
        assert verify(Chain(store)) == ""
