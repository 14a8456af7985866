"""systemd knows when the service is ready, and starts it anew when it lives no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.served import UNIT, Served
from tests.host.waiting import until

DROP_IN = f"/run/systemd/system/{UNIT}.d/quick.conf"
QUICK = b"[Service]\nWatchdogSec=2\nRestartSec=100ms\n"
STATE = "/var/lib/pvemcp"
DATABASE = f"{STATE}/pvemcp.db"
SECONDS = 25


def shown(host: Served, name: str) -> str:
    return host.machine.run(["systemctl", "show", "-P", name, UNIT]).stdout.strip()


@pytest.fixture
def quick(host: Served) -> Iterator[Served]:
    """The service with a watchdog that does not wait long."""
    host.machine.copy_in(QUICK, DROP_IN)
    host.machine.run(["systemctl", "daemon-reload"])
    host.restart()
    yield host
    host.machine.run(["rm", "-r", DROP_IN.rpartition("/")[0]])
    host.machine.run(["systemctl", "daemon-reload"])
    host.restart()


def test_systemd_waits_until_the_service_is_ready_and_knows_what_it_does(host: Served) -> None:
    assert shown(host, "Type") == "notify"
    assert shown(host, "StatusText") == f"MCP at {host.url}"
    assert shown(host, "WatchdogUSec") == "30s"


async def test_a_service_that_hangs_is_started_anew_and_has_lost_nothing(quick: Served) -> None:
    grant = quick.grant("hung", ceiling="read")
    hung = shown(quick, "MainPID")
    quick.machine.run(["kill", "-STOP", hung])
    until(lambda: shown(quick, "MainPID") not in {hung, "0"}, "another process", seconds=SECONDS)
    until(lambda: shown(quick, "SubState") == "running", "its start", seconds=SECONDS)
    assert "Watchdog timeout" in quick.journal()
    async with quick.client(grant) as client:
        assert "12 guests" in await client.call("inventory_find")


def test_a_service_whose_database_cannot_be_read_says_so_and_is_ended(
    quick: Served,
) -> None:
    machine, before = quick.machine, shown(quick, "MainPID")
    machine.run(["sh", "-c", f"mkdir {STATE}/away; mv {DATABASE}* {STATE}/away"])
    until(lambda: "self-check failed" in quick.journal(), "the finding", seconds=SECONDS)
    until(lambda: shown(quick, "MainPID") != before, "the end of the process", seconds=SECONDS)
    # What it made in the meantime goes: its database knows no grants.
    machine.run(["systemctl", "stop", UNIT])
    machine.run(["sh", "-c", f"rm -f {DATABASE}*; mv {STATE}/away/* {STATE}; rmdir {STATE}/away"])
    machine.run(["systemctl", "start", UNIT])
    assert shown(quick, "StatusText") == f"MCP at {quick.url}"


def test_a_stop_is_in_order(host: Served) -> None:
    host.machine.run(["systemctl", "stop", UNIT])
    assert shown(host, "Result") == "success"
    assert shown(host, "ExecMainStatus") == "0"
    host.restart()
