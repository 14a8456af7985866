"""Commit-confirm with the real systemd and the installed helper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.host.machine import Machine
from tests.host.served import Served
from tests.host.test_helper import ask, output, refusal
from tests.host.waiting import until

FILE = "/etc/network/interfaces"
SDN, RUNNING = "/etc/network/interfaces.d/sdn", "/etc/pve/sdn/.running-config"
CHANGE, LATE = "ch-00000000c0", "ch-00000000c2"


def operation(name: str, **params: Any) -> dict[str, Any]:
    return {"request": {"do": "operation", "name": name, "params": params, "timeout": 20}}


def write(machine: Machine, text: str, file: str = FILE) -> None:
    """Write a file, by default that of the network's interfaces."""
    machine.run(["mkdir", "-p", str(Path(file).parent)])
    machine.run(["tee", file], stdin=text.encode())


def begin(host: Served, seconds: int, kind: str = "network", change: str = CHANGE) -> None:
    """Arm the way back, as the service's user."""
    asked = operation("commit-begin", change=change, seconds=seconds, kind=kind)
    assert ask(host, asked)[0][-1][0] == "X"


def test_what_nobody_confirms_is_put_back_though_service_and_helper_are_dead(host: Served) -> None:
    machine = host.machine
    write(machine, "auto lo\niface lo inet loopback\n")
    begin(host, 5)
    write(machine, "broken\n")
    machine.run(["systemctl", "kill", "--signal=KILL", "pvemcp.service", "pvemcp-helper.service"])
    until(
        lambda: "loopback" in machine.run(["cat", FILE]).stdout or None,
        "the interfaces as they were",
        seconds=60,
    )
    machine.run(["systemctl", "start", "pvemcp.service"])


def test_an_apply_of_sdn_is_put_back_with_what_all_nodes_share(host: Served) -> None:
    machine = host.machine
    for file in (SDN, RUNNING):
        write(machine, "before\n", file)
    begin(host, 5, "sdn", "ch-00000000c1")
    for file in (SDN, RUNNING):
        write(machine, "after\n", file)
    until(
        lambda: "before" in machine.run(["cat", RUNNING]).stdout or None,
        "the cluster's settings as they were",
        seconds=30,
    )
    assert machine.run(["cat", SDN]).stdout == "before\n"
    machine.run(["rm", SDN, RUNNING])


def test_what_is_confirmed_stands_and_no_timer_is_left(host: Served) -> None:
    machine = host.machine
    write(machine, "auto lo\niface lo inet loopback\n")
    begin(host, 30)
    write(machine, "auto lo\n")
    ask(host, operation("commit-confirm", change=CHANGE))
    timers = machine.run(["systemctl", "list-timers", "--all", "pvemcp-commit-*"]).stdout
    assert "0 timers listed" in timers
    assert machine.run(["cat", FILE]).stdout == "auto lo\n"


def test_nobody_chooses_another_file(host: Served) -> None:
    for kind in ("/etc/shadow", "service; reboot", "../x"):
        asked = operation("commit-begin", change=CHANGE, seconds=30, kind=kind)
        assert "what is changed" in refusal(ask(host, asked)[0])


def test_what_waited_when_the_host_went_down_is_taken_back_at_boot(host: Served) -> None:
    """The shared machine is not booted anew: the timer is stopped, as a reboot would."""
    machine = host.machine
    write(machine, "auto lo\niface lo inet loopback\n")
    begin(host, 300, change=LATE)
    write(machine, "broken\n")
    start = ["systemctl", "start", "pvemcp-commits.service"]
    machine.run(start)
    assert machine.run(["cat", FILE]).stdout == "broken\n"
    machine.run(["systemctl", "stop", f"pvemcp-commit-{LATE}.timer"])
    machine.run(start, check=False)  # this Debian has no ifreload
    assert "loopback" in machine.run(["cat", FILE]).stdout
    became = ask(host, operation("commit-state", change=LATE))[0]
    assert output(became) == "reverted\n"
    machine.run(["systemctl", "reset-failed", "pvemcp-commits.service"], check=False)
