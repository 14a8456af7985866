"""Storages of a node, and their content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pvemcp.sim.declare import (
    VMID_LIMITS,
    Ask,
    Endpoint,
    choice,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.progress import download_lines
from pvemcp.sim.refusal import TaskFailure, failed, forbidden, rejected
from pvemcp.sim.tasks import Work
from pvemcp.sim.usage import disk_size, disks, storage_on, storage_used
from pvemcp.sim.validate import split_list
from pvemcp.sim.volumes import base_of, linked_clones, need_storage, volid
from pvemcp.sim.world import Guest, Storage, Volume, World


def seen(ask: Ask, storage: Storage) -> bool:
    """Whether a caller may see a storage."""
    return ask.may(f"/storage/{storage.storage}", "Datastore.Audit", "Datastore.AllocateSpace")


def _status_of(storage: Storage) -> dict[str, Any]:
    used = 0 if storage.disabled else storage_used(storage)
    total = 0 if storage.disabled else storage.total
    return {
        "type": storage.type,
        "content": ",".join(storage.content),
        "shared": int(storage.shared),
        "enabled": int(not storage.disabled),
        "active": int(not storage.disabled),
        "total": total,
        "used": used,
        "avail": total - used,
    }


def _list(ask: Ask) -> list[dict[str, Any]]:
    args, rows = ask.args, []
    if name := args.get("storage"):
        need_storage(ask.world, name)
    wanted = set(split_list(args.get("content", "")))
    for storage in ask.world.storages.values():
        if not (storage_on(storage, ask.node) and seen(ask, storage)):
            continue
        if args.get("storage", storage.storage) != storage.storage:
            continue
        if (wanted and not wanted & set(storage.content)) or (
            args.get("enabled") and storage.disabled
        ):
            continue
        row = {"storage": storage.storage, **_status_of(storage)}
        if storage.total and not storage.disabled:
            row["used_fraction"] = row["used"] / row["total"]
        rows.append(row)
    return rows


def _status(ask: Ask) -> dict[str, Any]:
    storage = ask.world.storages.get(ask.args["storage"])
    if storage is None or not storage_on(storage, ask.node):
        raise rejected({"storage": "No such storage."})
    return _status_of(storage)


# Content -------------------------------------------------------------------------------------


def _here(ask: Ask) -> Storage:
    name = ask.args["storage"]
    need_storage(ask.world, name)
    storage = ask.world.storages[name]
    if not storage_on(storage, ask.node):
        raise failed(f"storage '{name}' is not available on node '{ask.node}'")
    return storage


def _guest_rows(world: World, storage: Storage, node: str) -> Iterator[dict[str, Any]]:
    for guest in world.guests.values():
        if not storage.shared and guest.node != node:
            continue
        for value in disks(guest.config).values():
            name = volid(value)
            if name.startswith(f"{storage.storage}:"):
                yield _guest_row(world, storage, guest, value)


def _guest_row(world: World, storage: Storage, guest: Guest, value: str) -> dict[str, Any]:
    name, size = volid(value), disk_size(value)
    row: dict[str, Any] = {
        "volid": name,
        "content": "images" if guest.type == "qemu" else "rootdir",
        "format": "qcow2" if name.endswith(".qcow2") else "raw",
        "size": size,
        "vmid": guest.vmid,
        "ctime": world.clock.seconds() - 86400,
    }
    if storage.type == "dir":
        base = base_of(name).partition(":")[2]
        row |= {"used": size * 4 // 10, "parent": f"../{base}" if base else None}
    return row


def _volume_row(volume: Volume) -> dict[str, Any]:
    row: dict[str, Any] = {
        "volid": volume.volid,
        "content": volume.content,
        "size": volume.size,
        "ctime": volume.ctime,
        "format": volume.format or volume.content,
    }
    if volume.vmid:
        row["vmid"] = volume.vmid
    if volume.content == "backup":
        row["subtype"] = "qemu" if "vzdump-qemu" in volume.volid else "lxc"
        if volume.notes:
            row["notes"] = volume.notes
        if volume.protected:
            row["protected"] = 1
    return row


def _content(ask: Ask) -> list[dict[str, Any]]:
    storage = _here(ask)
    rows = [
        *_guest_rows(ask.world, storage, ask.node),
        *(_volume_row(volume) for volume in storage.volumes),
    ]
    kind, vmid = ask.args.get("content"), ask.args.get("vmid")
    return [
        row
        for row in rows
        if kind in {None, row["content"]}
        and vmid in {None, row.get("vmid")}
        and _may_see_volume(ask, storage, row)
    ]


def _may_see_volume(ask: Ask, storage: Storage, row: dict[str, Any]) -> bool:
    """A guest's volume is shown to those who see the guest; the rest to all who see the storage."""
    if ask.may(f"/storage/{storage.storage}", "Datastore.Allocate"):
        return True
    if row["content"] == "backup":
        return ask.may(f"/vms/{row.get('vmid', 0)}", "VM.Backup")
    return "vmid" not in row or ask.may(f"/vms/{row['vmid']}", "VM.Audit", "VM.Config.Disk")


