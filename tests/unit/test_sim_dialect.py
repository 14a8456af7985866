"""How the simulated cluster reads parameters and words its refusals."""

from __future__ import annotations

import json

from pvemcp.sim.apidoc import render
from pvemcp.sim.catalogue import ENDPOINTS
from pvemcp.sim.world import make_world
from tests.unit.sim_rig import errors, failure, root

VM = "/nodes/pve1/qemu"


async def test_wrong_parameters_are_named_all_at_once() -> None:
    found = errors(await root().ask("POST", VM, vmid="x", cores=0, colour="red", bios="efi"))
    assert found == {
        "vmid": "type check ('integer') failed - got 'x'",
        "cores": "value must have a minimum value of 1",
        "colour": "property is not defined in schema and the schema does not allow"
        " additional properties",
        "bios": "value 'efi' does not have a value in the enumeration 'seabios, ovmf'",
    }


async def test_a_family_takes_any_number_and_no_name() -> None:
    admin = root()
    assert (await admin.ask("PUT", f"{VM}/106/config", net3="virtio,bridge=vmbr0")).status == 200
    assert set(errors(await admin.ask("PUT", f"{VM}/106/config", **{"net[n]": "virtio"}))) == {
        "net[n]"
    }
    bad = errors(await admin.ask("PUT", f"{VM}/106/config", net0="virtio,colour=red"))
    assert bad["net0"].startswith("invalid format - format error\ncolour")


async def test_json_brings_booleans_null_and_arrays() -> None:
    admin = root()
    body = json.dumps({"onboot": True, "description": None, "delete": ["tags", "boot"]}).encode()
    reply = await admin.send("PUT", f"{VM}/106/config", body=body, kind="application/json")
    assert reply.status == 200
    config = admin.world.guests[106].config
    assert config["onboot"] == 1
    assert "tags" not in config
    assert "description" not in config


async def test_a_parameter_that_contradicts_the_path_is_refused() -> None:
    reply = await root().ask("PUT", f"{VM}/106/config", vmid=107)
    assert list(errors(reply)) == ["vmid"]


async def test_bodies_have_their_own_refusals() -> None:
    admin = root()
    text = await admin.send("POST", "/pools", body=b"x", kind="text/plain")
    assert failure(text) == (506, "upload 'Content-Type 'text/plain' not implemented")
    for body in (b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000):
        assert (
            await admin.send("POST", "/pools", body=body, kind="application/json")
        ).status == 500
    assert failure(await admin.send("GET", "/version", body=b"a=1"))[0] == 501


async def test_unknown_paths_and_methods_answer_501() -> None:
    admin = root()
    assert failure(await admin.ask("GET", "/foo")) == (501, "Method 'GET /foo' not implemented")
    assert failure(await admin.ask("PUT", "/version"))[0] == 501
    assert failure(await admin.ask("PATCH", "/version")) == (501, "method 'PATCH' not available")


async def test_volumes_have_slashes_in_their_names() -> None:
    admin = root()
    name = "local:iso/debian-13.1.0-amd64-netinst.iso"
    found = await admin.data("GET", f"/nodes/pve1/storage/local/content/{name}")
    assert found["path"].startswith("/var/lib/vz/template/iso/")
    assert await admin.task("DELETE", f"/nodes/pve1/storage/local/content/{name}") == "OK"
    listed = await admin.data("GET", "/nodes/pve1/storage/local/content")
    assert name not in {row["volid"] for row in listed}


async def test_every_read_answers_or_refuses_in_words() -> None:
    """No handler falls over: each GET is asked with values that fit its path."""
    admin = root()
    values = {
        "node": "pve1", "vmid": "100", "storage": "local", "snapname": "tested", "sid": "vm:104",
        "service": "pveproxy", "poolid": "prod", "userid": "alice@pve", "tokenid": "x",
        "roleid": "PVEAuditor", "groupid": "g", "realm": "pve", "pos": "0", "id": "nightly",
        "iface": "vmbr0", "upid": "UPID:pve1:00000001:00000001:6B03D6EA:qmstart:100:root@pam:",
        "volume": "local:iso/debian-13.1.0-amd64-netinst.iso", "zone": "lab", "vnet": "vnet1",
        "subnet": "lab-10.9.0.0-24", "controller": "bgp1", "ipam": "pve", "rule": "near",
        "name": "office", "group": "web", "cidr": "10.0.0.0/8",
    }  # fmt: skip
    extra = {"timeframe": "hour", "feature": "snapshot", "pid": "1"}
    for entry in ENDPOINTS:
        method = entry.method
        if method.verb != "GET":
            continue
        path = method.path.format(**(values | ({"vmid": "102"} if "/lxc" in method.path else {})))
        needed = {p.name for p in method.parameters if not p.optional}
        given = {name: value for name, value in extra.items() if name in needed}
        reply = await admin.ask("GET", path, **given)
        assert reply.status in {200, 400, 500}, (path, reply)
        assert reply.status == 200 or reply.reason, path


def test_the_published_description_reads_back() -> None:
    text = render(ENDPOINTS).decode()
    assert text.startswith("const apiSchema = [")
    tree, _ = json.JSONDecoder().raw_decode(text[text.index("[") :])
    nodes = next(node for node in tree if node["path"] == "/nodes")
    assert nodes["leaf"] == 0
    listing = nodes["info"]["GET"]
    assert listing["permissions"] == {"user": "all"}
    assert listing["parameters"] == {"additionalProperties": 0}


def test_the_same_seed_gives_the_same_world() -> None:
    one, two = make_world("cluster", seed=7), make_world("cluster", seed=7)
    assert [(g.vmid, g.node, g.config["net0"]) for g in one.guests.values()] == [
        (g.vmid, g.node, g.config["net0"]) for g in two.guests.values()
    ]
    assert one.token() == two.token()
    assert one.token() != make_world("cluster", seed=8).token()


def test_the_worlds_have_their_sizes() -> None:
    sizes = {name: make_world(name) for name in ("homelab", "cluster", "large")}
    assert [(len(w.nodes), len(w.guests)) for w in sizes.values()] == [
        (1, 12),
        (5, 200),
        (32, 10_000),
    ]


async def test_values_of_a_property_string_are_checked_too() -> None:
    admin = root()
    path = f"{VM}/106/config"
    assert errors(await admin.ask("PUT", path, memory="much")) == {
        "memory": "invalid format - format error\n"
        "current: type check ('integer') failed - got 'much'\n"
    }
    assert "minimum value of 16" in errors(await admin.ask("PUT", path, memory="1"))["memory"]
    assert (await admin.ask("PUT", path, memory="current=1024")).status == 200
    row = await admin.data("GET", f"{VM}/106/status/current")
    assert row["maxmem"] == 1024**3


async def test_characters_that_no_header_can_hold_do_no_harm() -> None:
    admin = root()
    body = b'{"description": "\\ud800 \\u2603"}'
    reply = await admin.send("PUT", f"{VM}/106/config", body=body, kind="application/json")
    assert reply.status == 200
    assert "\u2603" in (await admin.data("GET", f"{VM}/106/config"))["description"]
