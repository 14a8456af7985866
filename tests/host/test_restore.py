"""Backups on a host, and clients that get in again after a loss, here and on a second host."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.host.images import Suite
from tests.host.machine import Machine
from tests.host.served import SECRET
from tests.host.test_setup import Place, place_in
from tests.host.waiting import until

KEY = "/root/backup.key"
BACKUPS = "/var/backups/pvemcp"


@pytest.fixture(scope="module")
def place(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A host that is set up with a client, and has the key of its backups."""
    with Machine.create(suite, tmp_path_factory.mktemp(f"{suite}-backup")) as machine:
        machine.boot()
        made = place_in(machine)
        made.pvemcp("setup", "--yes", "--client", "gone")
        made.pvemcp("client", "revoke", "gone")
        made.pvemcp("backup", "init", "--key-file", KEY)
        yield made


@pytest.fixture(scope="module")
def secret(place: Place) -> str:
    """The secret of a client."""
    added = place.pvemcp("client", "add", "laptop", "--role", "operator").stdout
    [found] = set(map(str, SECRET.findall(added)))
    return found


_SUMS = "sha256sum /etc/pvemcp/*"


@pytest.fixture
def second(other: Machine) -> Place:
    """A host where the package was just installed, with a PVE of its own."""
    other.boot()
    return place_in(other)


def backup(place: Place) -> str:
    """Make a backup with the rights of clients; return its path."""
    made = place.pvemcp("backup").stdout
    found = re.match(r"(\S+\.age) \(", made)
    assert found is not None
    return found[1]


def lets_in(place: Place, secret: str) -> bool:
    """Whether the service is there and lets a client in."""
    try:
        return place.status(secret)[0] not in {401, 403, 429}
    except httpx2.ConnectError:
        return False


def test_the_daily_backup_is_root_s_alone_and_the_service_knows_how_it_went(place: Place) -> None:
    run = place.machine.run
    assert run(["systemctl", "is-enabled", "pvemcp-backup.timer"]).stdout == "enabled\n"
    run(["systemctl", "start", "pvemcp-backup.service"])
    [path] = run(["sh", "-c", f"echo {BACKUPS}/*.age"]).stdout.split()
    looked = ["stat", "-c", "%a %U:%G", BACKUPS, path, "/var/lib/pvemcp-setup/backup-signing.key"]
    assert run(looked).stdout == "700 root:root\n600 root:root\n600 root:root\n"
    status = "/var/lib/pvemcp-backup/backup-status.json"
    assert run(["stat", "-c", "%a %U:%G", status]).stdout == "640 root:pvemcp\n"
    found = json.loads(run(["cat", status], user="pvemcp").stdout)
    assert (found["error"], found["file"]) == ("", path)
    assert "maker known" in place.pvemcp("backup", "verify", path, "--key", KEY).stdout
    journal = run(["journalctl", "-u", "pvemcp-backup", "-o", "cat"]).stdout
    assert "AGE-SECRET" not in journal

    run(["mv", BACKUPS, f"{BACKUPS}.away"])
    run(["touch", BACKUPS])
    assert run(["systemctl", "start", "pvemcp-backup.service"], check=False).code != 0
    assert "cannot be written" in run(["journalctl", "-u", "pvemcp-backup", "-o", "cat"]).stdout
    assert "cannot be written" in json.loads(run(["cat", status], user="pvemcp").stdout)["error"]
    assert "FAIL  backup" in place.pvemcp("doctor", code=1).stdout
    run(["rm", BACKUPS])
    run(["mv", f"{BACKUPS}.away", BACKUPS])
    run(["systemctl", "reset-failed", "pvemcp-backup.service"])


async def test_what_was_wiped_comes_back_and_the_client_gets_in(place: Place, secret: str) -> None:
    path, run = backup(place), place.machine.run
    before = run(["stat", "-c", "%a %U:%G %n", "/etc/pvemcp/pvemcp.toml", "/var/lib/pvemcp"]).stdout
    run(["systemctl", "stop", "pvemcp.service"])
    run(["sh", "-c", "rm -rf /etc/pvemcp/* /var/lib/pvemcp /var/lib/pvemcp-setup"])
    shown = place.pvemcp("restore", path, "--key", KEY, "--dry-run").stdout
    assert "PVE accepts all tokens of the backup" in shown
    assert "make /etc/pvemcp/exec.toml" in shown
    assert run(["ls", "-A", "/etc/pvemcp"]).stdout == ""
    place.pvemcp("restore", path, "--key", KEY, "--yes")
    looked = ["stat", "-c", "%a %U:%G %n", "/etc/pvemcp/pvemcp.toml", "/var/lib/pvemcp"]
    assert run(looked).stdout == before
    until(lambda: lets_in(place, secret), "the service", seconds=20)
    async with place.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
    assert run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""


