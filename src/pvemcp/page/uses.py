"""What the settings of a guest use: space on storages, volumes, bridges, devices of the host."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pvemcp.page.needs import ALLOCATE, NOBODY, SPACE, Given, Need

_FAMILY = re.compile(r"([a-z]+?)[0-9]*")
_DRIVES = frozenset(
    "ide sata scsi virtio efidisk tpmstate unused mp rootfs cdrom archive ostemplate".split()
)
_NEW = re.compile(r"[0-9.]+|cloudinit")
_OWNER = re.compile(
    r"(?:.*/)?(?:vm|base|subvol|basevol)-([0-9]+)-[^/]*"
    r"|backup/(?:.*/)?vzdump-[a-z]+-([0-9]+)-[^/]*|backup/(?:vm|ct)/([0-9]+)/.*"
)
_LOCAL = re.compile(r"vmbr[0-9]+|bond[0-9]+")
_PATHS = {"hostpci": "pci", "usb": "usb", "virtiofs": "dir"}


def used(given: Given) -> Iterator[Need]:
    """Return what the values of a write to a guest ask for."""
    for name, value in given.items():
        family = _FAMILY.fullmatch(name)
        kind = family[1] if family else ""
        if not value:
            continue
        if name.endswith("storage"):
            yield Need(f"/storage/{value}", (SPACE,))
        elif kind in _DRIVES:
            yield from _drive(value, given.get("vmid", ""))
        elif kind in _PATHS:
            yield from _device(kind, value)
        elif kind == "net":
            yield from _bridge(value)


def _options(value: str) -> dict[str, str]:
    """Take a property string apart; what has no name is under ""."""
    found = {}
    for part in value.split(","):
        name, sign, text = part.partition("=")
        found[name if sign else ""] = text if sign else part
    return found


def _drive(value: str, vmid: str) -> Iterator[Need]:
    said = _options(value)
    for name in ("", "file", "volume", "import-from"):
        volume = said.get(name, "")
        if volume and volume not in ("none", "cdrom"):
            yield from _volume(volume, vmid)


def _volume(volume: str, vmid: str) -> Iterator[Need]:
    storage, colon, name = volume.partition(":")
    if not colon or volume.startswith("/"):
        yield NOBODY if volume.startswith("/") else Need("/storage", (ALLOCATE,))
        return
    path, owner = f"/storage/{storage}", _OWNER.fullmatch(name)
    holder = next(filter(None, owner.groups()), "") if owner else ""
    if _NEW.fullmatch(name):
        yield Need(path, (SPACE,))
    elif name.startswith(("iso/", "vztmpl/", "import/")):
        yield Need(path, (SPACE, "Datastore.Audit"), any=True)
    elif name.startswith("backup/") and holder:
        yield from (Need(path, (SPACE,)), Need(f"/vms/{holder}", ("VM.Backup",)))
    elif not holder or holder != vmid:
        yield Need(path, (ALLOCATE,))  # somebody else's disk


def _bridge(value: str) -> Iterator[Need]:
    bridge = _options(value).get("bridge", "")
    if not bridge:
        return
    zone = f"localnetwork/{bridge}" if _LOCAL.fullmatch(bridge) else ""
    yield Need(f"/sdn/zones/{zone}".rstrip("/"), ("SDN.Use",))


def _device(kind: str, value: str) -> Iterator[Need]:
    """Only root gives a guest a device of the host that is not mapped."""
    said = _options(value)
    named = said.get("") if kind == "virtiofs" else ""
    mapped = said.get("mapping") or said.get("dirid") or named
    if mapped:
        yield Need(f"/mapping/{_PATHS[kind]}/{mapped}", ("Mapping.Use",))
    elif "spice" not in value.split(",") and said.get("host") != "spice":
        yield NOBODY
