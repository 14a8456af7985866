"""A newer version replaces an older one, is taken back, and everything goes without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvemcp.migrations import MIGRATIONS
from tests.host.images import HostFault, Suite
from tests.host.install import LIBRARY, changed, install, remove
from tests.host.machine import Machine
from tests.host.served import Served, serve
from tests.host.waiting import until

CODE = f"{LIBRARY}/python/pvemcp"
MIGRATION = (
    '\n)\n"""Each brings',
    '\n    "CREATE TABLE newer (x INTEGER) STRICT;",\n)\n"""Each brings',
)
BROKEN = ("def serve(", "def serve(*_):\n    raise SystemExit(3)\n\n\ndef _serve(")
RULES = ("\n[profiles.read]", "\n# newer\n[profiles.read]")
KEPT = "/var/backups/pvemcp"
OWN = ("/etc/pvemcp", "/var/lib/pvemcp*", "/run/pvemcp*", "/usr/lib/pvemcp", "/usr/bin/pvemcp")
EDIT = "# edited by the administrator"

pytestmark = pytest.mark.timeout(300, func_only=True)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a newer package, and with one that does not start."""
    folder = tmp_path_factory.mktemp("packages")
    newer = {f"{CODE}/migrations.py": MIGRATION, "/etc/pvemcp/exec.toml": RULES}
    changed("8", folder, newer)
    changed("9", folder, {**newer, f"{CODE}/app.py": BROKEN})
    return folder


@pytest.fixture(scope="module")
def old(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service in a machine of this module's own: each test leaves this version running."""
    with Machine.create(suite, tmp_path_factory.mktemp(f"{suite}-upgrade")) as machine:
        machine.boot()
        install(machine)
        yield serve(machine)


def version(host: Served) -> str:
    shown = host.machine.run(["dpkg-query", "-Wf", "${db:Status-Abbrev} ${Version}", "pvemcp"])
    return shown.stdout


def schema(host: Served) -> int:
    code = "import sqlite3; print(sqlite3.connect('/var/lib/pvemcp/pvemcp.db').execute('PRAGMA user_version').fetchone()[0])"  # noqa: E501
    return int(host.machine.run(["python3", "-c", code], user="pvemcp").stdout)


def active(host: Served) -> str:
    return host.machine.run(["systemctl", "is-active", "pvemcp"], check=False).stdout.strip()


def back(host: Served, *words: str, code: int = 0) -> str:
    """Take an upgrade back; return what it says."""
    done = host.machine.run(["pvemcp", "rollback", *words], check=False, timeout=150)
    assert done.code == code, done
    return done.stdout + done.stderr


@contextmanager
def damaged(machine: Machine, path: str) -> Iterator[None]:
    """Damage a file for a while."""
    machine.run(["cp", path, "/root/good"])
    machine.run(["truncate", "-s", "1M", path])
    yield
    machine.run(["mv", "/root/good", path])


def doctor(host: Served) -> str:
    return host.machine.run(["pvemcp", "doctor"], check=False, timeout=60).stdout


async def test_an_upgrade_migrates_and_can_be_taken_back(old: Served, packages: Path) -> None:
    before, machine = version(old), old.machine
    secret, revoked = old.grant("keeper", ceiling="read"), old.grant("leaver", ceiling="read")
    machine.run(["sh", "-c", f"echo '{EDIT}' >>/etc/pvemcp/exec.toml"])
    async with old.client(old.grant("worker")) as client:
        job = await client.call("job_start", command="sleep 1000")
        assert "job" in job
    install(machine, packages / "pvemcp_8.deb")
    assert version(old).startswith("ii  8+")
    assert active(old) == "active"
    assert schema(old) == len(MIGRATIONS) + 1
    assert machine.run(["pgrep", "-fc", "^sleep 1000"]).stdout == "1\n", "the job goes on"
    assert EDIT in machine.run(["cat", "/etc/pvemcp/exec.toml"]).stdout
    assert "ok    upgrade  version 8+" in doctor(old)
    kept = machine.run(["sh", "-c", f"stat -c '%a %U' {KEPT} {KEPT}/*"]).stdout
    assert kept == "700 root\n700 root\n"
    async with old.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
    old.pvemcp("grant", "revoke", "leaver")

    planned = back(old, "--dry-run")
    assert "revoked since stay revoked" in planned
    assert version(old).startswith("ii  8+")
    with damaged(machine, f"{KEPT}/upgrade-0.1.0/package.deb"):
        assert "dpkg failed" in back(old, code=2)
    until(lambda: active(old) == "active", "the newer version again", seconds=20)
    assert schema(old) == len(MIGRATIONS) + 1
    assert "is back and ready" in back(old)
    assert version(old) == before
    assert schema(old) == len(MIGRATIONS)
    assert EDIT in machine.run(["cat", "/etc/pvemcp/exec.toml"]).stdout
    assert "was taken back" in doctor(old)
    assert left(machine, f"{KEPT}/*/after/pvemcp.db")
    async with old.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the SDK makes of a 401
        async with old.client(revoked) as client:
            await client.call("inventory_find")
    machine.run(["sh", "-c", f"sed -i '/^{EDIT}$/d' /etc/pvemcp/exec.toml"])