def _find(ask: Ask) -> tuple[Storage, dict[str, Any]]:
    storage = _here(ask)
    name = ask.args["volume"]
    full = name if ":" in name else f"{storage.storage}:{name}"
    rows = [*_guest_rows(ask.world, storage, ask.node), *map(_volume_row, storage.volumes)]
    for row in rows:
        if row["volid"] == full:
            if not _may_see_volume(ask, storage, row):
                raise forbidden()
            return storage, row
    raise failed(f"volume '{full}' does not exist")


def _get(ask: Ask) -> dict[str, Any]:
    storage, row = _find(ask)
    path = str(row["volid"]).partition(":")[2]
    folder = storage.options.get("path", f"/dev/{storage.storage}")
    middle = "images/" if row["content"] in {"images", "rootdir"} else "template/"
    if not storage.options.get("path"):
        middle = ""
    keys = ("format", "size", "used", "notes", "protected")
    shown = {key: row[key] for key in keys if key in row}
    return {"used": row["size"], **shown, "path": f"{folder}/{middle}{path}"}


def _update(ask: Ask) -> None:
    """Write notes and protection of a backup."""
    storage, row = _find(ask)
    volume = next((one for one in storage.volumes if one.volid == row["volid"]), None)
    for name in ("notes", "protected"):
        if name in ask.args and (volume is None or volume.content != "backup"):
            raise failed(f"attribute {name} is not supported for volume '{row['volid']}'")
    if volume is not None:
        volume.notes = ask.args.get("notes", volume.notes)
        volume.protected = bool(ask.args.get("protected", volume.protected))


def _delete(ask: Ask) -> str:
    storage, row = _find(ask)
    path = f"/storage/{storage.storage}"
    backup = row["content"] == "backup" and ask.may(path, "Datastore.AllocateSpace")
    if not backup and not ask.may(path, "Datastore.Allocate"):
        raise forbidden(f"{path}, Datastore.Allocate")
    if row.get("protected"):
        raise failed(f"can't remove volume '{row['volid']}' - it is protected")
    name, vmid = str(row["volid"]), int(row.get("vmid", 0))

    def check() -> None:
        guest = ask.world.guests.get(vmid)
        if guest and name in set(linked_clones(ask.world, guest)):
            raise TaskFailure(f"base volume '{name}' is still in use by linked cloned")

    work = Work(lambda: _erase(ask.world, storage, name), check)
    owner = f"{vmid or ''}@{storage.storage}"
    return ask.world.tasks.start(ask.node, "imgdel", id=owner, user=ask.who.id, work=work)


def _erase(world: World, storage: Storage, name: str) -> None:
    storage.volumes[:] = [volume for volume in storage.volumes if volume.volid != name]
    for guest in world.guests.values():
        for key, value in disks(guest.config).items():
            if volid(value) == name:
                del guest.config[key]


