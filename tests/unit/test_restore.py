"""Restoring: all of it or nothing, whatever happens, and the same client is let in again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.grants import Grants
from pvemcp.call import ApiToken, Effect
from pvemcp.errors import Conflict, Fault, Misconfigured, Unavailable
from pvemcp.settings import Settings
from pvemcp.setup.backup.guard import alone
from pvemcp.setup.backup.restore import Choices, NoTokens, Tokens, plan, recover, restore
from pvemcp.setup.backup.service import Service
from pvemcp.setup.backup.switch import JOURNAL
from pvemcp.store import Store
from tests.unit.backups import SHARED, TOKEN, Installation, install, load, places_in
from tests.unit.test_retention import ids

NONE = Service("")


def quiet(_: str) -> None:
    """Listen to nothing."""


@pytest.fixture
def own(tmp_path: Path) -> Installation:
    return install(tmp_path / "own")


def put_back(
    own: Installation,
    path: Path,
    root: Path | None = None,
    *,
    said: Callable[[str], None] = quiet,
    tokens: Tokens | None = None,
    choices: Choices | None = None,
) -> list[str]:
    """Restore a backup below a folder; return what the plan said."""
    where = places_in(root or own.root)
    chosen = choices or Choices()
    planned = plan(own.open(path), where, chosen, tokens=tokens or NoTokens(), service=NONE)
    lines = planned.lines()
    restore(planned, start=True, said=said)
    return lines


def everything(root: Path) -> dict[str, tuple[str, int]]:
    """Return hash and mode of every file below a folder, but for what SQLite and locks add."""
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            stat.S_IMODE(path.stat().st_mode),
        )
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock", "status.json"))
    }


def lets_in(root: Path, secret: str) -> bool:
    with Store(root / "state") as store:
        return Grants(store).authenticate(secret) is not None


def names(root: Path) -> list[str]:
    with Store(root / "state") as store:
        return [grant.name for grant in Grants(store).list()]


def test_a_backup_comes_back_on_an_empty_host(own: Installation, tmp_path: Path) -> None:
    path = own.backup(tmp_path)
    root = tmp_path / "second"
    put_back(own, path, root)
    assert lets_in(root, own.secret)
    assert (root / "etc/exec.toml").read_text() == "# what may run\n"
    assert (root / "units/pvemcp.service.d/own.conf").read_text() == "[Service]\nMemoryMax=1G\n"
    assert stat.S_IMODE((root / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "state/pvemcp.db").stat().st_mode) == 0o600
    settings = load(root)
    assert settings.state_dir == root / "state"
    assert settings.exec_file == root / "etc/exec.toml"
    assert settings.tls_key is not None
    assert settings.tls_key.read_text() == "the key.pem\n"
    assert settings.tls_key.parent == root / "etc"
    again = Installation(root, own.secret, own.key, own.recipient)
    assert again.open(again.backup()).origin_checked  # the host signs on


def test_what_was_changed_since_is_as_it_was(own: Installation, tmp_path: Path) -> None:
    path = own.backup(tmp_path)
    before = everything(own.root / "etc")
    with Store(own.root / "state") as store:
        Grants(store).revoke("laptop")
        _, later = Grants(store).create("later", Effect.READ)
    (own.root / "etc/exec.toml").write_text("# other\n")
    (own.root / "etc/key.pem").unlink()
    lines = put_back(own, path)
    assert everything(own.root / "etc") == before
    assert lets_in(own.root, own.secret)
    assert not lets_in(own.root, later)
    assert "these clients of now are not in it and will be refused: later" in lines
    assert f"replace {own.root}/etc/exec.toml" in lines
    assert f"keep {own.root}/etc/cert.pem" in lines
    assert f"make {own.root}/etc/key.pem" in lines


def test_a_plan_changes_nothing(own: Installation, tmp_path: Path) -> None:
    path = own.backup(tmp_path)
    (own.root / "etc/exec.toml").write_text("# other\n")
    before = everything(own.root)
    planned = plan(own.open(path), own.places, Choices(), tokens=NoTokens(), service=NONE)
    assert planned.lines()
    assert everything(own.root) == before


def test_the_audit_of_a_host_stays_and_an_empty_one_gets_that_of_the_backup(
    own: Installation, tmp_path: Path
) -> None:
    path = own.backup(tmp_path, audit=True)
    with Store(own.root / "state") as store:
        store.write("DELETE FROM calls WHERE number < 3")
        store.write("UPDATE calls SET id = 'mine'")
    put_back(own, path)
    with Store(own.root / "state") as store:
        assert store.rows("SELECT id FROM calls") == [("mine",)]
    put_back(own, path, choices=Choices(replace_audit=True))
    put_back(own, path, tmp_path / "second")
    for root in (own.root, tmp_path / "second"):
        with Store(root / "state") as store:
            assert ids(store) == [0, 1, 2]


def changed(own: Installation) -> dict[str, tuple[str, int]]:
    """Make the state differ from the backup, with files missing and others new."""
    (own.root / "etc/exec.toml").write_text("# other\n")
    (own.root / "etc/key.pem").unlink()
    shutil.rmtree(own.root / "units")
    with Store(own.root / "state") as store:
        Grants(store).create("later", Effect.READ)
    return everything(own.root)


def killed(own: Installation, path: Path, at: int, *, guard_too: bool = False) -> bool:
    """Restore in a process that is killed at its step of that number; whether it came so far."""
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            put_back(own, path, said=kill_at(at, guard_too=guard_too))
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, -signal.SIGKILL}
    return code != 0


def kill_at(at: int, *, guard_too: bool) -> Callable[[str], None]:
    """Return what kills the process at a step, and as a power cut does the one that stands by."""
    steps: list[str] = []

    def said(step: str) -> None:
        steps.append(step)
        if len(steps) - 1 != at:
            return
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in (*(map(int, children) if guard_too else ()), os.getpid()):
            os.kill(pid, signal.SIGKILL)

    return said


def settled(own: Installation) -> None:
    """Wait until the second process, which stands by, has ended."""
    deadline = time.monotonic() + 20
    while (own.root / "secrets" / JOURNAL).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with alone(own.root / "secrets", wait=True):
        pass


def test_a_restore_that_is_killed_leaves_the_old_state_or_the_new_one_whole(
    own: Installation, tmp_path: Path
) -> None:
    path = own.backup(tmp_path)
    before, at, ends = changed(own), 0, []
    shutil.copytree(own.root, tmp_path / "saved")
    while killed(own, path, at):
        settled(own)
        now = everything(own.root)
        ends.append(now == before)
        if now != before:
            assert lets_in(own.root, own.secret)
            assert (own.root / "units/pvemcp.service.d/own.conf").exists()
            assert (own.root / "etc/key.pem").exists()
            assert not [name for name in now if ".restore-" in name]
            shutil.rmtree(own.root)
            shutil.copytree(tmp_path / "saved", own.root)
        at += 1
    assert at > 20
    assert ends == [True] * (at - 2) + [False] * 2  # the last two are after the point of no return


def test_what_a_lost_machine_left_half_way_is_taken_back_at_the_next_start(
    own: Installation, tmp_path: Path
) -> None:
    path = own.backup(tmp_path)
    before = changed(own)
    for at in range(2, 30):
        assert killed(own, path, at, guard_too=True)
        if (own.root / "secrets" / JOURNAL).exists():
            said: list[str] = []
            assert recover(own.places, NoTokens(), NONE, said=said.append)
            assert "the old state is in place again" in said[-1]
        assert everything(own.root) == before
        assert not recover(own.places, NoTokens(), NONE, said=quiet)


def test_a_full_disk_leaves_the_old_state(own: Installation, tmp_path: Path) -> None:
    (own.root / "units/pvemcp.service.d/own.conf").write_bytes(os.urandom(90_000))
    path = own.backup(tmp_path)
    before = changed(own)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, limit[1]))
    try:
        with pytest.raises(Unavailable, match=r"cannot be written.*old state is in place again"):
            put_back(own, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, former)
    assert everything(own.root) == before


class Broken(Service):
    """A service that does not start with the new state."""

    def __init__(self) -> None:
        super().__init__("")
        self.did: list[str] = []

    def now(self) -> dict[str, Any]:
        return {"units": "as they were"}

    def bring_back(self, record: dict[str, Any]) -> None:
        self.did.append(record["units"])

    def stop(self) -> None:
        self.did.append("stop")

    def start(self) -> None:
        self.did.append("start")
        raise Unavailable("it does not start.")


def test_a_service_that_does_not_start_has_its_old_state_again_and_runs(
    own: Installation, tmp_path: Path
) -> None:
    path = own.backup(tmp_path)
    before, service = changed(own), Broken()
    planned = plan(own.open(path), own.places, Choices(), tokens=NoTokens(), service=service)
    with pytest.raises(Unavailable, match=r"does not start\. The old state is in place again"):
        restore(planned, start=True, said=quiet)
    assert everything(own.root) == before
    assert service.did == ["stop", "start", "stop", "as they were"]


class Fresh(NoTokens):
    """PVE tokens that are made anew, and taken back."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.there: set[str] = set()

    def apply(self, makes: Callable[[str], None]) -> Mapping[str, ApiToken]:
        made = {}
        for number, old in enumerate((TOKEN.id, "pvemcp@pve!all", str(SHARED.token_id))):
            makes(f"{old}.2")
            self.there.add(f"{old}.2")
            made[old] = ApiToken(f"{old}.2", f"new-{number}")
        if self.fails:
            raise Conflict("PVE refuses.")
        return made

    def remove(self, ids: Sequence[str]) -> list[str]:
        self.there -= set(ids)
        return []


