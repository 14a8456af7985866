"""Questions in everyday words, and the methods that answer them."""

from __future__ import annotations

import time
import tracemalloc
from functools import cache
from pathlib import Path

import pytest

from pvemcp.pve.description import Description
from pvemcp.pve.search import Index
from pvemcp.sim.apidoc import render
from pvemcp.sim.catalogue import ENDPOINTS

APIDATA = Path(__file__).parents[2].parent / "shared" / "pve" / "apidata.json"
VM, CT = "/nodes/{node}/qemu/{vmid}", "/nodes/{node}/lxc/{vmid}"
NODE = "/nodes/{node}"
STORE = "/nodes/{node}/storage/{storage}"

BOTH = {
    "backup now": f"POST {NODE}/vzdump",
    "start a backup of a vm": f"POST {NODE}/vzdump",
    "add guests to a pool": "PUT /pools",
    "who changed something": f"GET {NODE}/tasks",
    "which tasks failed": "GET /cluster/tasks",
    "move guest to another node": f"POST {VM}/migrate",
    "migrate a container": f"POST {CT}/migrate",
    "clone a template": f"POST {VM}/clone",
    "resize disk": f"PUT {VM}/resize",
    "snapshot create": f"POST {VM}/snapshot",
    "roll back to a snapshot": f"POST {VM}/snapshot/{{snapname}}/rollback",
    "list isos": f"GET {STORE}/content",
    "node network bridge": f"GET {NODE}/network",
    "certificate expiry": f"GET {NODE}/certificates/info",
    "update packages pending": f"GET {NODE}/apt/update",
    "user token list": "GET /access/users/{userid}/token",
    "delete a vm": f"DELETE {VM}",
    "create a container": f"POST {NODE}/lxc",
    "change memory of a vm": f"PUT {VM}/config",
    "restore a backup": f"POST {NODE}/qemu",
    "next free vm id": "GET /cluster/nextid",
    "start vm": f"POST {VM}/status/start",
    "stop a task": f"DELETE {NODE}/tasks/{{upid}}",
    "how full is a storage": f"GET {STORE}/status",
    "permissions of a user": "GET /access/permissions",
    "grant a role": "PUT /access/acl",
    "list all vms": f"GET {NODE}/qemu",
    "list backup jobs": "GET /cluster/backup",
}
"""Answered by a real host and by the simulator."""

REAL_ONLY = {
    "ha add guest": "POST /cluster/ha/resources",
    "add vm to HA": "POST /cluster/ha/resources",
    "firewall rule open port": "POST /cluster/firewall/rules",
    "who changed": "GET /cluster/log",
    "reboot node": f"POST {NODE}/status",
    "zfs pool status": f"GET {NODE}/disks/zfs",
    "smart disk health": f"GET {NODE}/disks/smart",
    "cloud-init": f"GET {VM}/cloudinit",
    "ip address of a vm": f"GET {VM}/agent/network-get-interfaces",
    "cpu usage history of a container": f"GET {CT}/rrddata",
    "move disk to another storage": f"POST {VM}/move_disk",
    "prune old backups": f"DELETE {STORE}/prunebackups",
    "guests not in any backup job": "GET /cluster/backup-info/not-backed-up",
    "replication jobs": "GET /cluster/replication",
    "add a storage": "POST /storage",
    "usb devices": f"GET {NODE}/hardware/usb",
    "gpu passthrough": f"GET {NODE}/hardware/pci",
    "two factor of a user": "GET /access/tfa",
    "console of a vm": f"POST {VM}/vncproxy",
    "shutdown all guests on a node": f"POST {NODE}/stopall",
    "disable user": "PUT /access/users/{userid}",
    "set node dns": f"PUT {NODE}/dns",
    "download iso from url": f"POST {STORE}/download-url",
}

needs_data = pytest.mark.skipif(
    not APIDATA.exists(), reason="the description of a real PVE is not here"
)


@cache
def simulator() -> Description:
    return Description.parse(render(ENDPOINTS).decode())


@cache
def real() -> Description:
    return Description.parse(APIDATA.read_text("utf-8"))


def first_five(description: Description, words: str) -> list[str]:
    return [f"{method.verb} {method.path}" for method in description.search(words, 5)]


@pytest.mark.parametrize(("words", "method"), BOTH.items())
def test_a_question_finds_its_method_in_the_simulator(words: str, method: str) -> None:
    assert method in first_five(simulator(), words)


@needs_data
@pytest.mark.parametrize(("words", "method"), {**BOTH, **REAL_ONLY}.items())
def test_a_question_finds_its_method_in_a_real_pve(words: str, method: str) -> None:
    assert method in first_five(real(), words)


def test_a_word_that_no_method_has_spoils_nothing() -> None:
    assert first_five(simulator(), "resize qqzzy disk") == first_five(simulator(), "resize disk")


def test_the_verb_in_the_question_comes_first() -> None:
    for words, verb in (("add pool", "POST"), ("delete pool", "DELETE"), ("list pools", "GET")):
        assert first_five(simulator(), words)[0].startswith(verb), words


@needs_data
@pytest.mark.parametrize(
    "words",
    ["delete a vm", "resize disk", "create a container", "next free vm id", "reboot node",
     "start vm", "user token list", "grant a role", "stop a task", "set node dns"],
)  # fmt: skip
def test_a_plain_question_finds_its_method_first(words: str) -> None:
    best = first_five(real(), words)[0]
    assert best.replace("/lxc/{vmid}/", "/qemu/{vmid}/") == {**BOTH, **REAL_ONLY}[words]


def test_what_fits_half_as_well_is_left_out() -> None:
    found = first_five(simulator(), "resize disk")
    assert found[:2] == [f"PUT {CT}/resize", f"PUT {VM}/resize"]
    assert len(found) < 5


@needs_data
def test_the_index_of_a_real_pve_is_small_and_quick() -> None:
    methods = list(real().methods())
    tracemalloc.start()
    index = Index(methods)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 1_000_000
    begun = time.process_time()
    for words in BOTH:
        index.find(words, 12)
    # 0.5 ms each on two slow cores; the bound leaves room for a busy machine.
    assert (time.process_time() - begun) / len(BOTH) < 0.02