def _download(ask: Ask) -> str:
    storage, args = _here(ask), ask.args
    kind, name = args["content"], args["filename"]
    if kind not in storage.content:
        raise failed(f"storage '{storage.storage}' is not configured for content-type '{kind}'")

    def check() -> None:
        host = args["url"].partition("://")[2].partition("/")[0]
        if host.partition(":")[0] in {"127.0.0.1", "localhost"}:
            raise TaskFailure(
                f"download failed: Connecting to {host}... failed: Connection refused."
            )

    def apply() -> None:
        volume = Volume(
            f"{storage.storage}:{kind}/{name}", kind, 700 * 1024**2, ask.world.clock.seconds()
        )
        storage.volumes.append(volume)

    work = Work(apply, check, lines=download_lines(), seconds=10)
    return ask.world.tasks.start(ask.node, "download", id=name, user=ask.who.id, work=work)


_AUDIT = perm("/storage/{storage}", "Datastore.Audit", "Datastore.AllocateSpace", any_of=True)
_STORE = "/nodes/{node}/storage/{storage}"
_DOWNLOAD = {
    "check": [
        "and",
        ["perm", "/storage/{storage}", ["Datastore.AllocateTemplate"]],
        [
            "or",
            ["perm", "/", ["Sys.Audit", "Sys.Modify"]],
            ["perm", "/nodes/{node}", ["Sys.AccessNetwork"]],
        ],
    ]
}
_OPTIONAL_STORE = text("storage", "The storage.", format="pve-storage-id")
_SUMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", "/nodes/{node}/storage", _list, about="Storages of a node and their use.",
             protected=True, returns=index("storage"),
             parameters=(text("content", "With such content.", format="pve-storage-content-list"),
                         flag("enabled", "Enabled ones alone.", default=0),
                         flag("format", "With formats.", default=0),
                         text("storage", "This one.", format="pve-storage-id"),
                         text("target", "Also on this node.", format="pve-node"))),
    endpoint("GET", _STORE, listing("content", "download-url", "file-restore", "import-metadata",
                                    "prunebackups", "rrd", "rrddata", "status", "upload"),
             about="What there is.", permissions=_AUDIT, returns=index("subdir"), local=True),
    endpoint("GET", f"{_STORE}/status", _status, about="Use of a storage.", permissions=_AUDIT,
             protected=True, returns="object"),
    endpoint("GET", f"{_STORE}/content", _content, about="Volumes of a storage.",
             permissions=_AUDIT, protected=True, returns=index("volid"),
             parameters=(text("content", "Of one kind.", format="pve-storage-content"),
                         whole("vmid", "Of one guest.", **VMID_LIMITS))),
    endpoint("GET", f"{_STORE}/content/{{volume}}", _get, about="A volume.", protected=True,
             returns="object", parameters=(_OPTIONAL_STORE,)),
    endpoint("PUT", f"{_STORE}/content/{{volume}}", _update, about="Write notes.",
             protected=True,
             parameters=(_OPTIONAL_STORE, text("notes", "Notes."),
                         flag("protected", "Whether it can be removed."))),
    endpoint("DELETE", f"{_STORE}/content/{{volume}}", _delete, about="Remove a volume.",
             protected=True, returns="string",
             parameters=(_OPTIONAL_STORE,
                         whole("delay", "Seconds to wait for the end.", minimum=1, maximum=30))),
    endpoint("POST", f"{_STORE}/download-url", _download, about="Fetch a file into a storage.",
             permissions=_DOWNLOAD, protected=True, returns="string",
             parameters=(text("checksum", "What it must be.", requires="checksum-algorithm"),
                         choice("checksum-algorithm", "Kind of checksum.", _SUMS,
                                requires="checksum"),
                         text("compression", "Unpack it."),
                         choice("content", "Kind of content.", ("iso", "vztmpl", "import"),
                                optional=False, format="pve-storage-content"),
                         text("filename", "Name to give it.", optional=False, max_length=255),
                         text("url", "Where it is.", optional=False, pattern="https?://.*"),
                         flag("verify-certificates", "Check TLS.", default=1))),
)  # fmt: skip
