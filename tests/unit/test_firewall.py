"""Who may reach the service: networks, the rules in a simulated PVE, and where rules belong."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import Conflict, Invalid, Rejected
from pvemcp.setup.firewall import Firewall
from pvemcp.setup.networks import Network, merged, own_networks, parse, without
from pvemcp.setup.nft_table import NftTable, text_of
from pvemcp.setup.pve_rules import LONGEST, PveRules
from pvemcp.sim.world import World
from tests.unit.sim_rig import Caller, root

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
OWN = parse(["10.0.0.0/24", "fe80::/64"])
PATH = "/nodes/pve1/firewall/rules"


class Api:
    """The API of a simulated PVE for root, as a blocking caller has it."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def get(self, path: str, /, **params: Any) -> Any:
        return self._ask("GET", path, params)

    def post(self, path: str, /, **params: Any) -> Any:
        return self._ask("POST", path, params)

    def put(self, path: str, /, **params: Any) -> Any:
        return self._ask("PUT", path, params)

    def delete(self, path: str, /, **params: Any) -> Any:
        return self._ask("DELETE", path, params)

    def _ask(self, verb: str, path: str, params: dict[str, Any]) -> Any:
        reply = asyncio.run(self._caller.ask(verb, path, **params))
        if reply.status != 200:
            raise Rejected(reply.reason, hint=reply.body.decode())
        return json.loads(reply.body)["data"]


class Table(NftTable):
    """The table where the kernel has none: its file alone."""

    def rules(self) -> list[str]:
        return (self._text() or "").splitlines()

    def write(self, sources: Any, ports: Any) -> None:
        self.file.write_text(text_of(sources, ports))

    def remove(self) -> bool:
        there = self.file.exists()
        self.file.unlink(missing_ok=True)
        return there


class Host:
    """A host of a simulated cluster whose administrator has rules of his own."""

    def __init__(self, file: Path) -> None:
        caller = root()
        self.world: World = caller.world
        self.api = Api(caller)
        self.table = Table(file)
        self.api.post(PATH, type="in", action="ACCEPT", proto="tcp", dport="22", comment="his")

    def switch(self, **options: Any) -> None:
        self.api.put("/cluster/firewall/options", **options)

    def firewall(self, *ports: int) -> Firewall:
        return Firewall(lambda: ports or (8080, 8081), self.table, PveRules(self.api), lambda: OWN)

    def listed(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.api.get(PATH)
        return rows


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "firewall.nft")


def nets(*texts: str) -> list[Network]:
    return parse(texts)


# Networks ------------------------------------------------------------------------------------

_NETWORKS = st.lists(
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)).flatmap(
        lambda text: st.integers(0, 128 if ":" in text else 32).map(
            lambda bits: ipaddress.ip_network(f"{text}/{bits}", strict=False)
        )
    ),
    max_size=6,
)