def test_a_restore_that_is_killed_leaves_the_old_state_and_the_service_running(
    place: Place, secret: str
) -> None:
    path, machine = backup(place), place.machine
    place.pvemcp("client", "add", "later", "--role", "observer")
    before = machine.run(["sh", "-c", "sha256sum /etc/pvemcp/*"]).stdout
    argv = ["pvemcp", "restore", path, "--key", KEY, "--yes", "--without-pve"]
    with machine.popen(argv, stderr=subprocess.PIPE) as restoring:
        assert restoring.stderr is not None
        for line in restoring.stderr:
            if b"stopping the service" in line:
                restoring.kill()
                break
    until(lambda: lets_in(place, secret), "the service", seconds=20)
    assert machine.run(["sh", "-c", "sha256sum /etc/pvemcp/*"]).stdout == before
    assert re.search("^later", place.pvemcp("client", "list").stdout, re.MULTILINE)
    until(lambda: lets_in(place, secret), "the service", seconds=20)
    place.pvemcp("client", "revoke", "later")


def test_what_a_lost_machine_left_half_way_is_taken_back_before_the_service_starts(
    place: Place, secret: str
) -> None:
    run = place.machine.run
    run(["systemctl", "stop", "pvemcp.service"])
    old, new = "/etc/pvemcp/.pvemcp.toml.restore-0.old", "/etc/pvemcp/.pvemcp.toml.restore-0.new"
    run(["mv", "/etc/pvemcp/pvemcp.toml", old])  # as after the first of two renames
    entry = {"path": "/etc/pvemcp/pvemcp.toml", "old": old, "new": new, "existed": True}
    journal = {
        "stage": "switching",
        "entries": [entry],
        "folders": [],
        "note": {"units": {}, "tokens": []},
    }
    place.machine.copy_in(json.dumps(journal).encode(), "/var/lib/pvemcp-setup/restore.json")
    run(["systemctl", "start", "pvemcp.service"])
    there = run(["ls", "-A", "/etc/pvemcp"]).stdout.split()
    assert "pvemcp.toml" in there
    assert not [name for name in there if "restore" in name]
    said = run(["journalctl", "-u", "pvemcp-recover", "-o", "cat"]).stdout
    assert "the old state is in place again" in said
    until(lambda: lets_in(place, secret), "the service", seconds=20)


def test_a_restore_with_a_full_disk_leaves_the_old_state(place: Place, secret: str) -> None:
    run, units = place.machine.run, "/etc/systemd/system"
    place.machine.copy_in(b"[Service]\nNice=1\n", f"{units}/pvemcp.service.d/own.conf")
    path = backup(place)
    run(["rm", "-r", f"{units}/pvemcp.service.d"])
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", units])
    try:
        run(["sh", "-c", f"head -c 1M /dev/zero > {units}/full; true"])
        before = run(["sh", "-c", _SUMS]).stdout
        refused = place.pvemcp("restore", path, "--key", KEY, "--yes", "--without-pve", code=2)
        assert "No space left on device" in refused.stderr
        assert "The old state is in place again" in refused.stderr
        assert run(["sh", "-c", _SUMS]).stdout == before
    finally:
        run(["umount", units])
        run(["systemctl", "daemon-reload"])
    until(lambda: lets_in(place, secret), "the service", seconds=20)


async def test_the_same_client_gets_in_on_a_second_host(
    place: Place, secret: str, second: Place
) -> None:
    path, other = backup(place), second.machine
    content = (place.machine.root / path.lstrip("/")).read_bytes()
    other.copy_in(content, "/root/first.age", mode=0o600)
    other.copy_in((place.machine.root / KEY.lstrip("/")).read_bytes(), KEY, mode=0o600)
    done = second.pvemcp("restore", "/root/first.age", "--key", KEY, "--yes")
    assert "a new one is made, with MCPOperator on /" in done.stdout
    assert f"set pve_url to '{second.pve['url']}'" in done.stdout
    until(lambda: lets_in(second, secret), "the service", seconds=20)
    async with second.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
    assert re.search("^laptop +ok", second.pvemcp("client", "list").stdout, re.MULTILINE)
    assert "FAIL" not in second.pvemcp("doctor").stdout
    assert Path(path).name.startswith("pvemcp-")
