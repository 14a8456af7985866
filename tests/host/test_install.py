"""pvemcp as it is installed on a host: its files, its units, and a client of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.host.served import Served
from tests.scenarios.rig import ERAS, Caller


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_uses_the_installed_service(host: Served, era: str) -> None:
    async with host.client(host.grant(f"reader-{era}", ceiling="read"), era=era) as client:
        assert "12 guests" in await client.call("inventory_find")


async def test_a_client_of_stdio_is_served(host: Served, tmp_path: Path) -> None:
    command = host.machine.command(["pvemcp", "stdio"], user="pvemcp")
    parameters = StdioServerParameters(command=command[0], args=command[1:])
    with (tmp_path / "stderr").open("w") as stderr:
        async with Client(stdio_client(parameters, errlog=stderr), mode=ERAS[-1]) as client:
            assert "12 guests" in await Caller(client).call("inventory_find")


def test_nobody_but_root_may_change_what_is_installed(host: Served) -> None:
    looked = ["find", "/usr/lib/pvemcp", "/usr/bin/pvemcp", "/etc/pvemcp"]
    writable = ["(", "!", "-user", "root", "-o", "-perm", "/022", ")", "!", "-type", "l"]
    assert host.machine.run([*looked, *writable]).stdout == ""
    assert host.machine.run(["stat", "-c", "%a %U", "/var/lib/pvemcp"]).stdout == "700 pvemcp\n"


def test_the_units_say_nothing_that_systemd_does_not_know(host: Served) -> None:
    ours = ["find", "/usr/lib/systemd/system", "-maxdepth", "1", "-type", "f", "-name", "*pvemcp*"]
    units = host.machine.run(ours).stdout.split()
    verified = host.machine.run(["systemd-analyze", "verify", "--man=no", *units])
    assert verified.stderr == ""


def test_the_socket_of_the_helper_is_the_services_alone(host: Served) -> None:
    shown = host.machine.run(["stat", "-c", "%a %U", "/run/pvemcp-helper.sock"]).stdout
    assert shown == "600 pvemcp\n"


def test_the_service_runs_as_a_user_without_privileges(host: Served) -> None:
    pid = host.machine.run(["systemctl", "show", "-P", "MainPID", "pvemcp.service"]).stdout.strip()
    status = host.machine.run(["cat", f"/proc/{pid}/status"]).stdout
    uid = host.machine.run(["id", "-u", "pvemcp"]).stdout.strip()
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status