@given(allowed=_NETWORKS, gone=_NETWORKS, probe=st.ip_addresses())
def test_what_is_denied_is_out_and_the_rest_stays(
    allowed: list[Network], gone: list[Network], probe: Address
) -> None:
    def holds(networks: list[Network], address: Address) -> bool:
        return any(address in one for one in networks if one.version == address.version)

    left = without(allowed, gone)
    edges = [edge for one in [*allowed, *gone] for edge in (one[0], one[-1])]
    for address in [probe, *edges]:
        assert holds(left, address) == (holds(allowed, address) and not holds(gone, address))
        assert holds(merged(allowed), address) == holds(allowed, address)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.0.0.5/24", "10.0.0.0/24"),
        ("fe80::1/64", "fe80::/64"),
        ("lan", "192.0.2.0/24"),
        ("10.0.0.0/33", "192.0.2.0/24"),
        ("10.0.0.0/8; flush ruleset", "192.0.2.0/24"),
        ("", "192.0.2.0/24"),
    ],
)
def test_what_is_no_network_is_refused_with_the_right_one(text: str, hint: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse([text])
    assert hint in caught.value.hint


def test_this_computers_networks_have_no_loopback() -> None:
    assert not [one for one in own_networks() if one.is_loopback or one.num_addresses == 1]


# Rules in PVE's firewall -----------------------------------------------------------------------


def test_rules_go_on_top_of_pves_switched_on_and_are_undone_exactly(host: Host) -> None:
    host.switch(enable=1)
    before = host.listed()
    assert host.firewall().allow(nets("192.0.2.0/24")) == nets(
        "10.0.0.0/24", "192.0.2.0/24", "fe80::/64"
    )
    shown = [
        (row["pos"], row["action"], row.get("source"), row["dport"], row["enable"])
        for row in host.listed()
    ]
    assert shown == [
        (0, "ACCEPT", "10.0.0.0/24,192.0.2.0/24", "8080,8081", 1),
        (1, "ACCEPT", "fe80::/64", "8080,8081", 1),
        (2, "DROP", None, "8080,8081", 1),
        (3, "ACCEPT", None, "22", 0),
    ]
    assert host.firewall().status().problems == []
    assert host.firewall().remove() == ["PVE's firewall, at the level of this host"]
    assert host.listed() == before
    assert host.firewall().remove() == []


def test_a_change_replaces_the_rules_and_leaves_the_others(host: Host) -> None:
    host.switch(enable=1)
    before = host.listed()
    host.firewall().allow([])
    host.api.post(PATH, type="in", action="DROP", source="203.0.113.9", comment="later")
    host.firewall().deny(nets("10.0.0.128/25"))
    sources = [row.get("source") for row in host.listed() if "pvemcp" in row["comment"]]
    assert sources == ["10.0.0.0/25", "fe80::/64", None]
    host.firewall().remove()
    assert [row["comment"] for row in host.listed()] == ["later", "his"]
    host.api.delete(f"{PATH}/0")
    assert host.listed() == before


def test_many_networks_are_spread_over_rules_that_pve_takes(host: Host) -> None:
    host.switch(enable=1)
    many = [ipaddress.ip_network(f"192.0.2.{2 * number}/32") for number in range(100)]
    host.firewall().allow(many)
    lengths = [len(row["source"]) for row in host.listed() if row.get("source")]
    assert len(lengths) > 3
    assert max(lengths) <= LONGEST
    assert host.firewall().sources() == merged([*OWN, *many])


def test_a_failure_half_way_leaves_the_rules_as_they_were(host: Host) -> None:
    host.switch(enable=1)
    host.firewall().allow([])
    before = host.listed()
    host.world.faults.answer_596_after_write()
    with pytest.raises(Rejected):
        host.firewall().allow(nets("192.0.2.0/24"))
    assert host.listed() == before


def test_a_rule_changed_by_hand_is_not_overwritten(host: Host) -> None:
    host.switch(enable=1)
    host.firewall().allow([])
    host.api.put(f"{PATH}/0", source="office")
    with pytest.raises(Conflict, match="office"):
        host.firewall().allow([])
    host.firewall().remove()
    assert len(host.listed()) == 1


def test_a_rule_switched_off_by_hand_is_reported_and_repaired(host: Host) -> None:
    host.switch(enable=1)
    host.firewall().allow([])
    host.api.put(f"{PATH}/2", enable=0)
    [problem] = host.firewall().status().problems
    assert "switched off in PVE" in problem
    host.firewall().allow([])
    assert host.firewall().status().problems == []


# Where the rules belong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "node", "in_pve"),
    [
        ({"enable": 0}, {}, False),
        ({"enable": 1}, {}, True),
        ({"enable": 1}, {"enable": 1}, True),
        ({"enable": 1}, {"enable": 0}, False),
    ],
)
def test_rules_stand_where_they_count(
    host: Host, cluster: dict[str, int], node: dict[str, int], in_pve: bool
) -> None:
    host.switch(**cluster)
    if node:
        host.api.put("/nodes/pve1/firewall/options", **node)
    host.firewall().allow([])
    assert (len(host.listed()) > 1, host.table.file.exists()) == (in_pve, not in_pve)


@pytest.mark.parametrize("later", [0, 1])
def test_when_pves_firewall_is_switched_it_is_said_and_repaired(host: Host, later: int) -> None:
    said = ("PVE's firewall was switched off", "but PVE's firewall is on")[later]
    host.switch(enable=1 - later)
    host.firewall().allow(nets("192.0.2.0/24"))
    host.switch(enable=later)
    problems = host.firewall().status().problems
    assert len(problems) == 1
    assert said in problems[0]
    host.firewall().allow([])
    assert host.firewall().status().problems == []
    assert host.firewall().sources() == merged([*OWN, *nets("192.0.2.0/24")])
    assert (len(host.listed()) > 1, host.table.file.exists()) == (bool(later), not later)


def test_another_port_is_reported_and_repaired(host: Host) -> None:
    host.firewall().allow([])
    [problem] = host.firewall(9000).status().problems
    assert "port 8080 and 8081 is guarded" in problem
    host.firewall(9000).allow([])
    assert host.firewall(9000).status().problems == []


@pytest.mark.parametrize("dport", ["8081", "http", "8080:8090"])
def test_a_port_changed_by_hand_is_reported_and_repaired(host: Host, dport: str) -> None:
    host.switch(enable=1)
    host.firewall().allow([])
    host.api.put(f"{PATH}/1", dport=dport)
    assert len(host.firewall().status().problems) == 1
    host.firewall().allow([])
    assert host.firewall().status().problems == []


def test_a_host_without_rules_is_told_so(host: Host) -> None:
    [problem] = host.firewall().status().problems
    assert "nothing of pvemcp guards port 8080 and 8081" in problem


@pytest.mark.parametrize("on", [0, 1])
def test_the_step_lets_own_networks_in_once_and_is_taken_back(host: Host, on: int) -> None:
    host.switch(enable=on)
    before = host.listed()
    [line] = host.firewall().plan()
    assert "10.0.0.0/24" in line
    record = json.loads(json.dumps(host.firewall().apply()))
    assert host.firewall().plan() == []
    host.firewall().deny(nets("fe80::/64"))
    again = host.firewall().apply()
    assert host.firewall().sources() == nets("10.0.0.0/24")
    assert host.firewall().undo(again) == []
    assert len(host.firewall().undo(record)) == 1
    assert host.listed() == before
    assert not host.table.file.exists()


def test_what_an_administrator_allowed_before_set_up_stays(host: Host) -> None:
    host.firewall().allow(nets("192.0.2.0/24"))
    record = host.firewall().apply()
    assert host.firewall().undo(record) == []
    assert host.firewall().sources() == merged([*OWN, *nets("192.0.2.0/24")])
