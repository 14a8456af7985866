"""The settings of a container, as parameters of create and config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import choice, flag, real, text, whole

_WORD = {"type": "string", "optional": 1}
_BIT = {"type": "boolean", "optional": 1}
_ROOTFS: Mapping[str, Any] = {
    "volume": {"type": "string", "default_key": 1, "format": "pve-lxc-mp-string"},
    "acl": _BIT,
    "mountoptions": _WORD,
    "quota": _BIT,
    "replicate": _BIT,
    "ro": _BIT,
    "shared": _BIT,
    "size": {**_WORD, "format": "disk-size"},
}
_MOUNT: Mapping[str, Any] = {
    **_ROOTFS,
    "backup": _BIT,
    "keepattrs": _BIT,
    "mp": {"type": "string", "format": "pve-lxc-mp-string"},
}
_NET: Mapping[str, Any] = {
    "name": {"type": "string", "pattern": "[-_.\\w\\d]+"},
    "type": {**_WORD, "enum": ["veth"]},
    "rate": {"type": "number", "optional": 1},
    "tag": {"type": "integer", "optional": 1, "minimum": 1, "maximum": 4094},
    "mtu": {"type": "integer", "optional": 1, "minimum": 64, "maximum": 65535},
    **dict.fromkeys(("bridge", "gw", "gw6", "hwaddr", "ip", "ip6", "trunks"), _WORD),
    **dict.fromkeys(("firewall", "host-managed", "link_down"), _BIT),
}
_FEATURES: Mapping[str, Any] = {
    **dict.fromkeys(("force_rw_sys", "fuse", "keyctl", "mknod", "nesting"), _BIT),
    "mount": _WORD,
}
_SYSTEMS = ("debian", "devuan", "ubuntu", "centos", "fedora", "opensuse", "archlinux", "alpine",
            "gentoo", "nixos", "unmanaged")  # fmt: skip
_LOCKS = ("backup", "create", "destroyed", "disk", "fstrim", "migrate", "mounted", "rollback",
          "snapshot", "snapshot-delete")  # fmt: skip
_DEVICE: Mapping[str, Any] = {
    "path": {**_WORD, "default_key": 1},
    "mode": _WORD,
    "deny-write": _BIT,
    "gid": {"type": "integer", "optional": 1, "minimum": 0},
    "uid": {"type": "integer", "optional": 1, "minimum": 0},
}

OPTIONS: tuple[Parameter, ...] = (
    choice("arch", "Architecture.", ("amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"),
           default="amd64"),
    choice("cmode", "Kind of console.", ("shell", "console", "tty"), default="tty"),
    flag("console", "Attach a console device.", default=1),
    whole("cores", "Cores; all when unset.", minimum=1, maximum=8192),
    real("cpulimit", "Limit in whole CPUs; 0 is none.", minimum=0, maximum=8192, default=0),
    whole("cpuunits", "Weight.", minimum=0, maximum=500000),
    flag("debug", "Log more.", default=0),
    text("description", "Notes.", max_length=8192),
    text("dev[n]", "Host device; root@pam only.", format=_DEVICE),
    text("entrypoint", "First program.", default="/sbin/init",
         pattern=r"(?^:[^\x00-\x08\x10-\x1F\x7F]+)"),
    text("env", "Environment of the first program.",
         pattern=r"(?^:(?:\w+=[^\x00-\x08\x10-\x1F\x7F]*)(?:\0\w+=[^\x00-\x08\x10-\x1F\x7F]*)*)"),
    text("features", "Special rights.", format=_FEATURES),
    text("hookscript", "Script to run with the container; root@pam only.",
         format="pve-volume-id"),
    text("hostname", "Host name.", format="dns-name", max_length=255),
    choice("lock", "Set a lock; root@pam only.", _LOCKS),
    whole("memory", "Memory in MiB.", minimum=16, default=512),
    text("mp[n]", "Mount point.", format=_MOUNT),
    text("nameserver", "DNS servers.", format="lxc-ip-with-ll-iface-list"),
    text("net[n]", "Network card.", format=_NET),
    flag("onboot", "Start with the node.", default=0),
    choice("ostype", "Guest system.", _SYSTEMS),
    flag("protection", "Refuse to remove the container and its volumes.", default=0),
    text("rootfs", "Root volume.", format=_ROOTFS),
    text("searchdomain", "Search domains.", format="dns-name-list"),
    text("startup", "Order and delays.", format="pve-startup-order"),
    whole("swap", "Swap in MiB.", minimum=0, default=512),
    text("tags", "Tags.", format="pve-tag-list"),
    flag("template", "Is a template.", default=0),
    text("timezone", "Time zone.", format="pve-ct-timezone"),
    whole("tty", "Terminals.", minimum=0, maximum=6, default=2),
    flag("unprivileged", "Run with mapped ids.", default=0),
    text("unused[n]", "Volume that is not attached.",
         format={"volume": {"type": "string", "default_key": 1}}),
)  # fmt: skip

ROOT_ONLY = frozenset({"dev", "hookscript", "lock"})

_PRIVILEGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("VM.Config.CPU", ("cores", "cpulimit", "cpuunits")),
    ("VM.Config.Memory", ("memory", "swap")),
    ("VM.Config.Network", ("net", "nameserver", "searchdomain", "hostname")),
    ("VM.Config.Disk", ("rootfs", "mp", "unused")),
)
PRIVILEGE_OF: Mapping[str, str] = {
    key: privilege for privilege, keys in _PRIVILEGES for key in keys
}

LIVE = frozenset(
    """
    cores cpulimit cpuunits description hookscript lock memory mp net onboot protection startup
    swap tags unused
    """.split()
)
"""Settings (without number) that a running container takes at once; others stay pending."""
