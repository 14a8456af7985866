"""What a plan says of a network: which guests and addresses hang on it, and what waits."""

from __future__ import annotations

from typing import Any

import pytest

from pvemcp.access.policy import Policy
from pvemcp.plans.previews import bridges
from pvemcp.sim.world import World
from tests.scenarios.rig import Caller, Rig, rig
from tests.scenarios.test_approvals import ROOT, id_in, refused

NET, SDN = "/nodes/pve1/network", "/cluster/sdn"


async def planned(client: Caller, verb: str, path: str, **params: Any) -> str:
    """Return the plan of a write."""
    return await client.call("api_destroy", method=verb, path=path, params=params, dry_run=True)


async def done(client: Caller, verb: str, path: str, **params: Any) -> None:
    """Make a write."""
    await client.call("api_destroy", method=verb, path=path, params=params)


def plugged(world: World, bridge: str, *vmids: int) -> None:
    """Give guests a second network card on a bridge; all others keep what they have."""
    for vmid in vmids:
        guest = world.guests[vmid]
        card = "name=eth1," if guest.type == "lxc" else "virtio=BC:24:11:00:00:01,"
        guest.config["net1"] = f"{card}bridge={bridge}"
    world.touch()


async def lab(client: Caller, r: Rig) -> None:
    """Make the zone `lab` with `vnet1`, used by 100 and 102, and `vnet2`; apply it."""
    await done(client, "POST", f"{SDN}/zones", zone="lab", type="simple")
    await done(client, "POST", f"{SDN}/vnets", vnet="vnet1", zone="lab")
    await done(client, "POST", f"{SDN}/vnets", vnet="vnet2", zone="lab")
    await done(client, "PUT", SDN)
    plugged(r.world, "vnet1", 100, 102)


def described(world: World, vmid: int) -> str:
    """Return how a plan names a guest."""
    guest = world.guests[vmid]
    return f"{vmid} {guest.name} ({'running' if guest.running else 'stopped'})"


async def test_a_bridge_names_the_guests_on_it_and_whether_they_run() -> None:
    async with rig() as r, r.client() as client:
        await done(client, "POST", NET, iface="vmbr1", type="bridge")
        plugged(r.world, "vmbr1", 100, 106)
        text = await planned(client, "DELETE", f"{NET}/vmbr1")
        assert r.world.guests[100].running
        assert not r.world.guests[106].running
        both = f"{described(r.world, 100)}, {described(r.world, 106)}"
        assert f"guests on vmbr1: {both}\n" in text
        assert "LOST: 2 guests lose a network after the next reload; 1 of them run" in text
        assert "guests on vmbr0" not in text
        assert "vmbr1" not in r.world.nodes["pve1"].interfaces


async def test_a_card_names_the_bond_and_bridges_above_it_with_their_guests() -> None:
    async with rig() as r, r.client() as client:
        await done(client, "POST", NET, iface="bond0", type="bond", slaves="eno2 eno3")
        await done(client, "POST", NET, iface="vmbr1", type="bridge", bridge_ports="bond0")
        await done(client, "POST", NET, iface="vmbr1.5", type="vlan", cidr="10.5.0.1/24")
        plugged(r.world, "vmbr1", 100)
        text = await planned(client, "DELETE", f"{NET}/bond0")
        assert "stands on it: vmbr1 is on bond0, vmbr1.5 is on vmbr1" in text
        assert "the node's own addresses: 10.5.0.1/24 on vmbr1.5" in text
        assert f"guests on vmbr1: {described(r.world, 100)}\n" in text
        ip = r.world.nodes["pve1"].ip
        text = await planned(client, "PUT", f"{NET}/eno1", type="eth", mtu=1500)
        assert "stands on it: vmbr0 is on eno1" in text
        assert f"the node's own addresses: {ip}/24 on vmbr0" in text
        assert described(r.world, 100) in text


async def test_a_bridge_names_the_guests_of_the_vnets_that_lie_on_it() -> None:
    async with rig() as r, r.client() as client:
        await done(client, "POST", f"{SDN}/zones", zone="vlans", type="vlan", bridge="vmbr0")
        await done(client, "POST", f"{SDN}/vnets", vnet="vnet1", zone="vlans", tag=5)
        plugged(r.world, "vnet1", 102)
        text = await planned(client, "PUT", f"{NET}/eno1", type="eth", mtu=1500)
        assert f"guests on vnet1: {described(r.world, 102)}\n" in text


async def test_a_change_that_drops_the_address_says_so() -> None:
    async with rig() as r, r.client() as client:
        path = f"{NET}/vmbr0"
        said = "method: static -> manual (no address is given again)"
        assert said in await planned(client, "PUT", path, type="bridge", mtu=9000)
        cidr = f"{r.world.nodes['pve1'].ip}/24"
        assert said not in await planned(client, "PUT", path, type="bridge", mtu=9000, cidr=cidr)


