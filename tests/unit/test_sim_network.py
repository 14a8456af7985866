"""Interfaces and SDN as the simulator keeps them: staged first, as PVE has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pvemcp.sim.world import make_world
from tests.unit.sim_rig import Caller, caller, errors, failure, root

NET = "/nodes/pve1/network"
BRIDGE = {"type": "bridge", "bridge_ports": "eno2", "cidr": "10.9.0.1/24", "autostart": 1}
SDN = "/cluster/sdn"


@pytest.fixture
def api() -> Caller:
    return root()


async def changes(api: Caller) -> str:
    """Return the difference that PVE shows beside the list of interfaces."""
    reply = await api.ask("GET", NET)
    return str(json.loads(reply.body).get("changes", ""))


async def pending(api: Caller, kind: str) -> dict[str, Any]:
    """Return objects with what waits, by name."""
    rows = await api.data("GET", f"{SDN}/{kind}", pending=1)
    return {row[kind.removesuffix("s")]: row for row in rows}


async def test_an_interface_is_staged_until_the_network_is_reloaded(api: Caller) -> None:
    await api.data("POST", NET, iface="vmbr1", **BRIDGE)
    shown = await api.data("GET", f"{NET}/vmbr1")
    assert (shown["address"], shown["netmask"], shown["method"]) == ("10.9.0.1", "24", "static")
    assert "active" not in shown
    assert "+iface vmbr1 inet static" in await changes(api)
    assert "vmbr1" not in api.world.nodes["pve1"].interfaces
    assert await api.task("PUT", NET) == "OK"
    assert (await api.data("GET", f"{NET}/vmbr1"))["active"] == 1
    assert await changes(api) == ""


async def test_what_is_staged_can_be_thrown_away(api: Caller) -> None:
    await api.data("DELETE", f"{NET}/vmbr0")
    assert errors(await api.ask("GET", f"{NET}/vmbr0")) == {"iface": "interface does not exist"}
    await api.data("DELETE", NET)
    assert (await api.data("GET", f"{NET}/vmbr0"))["address"] == api.world.nodes["pve1"].ip


async def test_a_change_without_the_address_makes_an_interface_manual(api: Caller) -> None:
    await api.data("PUT", f"{NET}/vmbr0", type="bridge", comments="uplink")
    shown = await api.data("GET", f"{NET}/vmbr0")
    assert (shown["method"], shown["comments"]) == ("manual", "uplink\n")


async def test_a_card_stays_in_the_list_when_it_is_removed(api: Caller) -> None:
    await api.data("PUT", f"{NET}/eno1", type="eth", mtu=9000)
    await api.data("DELETE", f"{NET}/eno1")
    shown = await api.data("GET", f"{NET}/eno1")
    assert (shown["exists"], "mtu" in shown) == (1, False)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"iface": "vmbr0", "type": "bridge"}, "iface"),
        ({"iface": "vmbr1", "type": "bridge", "bridge_ports": "eno1"}, "bridge_ports"),
        ({"iface": "vmbr1", "type": "bridge", "gateway": "192.0.2.9"}, "gateway"),
        ({"iface": "vmbr1", "type": "bridge", "address": "10.0.0.1"}, "netmask"),
        (
            {"iface": "vmbr1", "type": "bridge", "cidr": "10.0.0.1/8", "address": "10.0.0.1",
             "netmask": "8"},
            "address",
        ),
    ],
)  # fmt: skip
async def test_an_interface_that_cannot_be_is_refused(
    api: Caller, wrong: dict[str, str], name: str
) -> None:
    assert list(errors(await api.ask("POST", NET, **wrong))) == [name]


async def test_only_who_may_modify_the_node_changes_its_network() -> None:
    bob = caller(make_world("homelab"), nodes="PVEAuditor")
    reply = await bob.ask("PUT", NET)
    assert failure(reply) == (403, "Permission check failed (/nodes/pve1, Sys.Modify)")


async def lab(api: Caller) -> None:
    """Write a zone with a vnet and a subnet in it."""
    await api.data("POST", f"{SDN}/zones", zone="lab", type="simple")
    await api.data("POST", f"{SDN}/vnets", vnet="vnet1", zone="lab")
    subnet = {"subnet": "10.9.0.0/24", "type": "subnet", "gateway": "10.9.0.1"}
    await api.data("POST", f"{SDN}/vnets/vnet1/subnets", **subnet)


async def test_sdn_waits_until_it_is_applied(api: Caller) -> None:
    await lab(api)
    assert (await pending(api, "vnets"))["vnet1"]["state"] == "new"
    assert await api.data("GET", f"{SDN}/vnets", running=1) == []
    assert await api.task("PUT", SDN) == "OK"
    assert "state" not in (await pending(api, "vnets"))["vnet1"]
    bridges = await api.data("GET", NET, type="any_bridge")
    assert {row["iface"] for row in bridges} == {"vmbr0", "vnet1"}

    await api.data("PUT", f"{SDN}/vnets/vnet1", alias="web")
    waits = (await pending(api, "vnets"))["vnet1"]
    assert (waits["state"], waits["pending"]) == ("changed", {"alias": "web"})
    await api.data("DELETE", f"{SDN}/vnets/vnet1/subnets/lab-10.9.0.0-24")
    [subnet] = await api.data("GET", f"{SDN}/vnets/vnet1/subnets", pending=1)
    assert subnet["state"] == "deleted"
    await api.data("POST", f"{SDN}/rollback")
    assert "alias" not in await api.data("GET", f"{SDN}/vnets/vnet1")


async def test_applying_sdn_takes_over_what_nodes_have_staged(api: Caller) -> None:
    await api.data("POST", NET, iface="vmbr1", **BRIDGE)
    await api.task("PUT", SDN)
    assert "vmbr1" in api.world.nodes["pve1"].interfaces


async def test_what_is_in_use_is_not_removed(api: Caller) -> None:
    await lab(api)
    said = failure(await api.ask("DELETE", f"{SDN}/zones/lab"))
    assert said == (500, "delete sdn zone object failed: zone lab is used by vnet vnet1")
    reply = await api.ask("DELETE", f"{SDN}/vnets/vnet1")
    assert b"Can't delete vnet if subnets exists" in reply.body
    reply = await api.ask("POST", f"{SDN}/vnets", vnet="vnet1", zone="lab")
    assert "already defined" in reply.reason


async def test_who_may_change_a_vnet_is_decided_in_its_zone(api: Caller) -> None:
    await lab(api)
    bob = caller(api.world, sdn_zones_lab="PVESDNUser")
    assert [row["vnet"] for row in await bob.data("GET", f"{SDN}/vnets")] == ["vnet1"]
    reply = await bob.ask("PUT", f"{SDN}/vnets/vnet1", alias="x")
    said = "Permission check failed (/sdn/zones/lab/vnet1, SDN.Allocate)"
    assert failure(reply) == (403, said)
    assert (await bob.ask("PUT", SDN)).status == 403


async def test_a_guest_may_use_a_vnet_only_with_the_right_on_it(api: Caller) -> None:
    await lab(api)
    await api.task("PUT", SDN)
    bob = caller(api.world, vms="PVEVMAdmin", sdn_zones_localnetwork="PVESDNUser")
    config, card = "/nodes/pve1/qemu/106/config", "virtio,bridge={}"
    assert (await bob.ask("PUT", config, net1=card.format("vmbr0"))).status == 200
    said = "Permission check failed (/sdn/zones/lab/vnet1, SDN.Use)"
    assert failure(await bob.ask("PUT", config, net1=card.format("vnet1"))) == (403, said)
