"""What a person must hold in PVE to approve a write, for every form in which PVE says it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pvemcp.page.rights import missing
from pvemcp.pve.description import Description
from tests.unit.pve_tree import method, node

VM, STORE = "/nodes/{node}/qemu/{vmid}", "/nodes/{node}/storage/{storage}"


def asks(path: str, *names: str, **more: Any) -> list[Any]:
    return ["perm", path, list(names), *(part for pair in more.items() for part in pair)]


CHECKS: dict[tuple[str, str], Any] = {
    ("POST", f"{VM}/status/stop"): asks("/vms/{vmid}", "VM.PowerMgmt"),
    ("PUT", f"{VM}/config"): asks("/vms/{vmid}", "VM.Config.CPU", "VM.Config.Disk", any=1),
    ("POST", f"{VM}/snapshot/{{snapname}}/rollback"): asks(
        "/vms/{vmid}", "VM.Snapshot", "VM.Snapshot.Rollback", any=1
    ),
    ("POST", f"{VM}/clone"): None,
    ("POST", f"{VM}/move_disk"): asks("/vms/{vmid}", "VM.Config.Disk"),
    ("POST", "/both"): ["and", asks("/a", "A"), ["or", asks("/b", "B"), asks("/c", "C")]],
    ("POST", "/maybe"): ["or", asks("/b", "B"), asks("/pool/{pool}", "P", require_param="pool")],
    ("PUT", "/access/password"): [
        "or",
        ["userid-param", "self"],
        ["and", ["userid-param", "Realm.AllocateUser"], ["userid-group", ["User.Modify"]]],
    ],
    ("PUT", "/access/acl"): ["perm-modify", "{path}"],
    ("POST", "/new"): ["a form that PVE has not had yet"],
    ("DELETE", "/self"): ["userid-param", "self"],
    ("DELETE", f"{STORE}/content/{{volume}}"): None,
    ("POST", "/nodes/{node}/vzdump"): None,
    ("POST", "/nodes/{node}/stopall"): None,
    ("POST", "/somewhere"): None,
    ("POST", "/nodes/{node}/qemu"): None,
    ("POST", "/nodes/{node}/lxc"): None,
    ("PUT", f"{VM}/resize"): asks("/vms/{vmid}", "VM.Config.Disk"),
    ("POST", f"{VM}/status/suspend"): asks("/vms/{vmid}", "VM.PowerMgmt"),
    ("PUT", "/pools"): asks("/pool/{poolid}", "Pool.Allocate"),
    ("POST", "/nodes/{node}/disks/zfs"): asks("/", "Sys.Modify"),
}
ROOT_ONLY = ("PUT", "/nodes/{node}/disks/wipedisk")


def description() -> Description:
    nodes = [
        node(path, method(verb, permissions={"check": check} if check else {"user": "all"}))
        for (verb, path), check in CHECKS.items()
    ]
    nodes.append(node(ROOT_ONLY[1], method(ROOT_ONLY[0])))
    return Description.parse(json.dumps(nodes))


async def lacks(
    verb: str, template: str, held: dict[str, str], person: str = "carol@pve", **given: Any
) -> list[str]:
    """Return what a person with these privileges lacks for one write."""

    async def holds(path: str) -> frozenset[str]:
        return frozenset(held.get(path, "").split())

    write = {"verb": verb, "template": template, "given": given, **given}
    return await missing(person, [write], description(), holds)


STOP = ("POST", f"{VM}/status/stop")
VOLUME = ("DELETE", f"{STORE}/content/{{volume}}")
BACKUP = {"storage": "nas", "volume": "nas:backup/vzdump-qemu-7.vma", "vmid": 7}
ROOM = {"/storage": "Datastore.AllocateSpace", "/sdn/zones": "SDN.Use"}
SPACE, ALLOCATE = "Datastore.AllocateSpace", "Datastore.Allocate"

CONFIG = ("PUT", f"{VM}/config")
MINE = "VM.Config.CPU VM.Config.Disk VM.Config.Memory VM.Config.Network VM.Config.Options"
REST = ("VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Config.HWType")
OWNER = {"/vms/7": f"{MINE} {' '.join(REST)} VM.Allocate"}
MAKE, BOX = ("POST", "/nodes/{node}/qemu"), ("POST", "/nodes/{node}/lxc")
DUMP = ("POST", "/nodes/{node}/vzdump")
SAVED = {"/vms/7": "VM.Backup", "/storage/nas": "Datastore.AllocateSpace"}
IN_CODE: list[tuple[tuple[str, str], dict[str, str], dict[str, Any], str]] = [
    (CONFIG, OWNER, {"vmid": 7, "scsi1": "nas:32"}, f"{SPACE} on /storage/nas"),
    (CONFIG, {**OWNER, "/storage/nas": SPACE}, {"vmid": 7, "scsi1": "nas:32,ssd=1"}, ""),
    (CONFIG, OWNER, {"vmid": 7, "scsi0": "nas:vm-7-disk-0,cache=none"}, ""),
    (CONFIG, {**OWNER, "/storage/nas": SPACE}, {"vmid": 7, "scsi1": "file=nas:vm-8-disk-0"},
     f"{ALLOCATE} on /storage/nas"),
    (CONFIG, {**OWNER, "/storage/nas": SPACE},
     {"vmid": 7, "scsi1": "nas:0,import-from=nas:8/vm-8-disk-0.raw"},
     f"{ALLOCATE} on /storage/nas"),
    (CONFIG, OWNER, {"vmid": 7, "scsi1": "/dev/sda"}, "to be root@pam"),
    (CONFIG, OWNER, {"vmid": 7, "ide2": "none,media=cdrom"}, ""),
    (CONFIG, {**OWNER, "/storage/nas": "Datastore.Audit"},
     {"vmid": 7, "ide2": "nas:iso/a.iso,media=cdrom"}, ""),
    (CONFIG, OWNER, {"vmid": 7, "net0": "virtio,bridge=vmbr1"},
     "SDN.Use on /sdn/zones/localnetwork/vmbr1"),
    (CONFIG, OWNER, {"vmid": 7, "net0": "virtio,bridge=office"}, "SDN.Use on /sdn/zones"),
    (CONFIG, OWNER, {"vmid": 7, "hostpci0": "0000:01:00.0"}, "to be root@pam"),
    (CONFIG, OWNER, {"vmid": 7, "hostpci0": "mapping=gpu"}, "Mapping.Use on /mapping/pci/gpu"),
    (CONFIG, OWNER, {"vmid": 7, "usb0": "spice"}, ""),
    (MAKE, OWNER, {"vmid": 7, "scsi0": "nas:32"}, f"{SPACE} on /storage/nas"),
    (MAKE, {"/vms/7": "VM.Allocate"}, {"vmid": 7},
     f"VM.Allocate and {' and '.join([*MINE.split(), *REST])} on /vms/7"),
    (MAKE, {**OWNER, "/storage/nas": SPACE, "/vms/8": "VM.Backup"},
     {"vmid": 7, "archive": "nas:backup/vzdump-qemu-8-x.vma", "storage": "nas"}, ""),
    (MAKE, {**OWNER, "/storage/nas": SPACE},
     {"vmid": 7, "archive": "nas:backup/vzdump-qemu-8-x.vma", "storage": "nas"},
     "VM.Backup on /vms/8"),
    (MAKE, {**OWNER, "/storage/nas": SPACE, "/vms/8": "VM.Backup"},
     {"vmid": 7, "archive": "nas:backup/vzdump-qemu-8-x.vma"}, f"{SPACE} on /storage"),
    (BOX, {**OWNER, "/storage/nas": SPACE}, {"vmid": 7, "rootfs": "nas:8"}, ""),
    (BOX, {**OWNER, "/storage/nas": SPACE}, {"vmid": 7, "rootfs": "nas:8", "unprivileged": 0},
     "Sys.Modify on /"),
    (BOX, OWNER, {"vmid": 7}, f"{SPACE} on /storage/local"),
    (("PUT", f"{VM}/resize"), {"/vms/7": "VM.Config.Disk"}, {"vmid": 7}, f"{SPACE} on /storage"),
    (("POST", f"{VM}/status/suspend"), {"/vms/7": "VM.PowerMgmt"}, {"vmid": 7}, ""),
    (("POST", f"{VM}/status/suspend"), {"/vms/7": "VM.PowerMgmt"},
     {"vmid": 7, "todisk": "", "statestorage": "nas"},
     f"{SPACE} on /storage/nas and VM.Config.Disk on /vms/7"),
    (("POST", f"{VM}/clone"), {"/vms/7": "VM.Clone", "/vms/9": "VM.Allocate"},
     {"vmid": 7, "newid": "9"}, f"{SPACE} on /storage and SDN.Use on /sdn/zones"),
    (DUMP, SAVED, {"vmid": 7, "storage": "nas"}, ""),
    (DUMP, SAVED, {"vmid": 7, "storage": "nas", "prune-backups": ""},
     f"{ALLOCATE} on /storage/nas"),
    (DUMP, SAVED, {"vmid": 7, "storage": "nas", "script": ""}, "to be root@pam"),
    (("PUT", "/pools"), {"/pool/mine": "Pool.Allocate"}, {"poolid": "mine", "vms": "7"},
     "Permissions.Modify or VM.Allocate on /vms/7"),
    (("PUT", "/pools"), {"/pool/mine": "Pool.Allocate"}, {"poolid": "mine", "storage": "nas"},
     f"Permissions.Modify or {ALLOCATE} on /storage/nas"),
    (("POST", "/nodes/{node}/disks/zfs"), {"/": "Sys.Modify"}, {"add_storage": ""},
     f"{ALLOCATE} on /storage"),
]  # fmt: skip
"""What PVE checks in its code, as its description tells in words alone."""

CASES: list[tuple[tuple[str, str], dict[str, str], dict[str, Any], str]] = [
    (STOP, {"/vms/7": "VM.PowerMgmt"}, {"vmid": 7}, ""),
    (STOP, {"/vms/8": "VM.PowerMgmt"}, {"vmid": 7}, "VM.PowerMgmt on /vms/7"),
    (STOP, {"/": "Sys.Modify"}, {"vmid": 7}, "VM.PowerMgmt on /vms/7"),
    (STOP, {"/vms/7": "VM.PowerMgmt"}, {}, "Sys.Modify on /"),
    (("PUT", f"{VM}/config"), {"/vms/7": "VM.Config.CPU"}, {"vmid": 7},
     "VM.Config.CPU and VM.Config.Disk on /vms/7"),
    (("PUT", f"{VM}/config"), {"/vms/7": "VM.Config.CPU VM.Config.Disk"}, {"vmid": 7}, ""),
    (("POST", f"{VM}/snapshot/{{snapname}}/rollback"), {"/vms/7": "VM.Snapshot"}, {"vmid": 7}, ""),
    (("POST", "/both"), {"/a": "A", "/c": "C"}, {}, ""),
    (("POST", "/both"), {"/a": "A"}, {}, "B on /b, or C on /c"),
    (("POST", "/maybe"), {"/pool/x": "P"}, {}, "B on /b"),
    (("POST", "/maybe"), {"/pool/x": "P"}, {"pool": "x"}, ""),
    (("POST", "/maybe"), {"/pool/y": "P"}, {"pool": "x"}, "B on /b, or P on /pool/x"),
    (("PUT", "/access/password"), {}, {"userid": "carol@pve"}, ""),
    (("PUT", "/access/password"), {}, {"userid": "root@pam"},
     "Realm.AllocateUser on /access/realm/pam and User.Modify on /access/groups"),
    (("DELETE", "/self"), {}, {"userid": "dora@pve"}, "Sys.Modify on /"),
    (("PUT", "/access/acl"), {"/vms": "Permissions.Modify"}, {"path": "/vms"}, ""),
    (("PUT", "/access/acl"), {}, {"path": "/vms"}, "Permissions.Modify on /vms"),
    (("POST", "/new"), {}, {}, "Sys.Modify on /"),
    (("POST", "/somewhere"), {"/vms": "VM.Allocate"}, {}, "Sys.Modify on /"),
    (("POST", "/nowhere"), {}, {}, "Sys.Modify on /"),
    (ROOT_ONLY, {"/": "Sys.Modify Sys.Console"}, {}, "to be root@pam"),
    (VOLUME, {"/storage/nas": SPACE, "/vms/7": "VM.Backup"}, BACKUP, ""),
    (VOLUME, {"/storage/nas": SPACE, "/vms/7": "VM.Backup"},
     {**BACKUP, "volume": "nas:7/vm-7-disk-0.raw"}, f"{ALLOCATE} on /storage/nas"),
    (VOLUME, {"/storage/nas": ALLOCATE}, {"storage": "nas", "volume": "nas:iso/x.iso"}, ""),
    (("POST", "/nodes/{node}/vzdump"), {"/vms/7": "VM.Backup", "/storage/nas": SPACE},
     {"vmid": "7,8", "storage": "nas"}, "VM.Backup on /vms/8"),
    (("POST", "/nodes/{node}/vzdump"), {"/storage/nas": SPACE}, {"all": 1, "storage": "nas"},
     "VM.Backup on /"),
    (("POST", "/nodes/{node}/stopall"), {"/vms/7": "VM.PowerMgmt"}, {}, "VM.PowerMgmt on /"),
    (("POST", f"{VM}/move_disk"), {"/vms/7": "VM.Config.Disk"}, {"vmid": 7, "storage": "nas"},
     f"{SPACE} on /storage/nas"),
    (("POST", f"{VM}/move_disk"), {"/vms/7": "VM.Config.Disk"}, {"vmid": 7, "target-vmid": "9"},
     "VM.Config.Disk on /vms/9"),
    (("POST", f"{VM}/clone"), {"/vms/7": "VM.Clone", "/pool/x": "VM.Allocate", **ROOM},
     {"vmid": 7, "newid": "9", "pool": "x"}, ""),
    (("POST", f"{VM}/clone"), {"/vms/7": "VM.Clone VM.Allocate", **ROOM},
     {"vmid": 7, "newid": "9"}, "VM.Allocate on /vms/9"),
    (("RUN", ""), {"/nodes/pve1": "Sys.Modify"}, {"node": "pve1"},
     "Sys.Modify and Sys.Console on /nodes/pve1"),
    (("RUN", ""), {"/nodes/pve1": "Sys.Modify Sys.Console"}, {"node": "pve1"}, ""),
    (("RUN", ""), {"/vms/7": "VM.Monitor"}, {"node": "pve1", "vmid": 7}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "held", "given", "expected"), CASES + IN_CODE)
async def test_what_a_person_lacks(
    asked: tuple[str, str], held: dict[str, str], given: dict[str, Any], expected: str
) -> None:
    assert await lacks(*asked, held, **given) == ([expected] if expected else [])


async def test_root_lacks_nothing() -> None:
    assert await lacks(*ROOT_ONLY, {}, person="root@pam") == []


async def test_a_question_without_a_write_is_not_for_everybody() -> None:
    async def nothing(_path: str) -> frozenset[str]:
        return frozenset()

    assert await missing("carol@pve", [], description(), nothing) == ["Sys.Modify on /"]
