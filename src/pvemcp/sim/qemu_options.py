"""The settings of a virtual machine, as parameters of create and config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import choice, flag, real, text, whole

_WORD = {"type": "string", "optional": 1}
_BIT = {"type": "boolean", "optional": 1}
_NUMBER = {"type": "integer", "optional": 1}


def _limits() -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for kind in ("bps", "bps_rd", "bps_wr"):
        keys |= {kind: _NUMBER, f"{kind}_max_length": _NUMBER}
    keys |= {"bps_rd_length": {"alias": "bps_rd_max_length"}}
    keys |= {"bps_wr_length": {"alias": "bps_wr_max_length"}}
    keys |= {"iops_rd_length": {"alias": "iops_rd_max_length"}}
    keys |= {"iops_wr_length": {"alias": "iops_wr_max_length"}}
    for kind in ("iops", "iops_rd", "iops_wr"):
        keys |= {kind: _NUMBER, f"{kind}_max": _NUMBER, f"{kind}_max_length": _NUMBER}
    for kind in ("mbps", "mbps_rd", "mbps_wr"):
        number = {"type": "number", "optional": 1}
        keys |= {kind: number, f"{kind}_max": number}
    return keys


_DRIVE: Mapping[str, Any] = {
    "file": {"type": "string", "default_key": 1, "format": "pve-volume-id-or-qm-path"},
    "volume": {"alias": "file"},
    "aio": {**_WORD, "enum": ["native", "threads", "io_uring"]},
    "backup": _BIT,
    "cache": {**_WORD, "enum": ["none", "writethrough", "writeback", "unsafe", "directsync"]},
    "detect_zeroes": _BIT,
    "discard": {**_WORD, "enum": ["ignore", "on"]},
    "format": {**_WORD, "enum": ["raw", "qcow", "qed", "qcow2", "vmdk", "cloop"]},
    "import-from": _WORD,
    "media": {**_WORD, "enum": ["cdrom", "disk"], "default": "disk"},
    "replicate": _BIT,
    "rerror": {**_WORD, "enum": ["ignore", "report", "stop"]},
    "serial": _WORD,
    "shared": _BIT,
    "size": {**_WORD, "format": "disk-size"},
    "snapshot": _BIT,
    "werror": {**_WORD, "enum": ["enospc", "ignore", "report", "stop"]},
    **_limits(),
}
_SOLID: Mapping[str, Any] = {"ssd": _BIT, "wwn": _WORD}
_THREAD: Mapping[str, Any] = {"iothread": _BIT, "ro": _BIT}
_SCSI: Mapping[str, Any] = {
    **_DRIVE,
    **_SOLID,
    **_THREAD,
    "product": _WORD,
    "queues": _NUMBER,
    "scsiblock": _BIT,
    "vendor": _WORD,
}
_SATA: Mapping[str, Any] = {**_DRIVE, **_SOLID}
_IDE: Mapping[str, Any] = {**_SATA, "model": _WORD}
_VIRTIO: Mapping[str, Any] = {**_DRIVE, **_THREAD}

_MODELS = ("e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551",
           "i82557b", "i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "virtio",
           "vmxnet3")  # fmt: skip
NET: Mapping[str, Any] = {
    "model": {"type": "string", "default_key": 1, "enum": list(_MODELS)},
    "macaddr": {**_WORD, "format": "mac-addr"},
    **{model: {"alias": "macaddr", "keyAlias": "model"} for model in _MODELS},
    "bridge": {**_WORD, "format": "pve-bridge-id"},
    "firewall": _BIT,
    "link_down": _BIT,
    "mtu": {**_NUMBER, "minimum": 1, "maximum": 65520},
    "queues": {**_NUMBER, "minimum": 0, "maximum": 64},
    "rate": {"type": "number", "optional": 1, "minimum": 0},
    "tag": {**_NUMBER, "minimum": 1, "maximum": 4094},
    "trunks": _WORD,
}
"""Keys of a network card such as `virtio,bridge=vmbr0`."""

_KEYBOARDS = ("de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch",
              "hu", "is", "it", "ja", "lt", "mk", "nl", "no", "pl", "pt", "pt-br", "sv", "sl",
              "tr")  # fmt: skip
_SYSTEMS = ("other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11",
            "l24", "l26", "solaris")  # fmt: skip
_LOCKS = ("backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete",
          "suspending", "suspended")  # fmt: skip
MACHINE: Mapping[str, Any] = {
    "type": {**_WORD, "default_key": 1, "maxLength": 40},
    "aw-bits": {"type": "number", "optional": 1, "minimum": 32, "maximum": 64},
    "enable-s3": _BIT,
    "enable-s4": _BIT,
    "viommu": {**_WORD, "enum": ["intel", "virtio"]},
}
AGENT: Mapping[str, Any] = {
    "enabled": {"type": "boolean", "default_key": 1, "default": 0},
    "freeze-fs": _BIT,
    "freeze-fs-on-backup": {"alias": "guest-fsfreeze"},
    "fstrim_cloned_disks": _BIT,
    "guest-fsfreeze": _BIT,
    "type": {**_WORD, "enum": ["virtio", "isa"]},
}
_EFI: Mapping[str, Any] = {
    "file": {"type": "string", "default_key": 1},
    "volume": {"alias": "file"},
    "efitype": {**_WORD, "enum": ["2m", "4m"]},
    "format": _WORD,
    "import-from": _WORD,
    "ms-cert": _WORD,
    "pre-enrolled-keys": _BIT,
    "size": _WORD,
}
_TPM: Mapping[str, Any] = {
    "file": {"type": "string", "default_key": 1},
    "volume": {"alias": "file"},
    "format": _WORD,
    "import-from": _WORD,
    "size": _WORD,
    "version": {**_WORD, "enum": ["v1.2", "v2.0"]},
}
_VGA: Mapping[str, Any] = {
    "type": {**_WORD, "default_key": 1},
    "memory": {**_NUMBER, "minimum": 4, "maximum": 512},
    "clipboard": {**_WORD, "enum": ["vnc"]},
}

OPTIONS: tuple[Parameter, ...] = (
    flag("acpi", "ACPI on or off.", default=1),
    text("affinity", "Host cores to run on; root@pam only.", format="pve-cpuset"),
    text("agent", "Guest agent: 1, or enabled=1 and more.", format=AGENT),
    choice("arch", "Processor architecture; root@pam only.", ("x86_64", "aarch64")),
    text("args", "Arguments for QEMU; root@pam only."),
    flag("autostart", "Start again after a crash.", default=0),
    whole("balloon", "Least memory in MiB; 0 turns ballooning off.", minimum=0),
    choice("bios", "Firmware.", ("seabios", "ovmf"), default="seabios"),
    text("boot", "Boot order such as order=scsi0;net0.", format="pve-qm-boot"),
    text("bootdisk", "Old way to name the boot disk.", format="pve-qm-bootdisk",
         pattern=r"(ide|sata|scsi|virtio)\d+"),
    text("cdrom", "Same as ide2.", format="pve-qm-ide"),
    text("cicustom", "Own files for cloud-init.", format="pve-qm-cicustom"),
    text("cipassword", "Password that cloud-init sets."),
    choice("citype", "Format of cloud-init.", ("configdrive2", "nocloud", "opennebula")),
    flag("ciupgrade", "Upgrade packages at first boot.", default=1),
    text("ciuser", "User that cloud-init sets up."),
    whole("cores", "Cores per socket.", minimum=1, default=1),
    text("cpu", "Emulated processor.", format="pve-vm-cpu-conf"),
    real("cpulimit", "Limit in whole CPUs; 0 is none.", minimum=0, maximum=128, default=0),
    whole("cpuunits", "Weight.", minimum=1, maximum=262144),
    text("description", "Notes.", max_length=8192),
    text("efidisk0", "Disk of the EFI variables.", format=_EFI),
    flag("freeze", "Do not run at start."),
    text("hookscript", "Script to run with the VM; root@pam only.", format="pve-volume-id"),
    text("hostpci[n]", "Host PCI device.", format="pve-qm-hostpci"),
    text("hotplug", "What may be changed while running.", format="pve-hotplug-features",
         default="network,disk,usb"),
    text("ide[n]", "IDE drive.", format=_IDE),
    text("ipconfig[n]", "Addresses for cloud-init.", format="pve-qm-ipconfig"),
    choice("keyboard", "Keyboard of the console.", _KEYBOARDS),
    flag("kvm", "Hardware virtualisation.", default=1),
    flag("localtime", "Clock in local time."),
    choice("lock", "Set a lock; root@pam only.", _LOCKS),
    text("machine", "Machine type.", format=MACHINE),
    text("memory", "Memory in MiB.",
         format={"current": {"type": "integer", "default_key": 1, "minimum": 16}}),
    text("name", "Name.", format="dns-name"),
    text("nameserver", "DNS servers for cloud-init.", format="address-list"),
    text("net[n]", "Network card.", format=NET),
    flag("numa", "NUMA on or off.", default=0),
    flag("onboot", "Start with the node.", default=0),
    choice("ostype", "Guest system.", _SYSTEMS, default="other"),
    flag("protection", "Refuse to remove the VM and its disks.", default=0),
    flag("reboot", "Allow reboots.", default=1),
    text("rng0", "Random number generator.", format="pve-qm-rng"),
    text("sata[n]", "SATA drive.", format=_SATA),
    text("scsi[n]", "SCSI drive.", format=_SCSI),
    choice("scsihw", "SCSI controller.",
           ("lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"),
           default="lsi"),
    text("searchdomain", "Search domain for cloud-init."),
    text("serial[n]", "Serial port.", pattern="(/dev/.+|socket)"),
    whole("shares", "Weight in ballooning.", minimum=0, maximum=50000, default=1000),
    text("smbios1", "SMBIOS fields.", format="pve-qm-smbios1", max_length=512),
    whole("sockets", "Sockets.", minimum=1, default=1),
    text("sshkeys", "Keys for cloud-init, percent-encoded.", format="urlencoded"),
    text("startup", "Order and delays.", format="pve-startup-order"),
    flag("tablet", "USB tablet.", default=1),
    text("tags", "Tags.", format="pve-tag-list"),
    flag("template", "Is a template.", default=0),
    text("tpmstate0", "Disk of the TPM.", format=_TPM),
    text("unused[n]", "Disk that is not attached.",
         format={"file": {"type": "string", "default_key": 1}, "volume": {"alias": "file"}}),
    text("usb[n]", "USB device.",
         format={"host": {**_WORD, "default_key": 1}, "mapping": _WORD, "usb3": _BIT}),
    whole("vcpus", "CPUs to plug in at start.", minimum=1),
    text("vga", "Graphics.", format=_VGA),
    text("virtio[n]", "VirtIO drive.", format=_VIRTIO),
    text("vmgenid", "Generation id; root@pam only.",
         pattern="(?:[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}|[01])"),
    text("vmstatestorage", "Storage of saved states.", format="pve-storage-id"),
    text("watchdog", "Watchdog device.", format="pve-qm-watchdog"),
)  # fmt: skip

ROOT_ONLY = frozenset({"affinity", "args", "arch", "hookscript", "lock", "vmgenid"})
"""Settings that root@pam alone may change; its tokens may not."""

_PRIVILEGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("VM.Config.CPU", ("cores", "cpu", "cpulimit", "cpuunits", "numa", "sockets", "vcpus")),
    ("VM.Config.Memory", ("balloon", "memory", "shares")),
    ("VM.Config.Network", ("net",)),
    ("VM.Config.Disk", ("scsi", "virtio", "sata", "ide", "efidisk", "tpmstate", "unused",
                        "bootdisk", "boot", "vmstatestorage")),
    ("VM.Config.CDROM", ("cdrom",)),
    ("VM.Config.Cloudinit", ("cicustom", "cipassword", "citype", "ciupgrade", "ciuser",
                             "ipconfig", "nameserver", "searchdomain", "sshkeys")),
    ("VM.Config.HWType", ("acpi", "bios", "hostpci", "hotplug", "kvm", "machine", "rng",
                          "scsihw", "serial", "tablet", "usb", "vga", "watchdog")),
)  # fmt: skip
PRIVILEGE_OF: Mapping[str, str] = {
    key: privilege for privilege, keys in _PRIVILEGES for key in keys
}
"""Setting (without its number) to the privilege that changes it; others need VM.Config.Options."""

LIVE = frozenset(
    """
    agent autostart boot cdrom ciuser cipassword cicustom citype description hookscript ipconfig
    lock name nameserver net onboot protection scsi searchdomain shares sshkeys startup tags
    unused usb virtio cpulimit cpuunits
    """.split()
)
"""Settings (without number) that a running VM takes at once; others stay pending."""