def test_a_version_that_does_not_become_ready_says_how_to_go_back(
    old: Served, packages: Path
) -> None:
    before = version(old)
    said = install(old.machine, packages / "pvemcp_9.deb").stdout
    assert "did not become ready" in said
    assert "pvemcp rollback" in said
    assert "FAIL  upgrade  version 9+" in doctor(old)
    assert "is back and ready" in back(old)
    assert version(old) == before
    assert active(old) == "active"
    assert "# newer" not in old.machine.run(["cat", "/etc/pvemcp/exec.toml"]).stdout
    assert "nothing to go back to" in back(old, code=2)


def test_without_room_for_a_way_back_nothing_is_upgraded(old: Served, packages: Path) -> None:
    machine, before = old.machine, version(old)
    pid = machine.run(["systemctl", "show", "-P", "MainPID", "pvemcp"]).stdout
    machine.run(["rm", "-rf", KEPT])
    machine.run(["install", "-d", "-m", "0700", KEPT])
    machine.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", KEPT])
    try:
        refused = install(machine, packages / "pvemcp_8.deb", code=100)
        assert "MiB are needed" in refused.stdout + refused.stderr
        assert version(old) == before
        assert machine.run(["systemctl", "show", "-P", "MainPID", "pvemcp"]).stdout == pid
        assert machine.run(["ls", "-A", KEPT]).stdout == ""
    finally:
        machine.run(["umount", KEPT])


def test_only_root_takes_an_upgrade_back(old: Served) -> None:
    assert "Only root" in old.pvemcp("rollback", code=2).stderr


async def test_removed_and_purged_it_leaves_nothing_and_can_be_installed_again(
    old: Served,
) -> None:
    machine = old.machine
    secret = old.grant("stayer")
    async with old.client(secret) as client:
        await client.call("job_start", command="sleep 1001")
    remove(machine)
    assert left(machine, "/etc/pvemcp", "/var/lib/pvemcp") == "/etc/pvemcp\n/var/lib/pvemcp\n"
    assert left(machine, *OWN[2:]) == ""
    for user in ("pvemcp", "pvemcp-run"):
        assert machine.run(["pgrep", "-u", user], check=False).stdout == ""
    assert machine.run(["pgrep", "-f", "^sleep 1001"], check=False).stdout == ""
    install(machine)
    until(lambda: active(old) == "active", "the service with its old settings", seconds=20)
    async with old.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
    said = remove(machine, purge=True).stdout
    assert "Kept: the users" in said
    assert left(machine, *OWN) == ""
    assert machine.run(
        ["sh", "-c", "find / -xdev -name '*pvemcp*' ! -path '/proc/*' | sort"]
    ).stdout.split() == [KEPT]
    units = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "*pvemcp*"]
    assert machine.run(units).stdout == ""
    said = install(machine).stdout
    assert "Next, as root: pvemcp setup" in said
    assert active(old) == "inactive"
    assert left(machine, "/run/pvemcp-helper.sock")


def left(machine: Machine, *patterns: str) -> str:
    """Return what is still there of some paths."""
    return machine.run(["sh", "-c", f"ls -d {' '.join(patterns)} 2>/dev/null || :"]).stdout


def test_the_test_packages_differ_from_this_one(packages: Path) -> None:
    with pytest.raises(HostFault, match="has no"):
        changed("7", packages, {f"{CODE}/store.py": ("nowhere to be found", "")})
