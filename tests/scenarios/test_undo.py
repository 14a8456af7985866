"""What the journal says that it can take back comes back: the world is what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pvemcp.journal.book import Book
from pvemcp.journal.change import Change
from tests.scenarios.picturing import Write, come_back, guests, newest, picture, write
from tests.scenarios.rig import Caller, Rig, ToolFault, rig


def twenty(r: Rig) -> list[Write]:
    """Return 20 mixed writes that can all be taken back."""
    stopped, running, container = guests(r)
    vm, live, ct = (
        f"/nodes/pve1/{kind}/{vmid}"
        for kind, vmid in (("qemu", stopped), ("qemu", running), ("lxc", container))
    )
    node, cluster = "/nodes/pve1/firewall", "/cluster/firewall"
    rule = {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "22", "enable": 1}
    return [
        ("PUT", f"{vm}/config", {"memory": "3072", "tags": "web;prod", "delete": "onboot"}),
        ("PUT", f"{vm}/config", {"scsi5": "local-lvm:4"}),
        ("PUT", f"{vm}/config", {"delete": "scsi5"}),
        ("PUT", f"{live}/config", {"cores": 3, "description": "new notes"}),
        ("PUT", f"{live}/config", {"cores": 4}),
        ("PUT", f"{ct}/config", {"hostname": "renamed", "memory": 1024}),
        ("POST", f"{vm}/snapshot", {"snapname": "before", "description": "first"}),
        ("PUT", f"{vm}/snapshot/before/config", {"description": "second"}),
        ("POST", f"{vm}/status/start", {}),
        ("POST", f"{live}/status/suspend", {}),
        ("POST", "/pools", {"poolid": "bench", "comment": "a pool"}),
        ("PUT", "/pools", {"poolid": "bench", "vms": f"{stopped},{container}", "allow-move": 1}),
        ("PUT", "/pools", {"poolid": "bench", "comment": "another"}),
        ("POST", f"{cluster}/rules", rule),
        ("POST", f"{cluster}/rules", {**rule, "dport": "80", "comment": "web"}),
        ("PUT", f"{cluster}/rules/0", {"moveto": 2}),
        ("PUT", f"{cluster}/rules/0", {"action": "DROP", "source": "10.0.0.0/8"}),
        ("DELETE", f"{cluster}/rules/1", {}),
        ("PUT", f"{node}/options", {"log_level_in": "info"}),
        ("POST", f"{vm}/clone", {"newid": 9001, "name": "copy"}),
    ]


async def test_a_sequence_of_20_mixed_changes_comes_back_byte_for_byte() -> None:
    async with rig() as r, r.client() as client:
        before = picture(r.world)
        for verb, path, params in twenty(r):
            await write(client, verb, path, params)
            assert not newest(r).recipe.why_not, (path, newest(r).undo)
        done = Book(r.store).list()
        assert len(done) == 21  # with the safety snapshot before the disk is detached
        assert picture(r.world) != before
        for change in done:
            await client.call("change_undo", change=change.id)
        assert picture(r.world) == before
        assert all(Book(r.store).get(change.id).undone_by for change in done)


NET, SDN = "/nodes/pve1/network", "/cluster/sdn"
SUBNETS = f"{SDN}/vnets/vnet1/subnets"
_BRIDGE = {"type": "bridge", "cidr": "10.9.0.1/24", "autostart": 1, "comments": "guests"}
_SUBNET = {"subnet": "10.9.0.0/24", "type": "subnet", "gateway": "10.9.0.1"}
_RANGE = "start-address=10.9.0.10,end-address=10.9.0.99"
NETWORKS: list[Write] = [
    ("POST", NET, {"iface": "bond0", "type": "bond", "slaves": "eno2 eno3"}),
    ("POST", NET, {"iface": "vmbr1", "bridge_ports": "bond0", **_BRIDGE}),
    ("PUT", f"{NET}/vmbr1", {"type": "bridge", "delete": "cidr,autostart", "mtu": 9000}),
    ("PUT", f"{NET}/vmbr0", {"type": "bridge", "comments": "loses its address"}),
    ("PUT", f"{NET}/vmbr0", {"type": "bridge", "cidr": "192.0.2.9/24", "bridge_vlan_aware": 1}),
    ("PUT", f"{NET}/eno1", {"type": "eth", "mtu": 9000}),
    ("DELETE", f"{NET}/eno1", {}),
    ("DELETE", f"{NET}/vmbr1", {}),
    ("DELETE", f"{NET}/vmbr0", {}),
    ("POST", f"{SDN}/zones", {"zone": "lab", "type": "simple", "nodes": "pve1"}),
    ("PUT", f"{SDN}/zones/lab", {"mtu": 1400, "delete": "nodes"}),
    ("POST", f"{SDN}/vnets", {"vnet": "vnet1", "zone": "lab", "alias": "first"}),
    ("PUT", f"{SDN}/vnets/vnet1", {"isolate-ports": 1, "delete": "alias"}),
    ("POST", SUBNETS, {**_SUBNET, "dhcp-range": [_RANGE]}),
    ("PUT", f"{SUBNETS}/lab-10.9.0.0-24", {"snat": 1, "delete": "dhcp-range"}),
    ("DELETE", f"{SUBNETS}/lab-10.9.0.0-24", {}),
    ("DELETE", f"{SDN}/vnets/vnet1", {}),
    ("DELETE", f"{SDN}/zones/lab", {}),
    ("POST", f"{SDN}/controllers", {"controller": "bgp1", "type": "bgp", "asn": 65000}),
    ("PUT", f"{SDN}/controllers/bgp1", {"peers": "192.0.2.1", "asn": 65001}),
    ("DELETE", f"{SDN}/controllers/bgp1", {}),
]
"""Writes to networks that can all be taken back."""


STORAGES: list[Write] = [
    ("POST", "/storage", {"storage": "iso", "type": "dir", "path": "/srv/iso", "content": "iso"}),
    ("PUT", "/storage/iso", {"nodes": "pve1", "content": "vztmpl,iso", "shared": 1}),
    ("PUT", "/storage/iso", {"disable": 1, "delete": "nodes", "prune-backups": "keep-last=3"}),
    ("DELETE", "/storage/iso", {}),
    ("PUT", "/storage/nas", {"content": "backup", "options": "vers=4.2", "disable": 1}),
    ("DELETE", "/storage/local-lvm", {}),
]
"""Writes to storages that can all be taken back."""


async def test_changes_of_networks_come_back_byte_for_byte() -> None:
    await come_back(NETWORKS)


async def test_changes_of_storages_come_back_byte_for_byte() -> None:
    await come_back(STORAGES)


async def test_a_storages_password_is_said_to_be_lost() -> None:
    share = {"storage": "win", "type": "cifs", "server": "192.0.2.7", "share": "vm"}
    async with rig() as r, r.client() as client:
        await write(client, "POST", "/storage", {**share, "password": "first-secret"})
        await write(client, "PUT", "/storage/win", {"password": "second-secret", "domain": "LAB"})
        said = await client.call("change_undo", change=newest(r).id)
        assert "not brought back: password: PVE does not show what it was before" in said
        assert r.world.storages["win"].secrets == {"password": "second-secret"}
        assert "domain" not in r.world.storages["win"].options
        plan = await client.call("api_destroy", path="/storage/win", dry_run=True)
        assert "but no passwords and keys" in plan
        await write(client, "DELETE", "/storage/win", {})
        assert "password" in await client.call("change_undo", change=newest(r).id)
        assert r.world.storages["win"].secrets == {}
        assert "secret" not in await client.call("change_list", limit=10)


async def test_a_reload_and_an_apply_say_beforehand_that_they_cannot_be_undone() -> None:
    async with rig() as r, r.client() as client:
        for verb, path in (
            ("PUT", NET), ("DELETE", NET), ("PUT", SDN), ("POST", f"{SDN}/rollback"),
        ):  # fmt: skip
            plan = await client.call("api_destroy", method=verb, path=path, dry_run=True)
            assert "undo: not possible, " in plan
            assert "no way back is known" not in plan
            await write(client, verb, path, {})
            assert newest(r).recipe.why_not in plan


async def test_what_a_refused_write_has_done_before_comes_back() -> None:
    async with rig() as r, r.client() as client:
        before, path = picture(r.world), "/nodes/pve1/qemu/106/config"
        with pytest.raises(ToolFault, match="unable to create image"):
            await write(client, "PUT", path, {"cores": 6, "scsi5": "nas:99999"})
        change = newest(r)
        assert (change.outcome, change.undo) == ("failed", f"PUT {path} revert=cores")
        assert "cores (pending): set to 6" in await client.call("change_show", change=change.id)
        await client.call("change_undo", change=change.id)
        assert picture(r.world) == before


async def test_what_waited_and_counts_now_is_no_part_of_the_change() -> None:
    async with rig() as r, r.client() as client:
        path = "/nodes/pve1/qemu/106/config"
        config = r.world.guests[106].config
        notes = config.get("description")
        with pytest.raises(ToolFault, match="unable to create image"):
            await write(client, "PUT", path, {"cores": 6, "scsi5": "nas:99999"})
        await write(client, "PUT", path, {"description": "other"})
        assert config["cores"] == 6
        said = await client.call("change_undo", change=newest(r).id)
        assert "not brought back: what waited for the next start counts now: cores" in said
        assert (config.get("description"), config["cores"]) == (notes, 6)


async def test_what_the_api_cannot_set_is_said_to_be_lost() -> None:
    async with rig() as r, r.client() as client:
        bridge = r.world.nodes["pve1"].interfaces["vmbr0"]
        bridge |= {"options": ["post-up ip route add 10.0.0.0/8 via 192.0.2.7"], "method6": "auto"}
        path = f"{NET}/vmbr0"
        plan = await client.call("api_destroy", method="DELETE", path=path, dry_run=True)
        assert "but no lines of its own that PVE's API cannot set" in plan
        await write(client, "DELETE", path, {})
        said = await client.call("change_undo", change=newest(r).id)
        for name in ("options", "method6 auto"):
            assert f"not brought back: {name}: PVE's API cannot set it" in said


async def test_a_staged_interface_is_undone_after_the_network_was_reloaded() -> None:
    async with rig() as r, r.client() as client:
        before = r.world.nodes["pve1"].interfaces
        await write(client, "POST", NET, {"iface": "vmbr1", **_BRIDGE})
        made = newest(r)
        await write(client, "PUT", NET, {})
        assert "vmbr1" in r.world.nodes["pve1"].interfaces
        await client.call("change_undo", change=made.id)
        await write(client, "PUT", NET, {})
        assert r.world.nodes["pve1"].interfaces == before


_VALUES = st.dictionaries(
    st.sampled_from(["memory", "cores", "onboot", "description", "tags", "nameserver"]),
    st.sampled_from(["512", "1", "2", "0"]),
    min_size=1,
    max_size=3,
)
_RULE = st.fixed_dictionaries(
    {"action": st.sampled_from(["ACCEPT", "DROP"]), "type": st.just("in")},
    optional={"comment": st.sampled_from(["a", "b"]), "enable": st.sampled_from([0, 1])},
)
_POSITION = st.integers(0, 3)
_NAME = st.sampled_from(["one", "two"])


def _config(chosen: tuple[Mapping[str, Any], list[str], list[int]]) -> Mapping[str, Any]:
    values, gone, disks = chosen
    params = {**values, **{f"scsi{n}": "local-lvm:1" for n in disks}}
    left = [name for name in gone if name not in params]
    return {**params, **({"delete": ",".join(left)} if left else {})}


_GONE = ["description", "onboot", "scsi7", "scsi8", "unused0", "net0", "scsi0"]
_CONFIG = st.tuples(
    _VALUES,
    st.lists(st.sampled_from(_GONE), max_size=2, unique=True),
    st.lists(st.sampled_from([7, 8]), max_size=2, unique=True),
).map(_config)
_POOL_EDIT = st.fixed_dictionaries(
    {"poolid": _NAME},
    optional={
        "comment": st.sampled_from(["x", "y"]),
        "vms": st.sampled_from(["{0}", "{0},{1}", "{2}"]),
        "delete": st.just(1),
        "allow-move": st.just(1),
    },
)
_INTERFACE = st.fixed_dictionaries(
    {"type": st.just("bridge")},
    optional={
        "cidr": st.sampled_from(["10.9.0.1/24", "10.8.0.1/16"]),
        "comments": st.sampled_from(["a", "b"]),
        "bridge_vlan_aware": st.just(1),
        "mtu": st.sampled_from([1500, 9000]),
    },
)
_VNET_EDIT = st.fixed_dictionaries(
    {}, optional={"alias": st.sampled_from(["a", "b"]), "isolate-ports": st.just(1)}
)
_NETWORK_WRITES = st.one_of(
    st.tuples(st.just("POST"), st.just(NET), _INTERFACE.map(lambda one: {"iface": "vmbr1", **one})),
    st.tuples(
        st.just("PUT"), st.sampled_from([f"{NET}/vmbr0", f"{NET}/vmbr1"]), _INTERFACE
    ),
    st.tuples(
        st.just("DELETE"), st.sampled_from([f"{NET}/vmbr0", f"{NET}/vmbr1"]), st.just({})
    ),
    st.tuples(st.just("PUT"), st.sampled_from([NET, SDN]), st.just({})),
    st.tuples(st.just("POST"), st.just(f"{SDN}/zones"),
              st.just({"zone": "lab", "type": "simple"})),
    st.tuples(st.just("POST"), st.just(f"{SDN}/vnets"), _NAME.flatmap(
        lambda name: _VNET_EDIT.map(lambda one: {"vnet": name, "zone": "lab", **one}))),
    st.tuples(st.just("PUT"), _NAME.map(lambda name: f"{SDN}/vnets/{name}"), _VNET_EDIT),
    st.tuples(st.just("DELETE"), _NAME.map(lambda name: f"{SDN}/vnets/{name}"), st.just({})),
)  # fmt: skip
_WRITES = st.one_of(
    _NETWORK_WRITES,
    st.tuples(st.just("PUT"), st.sampled_from(["{vm0}/config", "{vm1}/config"]), _CONFIG),
    st.tuples(
        st.just("POST"),
        st.sampled_from(["{vm0}/snapshot", "{vm1}/snapshot"]),
        _NAME.map(lambda name: {"snapname": name}),
    ),
    st.tuples(st.just("DELETE"), st.sampled_from(["{vm0}/snapshot/one"]), st.just({})),
    st.tuples(
        st.just("POST"),
        st.tuples(
            st.sampled_from(["{vm0}", "{vm1}"]),
            st.sampled_from(["start", "stop", "suspend", "resume", "reset"]),
        ).map(lambda each: f"{each[0]}/status/{each[1]}"),
        st.just({}),
    ),
    st.tuples(st.just("POST"), st.just("/pools"), _NAME.map(lambda name: {"poolid": name})),
    st.tuples(st.just("PUT"), st.just("/pools"), _POOL_EDIT),
    st.tuples(st.just("DELETE"), _NAME.map(lambda name: f"/pools/{name}"), st.just({})),
    st.tuples(st.just("POST"), st.just("/cluster/firewall/rules"), _RULE),
    st.tuples(
        st.just("PUT"), _POSITION.map(lambda pos: f"/cluster/firewall/rules/{pos}"),
        st.one_of(_RULE, _POSITION.map(lambda to: {"moveto": to})),
    ),
    st.tuples(
        st.just("DELETE"), _POSITION.map(lambda pos: f"/cluster/firewall/rules/{pos}"), st.just({})
    ),
)  # fmt: skip


def _of(
    vmids: tuple[int, int, int], path: str, params: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Put the ids of this world's guests into a write."""
    for number, kind in enumerate(("qemu", "qemu", "lxc")):
        path = path.replace(f"{{vm{number}}}", f"/nodes/pve1/{kind}/{vmids[number]}")
    return path, {k: v.format(*vmids) if k == "vms" else v for k, v in params.items()}