def test_new_pve_tokens_are_in_the_grants_and_in_the_settings(
    own: Installation, tmp_path: Path
) -> None:
    root = tmp_path / "second"
    put_back(own, own.backup(tmp_path), root, tokens=Fresh())
    with Store(root / "state") as store:
        grant = Grants(store).authenticate(own.secret)
    assert grant is not None
    assert grant.token == ApiToken(f"{TOKEN.id}.2", "new-0")
    settings = Settings.load(root / "etc/pvemcp.toml", {})
    assert (settings.pve_token_id, settings.pve_token_secret) == ("pvemcp@pve!all.2", "new-1")


def test_pve_tokens_of_a_restore_that_fails_are_removed(own: Installation, tmp_path: Path) -> None:
    before, tokens = everything(own.root), Fresh(fails=True)
    path = own.backup(tmp_path)
    with pytest.raises(Conflict, match="PVE refuses"):
        put_back(own, path, tokens=tokens)
    assert tokens.there == set()
    assert everything(own.root) == before


def test_a_database_in_use_by_others_is_not_switched(own: Installation, tmp_path: Path) -> None:
    path, before = own.backup(tmp_path), everything(own.root)
    hold = (
        "import time; from pvemcp.store import Store; from pathlib import Path\n"
        f"store = Store(Path({str(own.root / 'state')!r})); print('open', flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(Conflict, match=f"Process {holder.pid} has"):
                put_back(own, path)
        finally:
            holder.kill()
    assert everything(own.root) == before


def test_only_one_restore_runs_at_a_time(own: Installation, tmp_path: Path) -> None:
    path = own.backup(tmp_path)
    with alone(own.root / "secrets"), pytest.raises(Conflict, match="under way"):
        put_back(own, path)


def test_a_backup_without_settings_needs_no_settings_file(
    own: Installation, tmp_path: Path
) -> None:
    path = own.backup(tmp_path)
    where = replace(own.places, settings=None)
    with pytest.raises(Misconfigured, match="--config FILE"):
        plan(own.open(path), where, Choices(), tokens=NoTokens(), service=NONE)


def test_no_new_file_is_ever_open_to_others(own: Installation, tmp_path: Path) -> None:
    path = own.backup(tmp_path)
    seen = []

    def look(_: str) -> None:
        for each in (tmp_path / "second").rglob("*"):
            if each.is_file() and each.parent.name in {"state", "etc", "secrets"}:
                plain = b"what may run" in each.read_bytes() or each.suffix == ".lock"
                seen.append((each.name, stat.S_IMODE(each.stat().st_mode) & 0o077 and not plain))

    os.umask(0)
    try:
        put_back(own, path, tmp_path / "second", said=look)
    finally:
        os.umask(0o022)
    assert len(seen) > 50
    assert [name for name, is_open in seen if is_open] == []


def test_a_fault_is_raised_as_it_is(own: Installation, tmp_path: Path) -> None:
    path = own.backup(tmp_path)
    (own.root / "secrets" / JOURNAL).write_text("{")
    with pytest.raises(Fault, match="journal"):
        put_back(own, path)
