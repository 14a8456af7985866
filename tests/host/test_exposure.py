"""What is open to an intruder is written down: a change of it must be wanted.

PVEMCP_HOST_SNAPSHOT=write writes tests/host/exposure.json anew.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.exposure import PLANTED, PROBED, look, unit_of
from tests.host.served import Served

SNAPSHOT = Path(__file__).with_name("exposure.json")
WRITE = os.environ.get("PVEMCP_HOST_SNAPSHOT") == "write"
ALL = "systemctl list-units --all --plain --no-legend 'pvemcp*' | cut -d' ' -f1"


@pytest.fixture(scope="module")
def running(host: Served) -> Iterator[Served]:
    """The service, with its helper and its mirror running."""
    host.machine.run(["systemctl", "start", *PROBED])
    yield host
    for path in PLANTED:
        host.machine.run(["rm", "-rf", path])
    host.machine.run(["rm", "-rf", "/etc/pve", "/root/.ssh"])


@pytest.fixture(scope="module")
def found(running: Served) -> dict[str, Any]:
    """What there is."""
    return look(running.machine)


def test_what_is_open_is_what_is_written_down(running: Served, found: dict[str, Any]) -> None:
    written = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    if WRITE:
        SNAPSHOT.write_text(json.dumps(written | {running.machine.suite: found}, indent=1) + "\n")
        return
    assert found == written[running.machine.suite]


def test_the_service_is_exposed_by_one_and_a_half_at_most(found: dict[str, Any]) -> None:
    assert found["units"]["pvemcp.service"]["score"] <= 1.5


def test_the_service_reads_no_secret_but_its_own(found: dict[str, Any]) -> None:
    inside = found["inside"]["pvemcp.service"]
    assert set(inside["reads"]) <= {
        "/var/lib/pvemcp",
        "/etc/pvemcp/pvemcp.toml",
        "/etc/pvemcp/token",
    }
    assert set(inside["writes"]) <= {"/var/lib/pvemcp", "/tmp", "/dev/shm"}
    assert inside["may"] == ["a TCP socket"]


def test_what_runs_as_root_has_no_network_socket_and_can_make_none(
    running: Served, found: dict[str, Any]
) -> None:
    machine = running.machine
    sockets = machine.run(["ss", "-Hantup"]).stdout
    for pid in set(re.findall(r"pid=(\d+)", sockets)):
        if unit_of(machine, pid).startswith("pvemcp"):
            assert machine.run(["stat", "-c", "%U", f"/proc/{pid}"]).stdout == "pvemcp\n"
    for unit in PROBED[1:]:
        assert found["processes"][unit]["Uid"] == "root root root root"
        assert found["inside"][unit]["may"] == []


async def test_no_secret_is_in_the_process_list_the_units_or_the_journal(running: Served) -> None:
    grant = running.grant("secretive", ceiling="read")
    async with running.client(grant) as client:
        await client.call("host_run", command="true")
    machine = running.machine
    token = machine.run(["cat", "/etc/pvemcp/token"]).stdout.strip()
    shown = {
        "ps": machine.run(["ps", "axww", "-o", "args"], user="daemon").stdout
        + machine.run(["ps", "axeww"]).stdout,
        "systemctl show": machine.run(["sh", "-c", f"systemctl show --all $({ALL})"]).stdout,
        "the journal": machine.run(["journalctl", "-b", "-u", "pvemcp*", "-o", "export"]).stdout,
    }
    for where, text in shown.items():
        assert text, where
        assert grant not in text, where
        assert token not in text, where