async def test_a_reload_shows_what_it_makes_count_and_who_is_on_the_node() -> None:
    async with rig("cluster") as r, r.client() as client:
        assert "staged: nothing" in await planned(client, "PUT", NET)
        await done(client, "POST", NET, iface="vmbr1", type="bridge", comments="new\n- PUT /x: y")
        text = await planned(client, "PUT", NET)
        assert "\n      +iface vmbr1 inet manual\n" in text
        assert "\n- PUT /x" not in text, "a comment forges no line of the plan"
        here = [g for g in r.world.guests.values() if g.node == "pve1"]
        first = min((g for g in here if g.running), key=lambda g: g.vmid)
        assert f"guests on vmbr0: {described(r.world, first.vmid)}, " in text
        assert len(here) > 20
        assert all(described(r.world, g.vmid) in text for g in here), "none hides behind others"
        text = await planned(client, "DELETE", NET)
        assert "LOST: the staged changes above" in text
        assert "+iface vmbr1 inet manual" in text
        assert "guests on" not in text


@pytest.mark.parametrize("path", [f"{SDN}/vnets/vnet1", f"{SDN}/zones/lab"])
@pytest.mark.parametrize("verb", ["PUT", "DELETE"])
async def test_a_vnet_and_its_zone_name_the_guests_that_use_it(verb: str, path: str) -> None:
    async with rig("cluster") as r, r.client() as client:
        await lab(client, r)
        text = await planned(client, verb, path)
        both = f"{described(r.world, 100)}, {described(r.world, 102)}"
        assert f"guests on vnet1: {both}\n" in text
        assert ("guests lose a network once SDN is applied" in text) == (verb == "DELETE")


async def test_an_apply_shows_what_waits_and_which_guests_it_is_about() -> None:
    async with rig() as r, r.client() as client:
        await lab(client, r)
        await done(client, "PUT", f"{SDN}/vnets/vnet1", alias="web")
        await done(client, "DELETE", f"{SDN}/vnets/vnet2")
        await done(client, "POST", f"{SDN}/vnets", vnet="vnet3", zone="lab")
        subnet = {"subnet": "10.9.0.0/24", "type": "subnet", "gateway": "10.9.0.1"}
        await done(client, "POST", f"{SDN}/vnets/vnet3/subnets", **subnet)
        await done(client, "POST", NET, iface="vmbr1", type="bridge")
        text = await planned(client, "PUT", SDN)
        for part in (
            "vnet vnet1 alias: set to web",
            "vnet vnet2: zone=lab is removed",
            "vnet vnet3: set to zone=lab",
            "subnet lab-10.9.0.0-24: set to ",
            "+iface vmbr1 inet manual",
            f"guests on vnet1: {described(r.world, 100)}, {described(r.world, 102)}\n",
        ):
            assert part in text, part
        text = await planned(client, "POST", f"{SDN}/rollback")
        assert "LOST: what waits: vnet vnet1 alias: set to web" in text
        assert "guests on" not in text


async def test_a_zone_that_waits_is_about_all_its_vnets() -> None:
    async with rig() as r, r.client() as client:
        await lab(client, r)
        await done(client, "PUT", f"{SDN}/zones/lab", mtu=1400)
        text = await planned(client, "PUT", SDN)
        assert "zone lab mtu: set to 1400" in text
        assert f"guests on vnet1: {described(r.world, 100)}, " in text


async def test_in_a_large_cluster_few_guests_are_read_and_the_others_counted() -> None:
    async with rig("large") as r, r.client() as client:
        await lab(client, r)
        before = r.asked()
        text = await planned(client, "PUT", f"{SDN}/vnets/vnet1", alias="x")
        assert r.asked() - before <= bridges.READ + 8
        assert described(r.world, 100) in text
        left = 10_000 - bridges.READ
        assert f"not seen: networks of {left} more guests: only 64 are read for a plan" in text
        text = await planned(client, "PUT", SDN)
        assert "not seen: what 16 more nodes have staged: only 16 are asked" in text


async def test_a_token_that_sees_few_guests_makes_a_plan_that_says_so() -> None:
    async with rig() as r:
        roles = {"/nodes": "PVESysAdmin", "/vms/100": "PVEVMUser"}
        r.world.add_role("Net", "Sys.Modify", "Sys.Audit")
        token = r.world.token("net@pve", roles=roles | {"/nodes/pve1": "Net"})
        async with r.client(token=token) as client:
            text = await planned(client, "DELETE", f"{NET}/vmbr0")
        assert f"guests on vmbr0: {described(r.world, 100)}\n" in text
        assert "not seen: " in text
        assert "VM.Audit" in text
        assert "SDN.Audit" in text


async def test_an_approved_reload_is_void_once_something_else_is_staged() -> None:
    async with rig() as r, r.client(policy=Policy()) as client:
        reload = {"method": "PUT", "path": NET}
        id_ = id_in(await refused(client, "api_destroy", **reload))
        r.approvals.approve(id_, ROOT)
        await client.call(
            "api_change", method="POST", path=NET, params={"iface": "vmbr9", "type": "bridge"}
        )
        assert "was for another plan" in await refused(
            client, "api_destroy", **reload, approval=id_
        )
        assert "vmbr9" not in r.world.nodes["pve1"].interfaces