def whole(change: Change) -> bool:
    """Whether the journal says that all of a change comes back: memory is no part of the world."""
    beside = ("what was in its memory", "what it has written meanwhile stays")
    lost = [line for line in change.recipe.lost if line not in beside]
    return not change.recipe.why_not and not lost and change.outcome == "done"


@settings(
    max_examples=25,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(writes=st.lists(st.tuples(_WRITES, st.booleans()), min_size=4, max_size=14))
async def test_whatever_is_said_to_come_back_comes_back(
    writes: list[tuple[Write, bool]],
) -> None:
    async with rig() as r, r.client() as client:
        chosen = guests(r)
        done: list[tuple[list[Change], str]] = []
        for (verb, path, params), at_once in writes:
            before, rows = picture(r.world), len(Book(r.store).list(limit=1000))
            try:
                await write(client, verb, *_of(chosen, path, params))
            except ToolFault:
                continue
            if len(Book(r.store).list(limit=1000)) == rows:
                continue
            made = Book(r.store).list(call=newest(r).call)  # with a safety snapshot, perhaps
            if at_once and all(map(whole, made)):
                await take_back(client, made)
                assert picture(r.world) == before, made
            else:
                done.append((made, before))
        for made, before in reversed(done):
            if picture(r.world) == before:
                continue  # it changed nothing
            if not all(map(whole, made)):
                break
            await take_back(client, made)
            assert picture(r.world) == before, made


async def take_back(client: Caller, made: list[Change]) -> None:
    """Undo the changes of one call, the newest first."""
    for change in made:
        await client.call("change_undo", change=change.id)
