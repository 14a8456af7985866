"""The port of the service, tried from a network namespace inside and outside what is allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.served import PORT, Served
from tests.host.waiting import until

FILE = "/etc/pvemcp/firewall.nft"
UNIT = "pvemcp-firewall.service"
OTHERS = b"""
table inet his {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 9 drop comment "his own"
	}
}
table ip pvemcp {
}
"""
NEAR = ("10.99.1.2", "fd99:1::2")
"""Where clients in this host's own networks are; the others come through a router."""
FAR = ("192.0.2.9", "2001:db8::9")
NETWORK = """
ip netns add clients
ip link add out0 type veth peer name in0 netns clients
ip addr add 10.99.1.1/24 dev out0
ip addr add fd99:1::1/64 dev out0 nodad
ip link set out0 up
ip netns exec clients ip addr add 10.99.1.2/24 dev in0
ip netns exec clients ip addr add 192.0.2.9/32 dev in0
ip netns exec clients ip addr add fd99:1::2/64 dev in0 nodad
ip netns exec clients ip addr add 2001:db8::9/128 dev in0 nodad
ip netns exec clients ip link set lo up
ip netns exec clients ip link set in0 up
ip route add 192.0.2.9/32 via 10.99.1.2
ip route add 2001:db8::9/128 via fd99:1::2
"""
TRY = """
import socket, sys
source, port = sys.argv[1:]
target = "fd99:1::1" if ":" in source else "10.99.1.1"
try:
    socket.create_connection((target, int(port)), timeout=0.7, source_address=(source, 0)).close()
    print("answers")
except TimeoutError:
    print("silent")
"""


@pytest.fixture(scope="module")
def host_open(host: Served) -> Iterator[Served]:
    """The service on every address, without rules, with clients in a namespace of their own."""
    machine = host.machine
    machine.run(["sh", "-ec", NETWORK])
    machine.copy_in(OTHERS, "/root/his.nft")
    machine.run(["nft", "-f", "/root/his.nft"])
    host.restart(listen=f"[::]:{PORT}")
    yield host
    machine.run(["pvemcp", "firewall", "remove"])
    machine.run(["ip", "netns", "del", "clients"])
    machine.run(["sh", "-ec", "nft delete table inet his; nft delete table ip pvemcp"])
    host.restart()


@pytest.fixture
def opened(host_open: Served) -> Iterator[Served]:
    before = rule_set(host_open)
    yield host_open
    firewall(host_open, "remove")
    assert rule_set(host_open) == before


def firewall(host: Served, *words: str, code: int = 0) -> str:
    return host.pvemcp("firewall", *words, user="root", code=code).stdout


def rule_set(host: Served) -> str:
    return host.machine.run(["nft", "list", "ruleset"]).stdout


def reach(host: Served, *sources: str) -> list[str]:
    """Return for each address of a client whether the port answers it."""
    tried = ["ip", "netns", "exec", "clients", "python3", "-c", TRY]
    return [host.machine.run([*tried, one, str(PORT)]).stdout.strip() for one in sources]


ANSWERS, SILENT = ["answers"] * 2, ["silent"] * 2


def test_only_own_networks_reach_the_port_until_another_is_allowed(opened: Served) -> None:
    before = rule_set(opened)
    assert reach(opened, *NEAR, *FAR) == [*ANSWERS, *ANSWERS]

    assert "10.99.1.0/24" in firewall(opened, "allow")
    assert reach(opened, *NEAR, *FAR) == [*ANSWERS, *SILENT]

    said = firewall(opened, "allow", "192.0.2.0/24", "2001:db8::/32")
    assert "192.0.2.0/24, fd99:1::/64" in said.replace("2001:db8::/32, ", "")
    assert reach(opened, *NEAR, *FAR) == [*ANSWERS, *ANSWERS]
    shown = firewall(opened, "status")
    assert "tcp dport { 8081, 8443 } jump service" in shown
    assert "WARN" not in shown

    firewall(opened, "deny", "192.0.2.9", "2001:db8::/32", "10.99.1.0/24")
    assert reach(opened, *NEAR, *FAR) == ["silent", "answers", *SILENT]

    assert "inet pvemcp" in firewall(opened, "remove")
    assert rule_set(opened) == before
    assert opened.machine.run(["test", "-e", FILE], check=False).code == 1
    assert reach(opened, *NEAR, *FAR) == [*ANSWERS, *ANSWERS]


async def test_an_mcp_client_inside_is_served_and_the_host_itself_always(opened: Served) -> None:
    secret = opened.grant("guarded", ceiling="read")
    firewall(opened, "allow")
    async with opened.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
    firewall(opened, "deny", "0.0.0.0/0", "::/0")
    assert reach(opened, *NEAR, *FAR) == [*SILENT, *SILENT]
    for address in ("127.0.0.1", "::1", opened.machine.address):
        asked = f"exec 3<>/dev/tcp/{address}/{PORT}"
        assert opened.machine.run(["bash", "-c", asked], check=False).code == 0, address


def test_everybody_can_be_let_in(opened: Served) -> None:
    firewall(opened, "allow", "0.0.0.0/0", "::/0")
    assert reach(opened, *NEAR, *FAR) == [*ANSWERS, *ANSWERS]


def test_the_rules_come_back_after_what_flushes_everything(opened: Served) -> None:
    machine, others = opened.machine, rule_set(opened)
    firewall(opened, "allow")
    for act in ("restart", "reload"):
        machine.run(["systemctl", act, "nftables.service"])
        until(lambda: "table inet pvemcp" in rule_set(opened), f"the rules after a {act}")
        assert reach(opened, *FAR) == SILENT
    machine.run(["systemctl", "stop", "nftables.service"])
    machine.run(["nft", "-f", "-"], stdin=others.encode())
    assert "is not loaded: something flushed it" in firewall(opened, "status", code=1)
    firewall(opened, "allow")
    assert "WARN" not in firewall(opened, "status")
    assert reach(opened, *FAR) == SILENT


def test_the_rules_are_loaded_before_the_service_starts(opened: Served) -> None:
    machine = opened.machine
    firewall(opened, "allow")
    machine.run(["systemctl", "stop", "pvemcp.service", UNIT])
    assert "table inet pvemcp" not in rule_set(opened)
    machine.run(["systemctl", "start", "pvemcp.service"])
    assert "table inet pvemcp" in rule_set(opened)
    order = machine.run(["systemctl", "show", "-P", "After", "pvemcp.service"]).stdout
    assert UNIT in order.split()


def test_what_is_no_network_changes_nothing(opened: Served) -> None:
    firewall(opened, "allow")
    before = rule_set(opened)
    refused = opened.pvemcp("firewall", "allow", "10.0.0.1/8", user="root", code=2)
    assert "10.0.0.0/8" in refused.stderr
    assert rule_set(opened) == before


def test_another_user_is_refused_in_words(opened: Served) -> None:
    for words in (("status",), ("allow",), ("remove",)):
        refused = opened.pvemcp("firewall", *words, code=2)
        assert "root" in refused.stderr
        assert "Traceback" not in refused.stderr
