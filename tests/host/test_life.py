"""A whole life of an installation, on one Debian twice in a row on the same two hosts.

Installed, set up, used by a client from another network, upgraded, taken back, backed up, purged,
and restored on a second host, where the same client gets in again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host import needs
from tests.host.images import Suite
from tests.host.install import changed, install, remove
from tests.host.machine import Machine
from tests.host.served import SECRET
from tests.host.test_restore import KEY, backup, lets_in
from tests.host.test_setup import Place, place_in
from tests.host.test_upgrade import CODE, MIGRATION
from tests.host.waiting import until

CARRIED = "/root/carried.age"
_LEFT = "find /etc /usr /var/lib /run -xdev -name '*pvemcp*' -not -path '/etc/pve/*'"
"""/etc/pve is the cluster's: other nodes still serve the clients that are kept there."""


async def works(place: Place, secret: str) -> None:
    """A client gets in over the network, sees the guests, and runs a command."""
    until(lambda: lets_in(place, secret), "the service", seconds=20)
    async with place.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
        assert (await client.call("host_run", command="echo here")).endswith("\nhere")


def set_up(place: Place, client: str) -> str:
    """Set up a place with a client and a key for its backups; return the client's secret."""
    place.machine.run(["rm", "-f", KEY])
    done = place.pvemcp("setup", "--yes", "--client", client)
    assert "FAIL" not in done.stdout
    place.pvemcp("backup", "init", "--key-file", KEY)
    [secret] = set(map(str, SECRET.findall(done.stdout)))
    return secret


def purge(place: Place) -> None:
    """Remove everything but what Proxmox VE keeps, and see that nothing is left."""
    remove(place.machine, purge=True)
    assert place.machine.run(["sh", "-c", _LEFT]).stdout.split() == []
    running = place.machine.run(["pgrep", "-fa", "/usr/lib/pvemcp"]).stdout.splitlines()
    assert [line for line in running if " simulate " not in line] == []


@pytest.mark.timeout(400, func_only=True)
async def test_a_whole_life_and_a_second_one(suite: Suite, other: Machine, tmp_path: Path) -> None:
    lives = 1 if needs.once(suite, "bookworm") else 2
    newer = changed("8", tmp_path, {f"{CODE}/migrations.py": MIGRATION})
    other.boot()
    first = place_in(other)
    with Machine.create(suite, tmp_path / "second") as machine:
        machine.boot()
        second = place_in(machine)
        for number in range(lives):
            secret = set_up(first, f"laptop{number}")
            await works(first, secret)
            install(first.machine, newer)
            await works(first, secret)
            first.machine.run(["pvemcp", "rollback"], timeout=150)
            await works(first, secret)
            path = backup(first)
            for there, here in ((path, CARRIED), (KEY, KEY)):
                content = (first.machine.root / there.lstrip("/")).read_bytes()
                second.machine.copy_in(content, here, mode=0o600)
            purge(first)
            second.pvemcp("restore", CARRIED, "--key", KEY, "--yes")
            await works(second, secret)
            purge(second)
            # As another host than before: it knows no clients of this cluster.
            second.machine.run(["rm", "-r", "/etc/pve/priv/pvemcp"])
            for place in (first, second):
                install(place.machine)
