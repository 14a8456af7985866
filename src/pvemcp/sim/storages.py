"""Definitions of storages: /etc/pve/storage.cfg."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import Ask, Endpoint, choice, endpoint, flag, index, perm, text, whole
from pvemcp.sim.refusal import failed, rejected
from pvemcp.sim.storage import seen
from pvemcp.sim.validate import split_list
from pvemcp.sim.volumes import need_storage
from pvemcp.sim.world import Storage, World

_TYPES = ("btrfs", "cephfs", "cifs", "dir", "esxi", "iscsi", "iscsidirect", "lvm", "lvmthin",
          "nfs", "pbs", "rbd", "zfs", "zfspool")  # fmt: skip
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "btrfs": ("path",), "cifs": ("server", "share"), "dir": ("path",), "esxi": ("server",),
    "lvm": ("vgname",), "lvmthin": ("vgname", "thinpool"), "nfs": ("server", "export"),
    "pbs": ("server", "datastore"), "rbd": ("pool",), "zfspool": ("pool",),
}  # fmt: skip
"""What a storage of a type cannot do without."""
_SHARED = frozenset(("cephfs", "cifs", "esxi", "iscsi", "iscsidirect", "nfs", "pbs", "rbd", "zfs"))
_MOUNTED = frozenset(("cephfs", "cifs", "nfs"))
_CONTENT = {"pbs": "backup", "esxi": "import"}
_SECRET = frozenset(("encryption-key", "keyring", "master-pubkey", "password"))
_FIELDS = frozenset(("content", "nodes", "disable", "shared"))
_CONTROL = frozenset(("storage", "type", "digest", "delete"))


def _digest(world: World) -> str:
    said = [replace(storage, volumes=[]) for storage in world.storages.values()]
    return hashlib.sha1(repr(said).encode(), usedforsecurity=False).hexdigest()


def _definition(world: World, storage: Storage) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "storage": storage.storage,
        "type": storage.type,
        "content": ",".join(storage.content),
        "digest": _digest(world),
        **storage.options,
    }
    if storage.shared and storage.type not in _SHARED:
        shown["shared"] = 1
    if storage.nodes:
        shown["nodes"] = ",".join(storage.nodes)
    if storage.disabled:
        shown["disable"] = 1
    return shown


def _list(ask: Ask) -> list[dict[str, Any]]:
    kind = ask.args.get("type")
    return [
        _definition(ask.world, storage)
        for storage in ask.world.storages.values()
        if seen(ask, storage) and kind in {None, storage.type}
    ]


def _get(ask: Ask) -> dict[str, Any]:
    need_storage(ask.world, ask.args["storage"])
    return _definition(ask.world, ask.world.storages[ask.args["storage"]])


def _create(ask: Ask) -> dict[str, str]:
    world, name, kind = ask.world, ask.args["storage"], ask.args["type"]
    if name in world.storages:
        raise failed(f"create storage failed: storage ID '{name}' already defined")
    for needed in _NEEDS.get(kind, ()):
        if needed not in ask.args:
            raise rejected({needed: "property is missing and it is not optional"})
    there = world.forgotten.pop(name, Storage(name, kind, ()))
    path = {"path": f"/mnt/pve/{name}"} if kind in _MOUNTED else {}
    content = (_CONTENT.get(kind, "images"),)
    bare = Storage(name, kind, content, path, shared=kind in _SHARED)
    made = replace(bare, volumes=there.volumes, total=there.total, filled=there.filled)
    world.storages[name] = _changed(made, ask.args)
    return {"storage": name, "type": kind}


def _update(ask: Ask) -> dict[str, str]:
    world, name = ask.world, ask.args["storage"]
    need_storage(world, name)
    if ask.args.get("digest") not in (None, _digest(world)):
        raise failed("detected modified configuration - file changed by other user? Try again.")
    storage = _without(world.storages[name], split_list(ask.args.get("delete", "")))
    world.storages[name] = _changed(storage, ask.args)
    return {"storage": name, "type": storage.type}


def _delete(ask: Ask) -> None:
    """Forget a storage; what is in it stays where it is."""
    need_storage(ask.world, ask.args["storage"])
    storage = ask.world.storages.pop(ask.args["storage"])
    ask.world.forgotten[storage.storage] = storage


def _without(storage: Storage, gone: list[str]) -> Storage:
    return replace(
        storage,
        options={k: v for k, v in storage.options.items() if k not in gone},
        secrets={k: v for k, v in storage.secrets.items() if k not in gone},
        nodes=() if "nodes" in gone else storage.nodes,
        disabled=storage.disabled and "disable" not in gone,
        shared=storage.shared and ("shared" not in gone or storage.type in _SHARED),
    )


def _changed(storage: Storage, given: Mapping[str, Any]) -> Storage:
    rest = {k: v for k, v in given.items() if k not in _FIELDS | _CONTROL}
    secrets = {k: v for k, v in rest.items() if k in _SECRET}
    content, nodes = given.get("content"), given.get("nodes")
    return replace(
        storage,
        options=storage.options | {k: v for k, v in rest.items() if k not in _SECRET},
        secrets=storage.secrets | secrets,
        content=tuple(split_list(content)) if content else storage.content,
        nodes=tuple(split_list(nodes)) if nodes else storage.nodes,
        disabled=bool(given.get("disable", storage.disabled)),
        shared=bool(given.get("shared", storage.shared)),
    )


# Declarations --------------------------------------------------------------------------------

_NAME = text("storage", "Name of the storage.", optional=False, format="pve-storage-id")
_FINGERPRINT = "([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}"
_LIMIT = {"type": "number", "optional": 1, "minimum": "0"}
_BANDWIDTH = dict.fromkeys(("clone", "default", "migration", "move", "restore"), _LIMIT)
_SETTINGS: tuple[Parameter, ...] = (
    text("bwlimit", "Limits in KiB/s.", format=_BANDWIDTH),
    text("content", "What may be on it.", format="pve-storage-content-list"),
    *(flag(name, "Make folders.", default="yes") for name in
      ("create-base-path", "create-subdirs", "mkdir")),
    *(flag(name, "Whether it is so.") for name in ("disable", "saferemove", "shared", "sparse")),
    *(flag(name, "Whether it is so.", default=0) for name in ("krbd", "snapshot-as-volume-chain")),
    *(text(name, "Of its type.") for name in
      ("data-pool", "encryption-key", "keyring", "master-pubkey", "namespace", "pool",
       "saferemove_throughput", "username")),
    *(text(name, "Of its type.", max_length=256) for name in ("domain", "password")),
    text("fingerprint", "Of the server's certificate.", pattern=_FINGERPRINT),
    choice("format", "Of new images.", ("raw", "qcow2", "subvol", "vmdk")),
    text("is_mountpoint", "Whether it must be mounted.", default="no"),
    whole("max-protected-backups", "Of a guest.", minimum=-1),
    text("monhost", "Monitors.", format="pve-storage-portal-dns-list"),
    text("nodes", "Nodes that have it.", format="pve-node-list"),
    text("options", "Of the mount.", format="pve-storage-options"),
    whole("port", "Of the server.", minimum=1, maximum=65535),
    choice("preallocation", "Of new images.", ("off", "metadata", "falloc", "full"),
           default="metadata"),
    text("prune-backups", "What to keep.", format="prune-backups"),
    Parameter("saferemove-stepsize", "integer", optional=True, default=32,
              enum=("1", "2", "4", "8", "16", "32"), description="MiB that are wiped at once."),
    text("server", "Name or address.", format="pve-storage-server"),
    choice("smbversion", "Of the protocol.", ("default", "2.0", "2.1", "3", "3.0", "3.11"),
           default="default"),
)  # fmt: skip
_FIXED: tuple[Parameter, ...] = (
    choice("type", "Of one type.", _TYPES, optional=False),
    *(text(name, "Of its type.") for name in ("datastore", "share")),
    *(text(name, "Of its type.", format="pve-storage-path") for name in ("export", "path")),
    *(text(name, "Of its type.", format="pve-storage-vgname") for name in ("thinpool", "vgname")),
)
_ALLOCATE = perm("/storage", "Datastore.Allocate")

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/storage", _list, about="Definitions of storages.",
             parameters=(choice("type", "Of one type.", _TYPES),), returns=index("storage")),
    endpoint("POST", "/storage", _create, about="Define a storage.", permissions=_ALLOCATE,
             protected=True, returns="object", parameters=(_NAME, *_FIXED, *_SETTINGS)),
    endpoint("GET", "/storage/{storage}", _get, about="Definition of a storage.",
             permissions=perm("/storage/{storage}", "Datastore.Allocate"), returns="object"),
    endpoint("PUT", "/storage/{storage}", _update, about="Change a definition.",
             permissions=_ALLOCATE, protected=True, returns="object",
             parameters=(_NAME, *_SETTINGS,
                         text("delete", "Settings to remove.", format="pve-configid-list",
                              max_length=4096),
                         text("digest", "Refuse when it has changed.", max_length=64))),
    endpoint("DELETE", "/storage/{storage}", _delete, about="Remove a definition.",
             permissions=_ALLOCATE, protected=True),
)  # fmt: skip
