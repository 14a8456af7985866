"""A PVE that costs next to nothing: canned answers on kept connections, in a process of its own.

`GET /bench?guests=200&delay=0.02&hang=pve2` sets it up and answers with what it has counted since
the last such request. It closes a connection after 100 requests, as pveproxy does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bench.description import apidoc
from bench.layout import FIRST_VMID, HANG, node_of

REQUESTS_A_CONNECTION = 100
_GIB = 1024**3

_PRIVILEGES = (
    "VM.Audit", "VM.PowerMgmt", "VM.Config.Disk", "VM.GuestAgent.Audit", "VM.Snapshot",
    "Datastore.Audit", "Datastore.AllocateSpace", "Sys.Audit", "Sys.Modify", "Pool.Audit",
    "SDN.Audit", "Mapping.Audit", "Permissions.Modify", "User.Modify", "Realm.Allocate",
)  # fmt: skip
_HEAD = (
    "HTTP/1.1 200 OK\r\nCache-Control: max-age=0\r\nConnection: {connection}\r\n"
    "Date: Mon, 23 Nov 2026 06:32:22 GMT\r\nPragma: no-cache\r\nServer: pve-api-daemon/3.0\r\n"
    "Content-Length: {length}\r\nContent-Type: application/json;charset=UTF-8\r\n\r\n"
)


@dataclass(slots=True)
class State:
    """What the fake has been told, and what it has counted."""

    guests: int = 12
    delay: float = 0.0
    """Seconds before each answer."""
    hang: str = ""
    """Name of the node whose answers take HANG seconds."""
    requests: int = 0
    connections: int = 0
    open: set[asyncio.Transport] = field(default_factory=set)


@cache
def _resources(guests: int) -> bytes:
    return _body([_guest(FIRST_VMID + n) for n in range(guests)])


def _guest(vmid: int) -> dict[str, Any]:
    running = vmid % 5 != 4
    return {
        "cpu": vmid % 997 / 3001 if running else 0,
        "disk": 0,
        "diskread": vmid * 911_377 % 10**10 if running else 0,
        "diskwrite": vmid * 711_211 % 10**10 if running else 0,
        "id": f"qemu/{vmid}",
        "maxcpu": 1 + vmid % 8,
        "maxdisk": 32 * _GIB,
        "maxmem": (1 + vmid % 16) * _GIB,
        "mem": vmid * 7_919_131 % _GIB if running else 0,
        "memhost": vmid * 8_919_131 % _GIB if running else 0,
        "name": f"{('web', 'db', 'app', 'mail')[vmid % 4]}{vmid:05}",
        "netin": vmid * 977_113 % 10**11 if running else 0,
        "netout": vmid * 499_117 % 10**11 if running else 0,
        "node": node_of(vmid),
        "pool": ("prod", "lab")[vmid % 2],
        "status": "running" if running else "stopped",
        "tags": "prod;web",
        "template": 0,
        "type": "qemu",
        "uptime": vmid * 613 % 10**7 if running else 0,
        "vmid": vmid,
    }


def _body(data: Any) -> bytes:
    return json.dumps({"data": data}, separators=(",", ":")).encode()


_NODE_STATUS = {
    "boot-info": {"mode": "efi", "secureboot": 0},
    "cpu": 0.0712,
    "cpuinfo": {
        "cores": 32, "cpus": 64, "family": "25", "hvm": "1", "mhz": "2596.144", "sockets": 1,
        "flags": " ".join(f"flag{n:03}" for n in range(120)), "model": "A processor",
        "user_hz": 100, "vendor": "Maker",
    },
    "current-kernel": {
        "machine": "x86_64", "release": "6.17.2-1-pve", "sysname": "Linux", "version": "#1 SMP",
    },
    "idle": 0,
    "ksm": {"shared": 0},
    "kversion": "Linux 6.17.2-1-pve #1 SMP",
    "loadavg": ["0.41", "0.52", "0.60"],
    "memory": {"available": 41 * _GIB, "free": 40 * _GIB, "total": 64 * _GIB, "used": 23 * _GIB},
    "pveversion": "pve-manager/9.1.2/0123456789abcdef",
    "rootfs": {"avail": 60 * _GIB, "free": 65 * _GIB, "total": 94 * _GIB, "used": 29 * _GIB},
    "swap": {"free": 8 * _GIB, "total": 8 * _GIB, "used": 0},
    "uptime": 864_211,
    "wait": 0.0013,
}  # fmt: skip
_CONFIG = {
    "agent": "1", "boot": "order=scsi0;net0", "cores": 4, "cpu": "x86-64-v2-AES",
    "description": "The front end.\n", "digest": "0" * 40, "memory": "4096", "meta": "creation",
    "name": "web", "net0": "virtio=BC:24:11:00:00:64,bridge=vmbr0,firewall=1", "numa": 0,
    "onboot": 1, "ostype": "l26", "scsi0": "ceph:vm-100-disk-0,discard=on,iothread=1,size=32G",
    "scsihw": "virtio-scsi-single", "smbios1": "uuid=8e0d30c5", "sockets": 1, "tags": "prod;web",
}  # fmt: skip
_STATUS = {
    "agent": 1, "cpu": 0.0312, "cpus": 4, "disk": 0, "diskread": 1_123_123, "diskwrite": 991_112,
    "ha": {"managed": 0}, "maxdisk": 32 * _GIB, "maxmem": 4 * _GIB, "mem": 3 * _GIB,
    "memhost": 3 * _GIB, "name": "web", "netin": 182_611, "netout": 79_611, "pid": 24040,
    "nics": {"tap100i0": {"netin": 182_611, "netout": 79_611}}, "pressurecpufull": 0,
    "pressurecpusome": 0, "pressureiofull": 0, "pressureiosome": 0, "pressurememoryfull": 0,
    "pressurememorysome": 0, "qmpstatus": "running", "status": "running", "tags": "prod;web",
    "uptime": 73_115, "vmid": 100,
}  # fmt: skip
_INTERFACES = {
    "result": [
        {
            "name": name,
            "hardware-address": mac,
            "ip-addresses": [
                {"ip-address": ip, "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
            ],
        }
        for name, mac, ip in (
            ("lo", "00:00:00:00:00:00", "127.0.0.1"),
            ("eth0", "bc:24:11:00:00:64", "192.0.2.10"),
        )
    ]
}
_SNAPSHOTS = [
    {"name": "before-upgrade", "snaptime": 1_795_000_000, "description": "", "vmstate": 0},
    {"name": "current", "parent": "before-upgrade", "running": 1, "digest": "0" * 40},
]
_PENDING = [{"key": key, "value": value} for key, value in _CONFIG.items()]
_PERMISSIONS = {
    path: dict.fromkeys(_PRIVILEGES, 1)
    for path in ("/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms", "/mapping")
}
_BY_END = {
    "/access/permissions": _body(_PERMISSIONS),
    "/agent/network-get-interfaces": _body(_INTERFACES),
    "/config": _body(_CONFIG),
    "/pending": _body(_PENDING),
    "/snapshot": _body(_SNAPSHOTS),
    "/status": _body(_NODE_STATUS),
    "/status/current": _body(_STATUS),
    "/version": _body({"release": "9.1", "repoid": "0123456789abcdef", "version": "9.1.2"}),
}


class Connection(asyncio.Protocol):
    """One connection from the service; requests without a body, one after the other."""

    def __init__(self, state: State, description: bytes) -> None:
        self._state = state
        self._description = description
        self._pending = b""
        self._served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._counted = False

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            target = self._pending[:end].split(b" ", 2)[1].decode("ascii")
            self._pending = self._pending[end + 4 :]
            self._serve(target)

    def _serve(self, target: str) -> None:
        parts = urlsplit(target)
        if parts.path == "/bench":
            self._send(self._set_up(dict(parse_qsl(parts.query))))
            return
        state = self._state
        state.requests += not parts.path.endswith("apidoc.js")
        if not self._counted:
            self._counted = True
            state.connections += 1
        self._served += 1
        wait = HANG if state.hang and f"/{state.hang}/" in parts.path else state.delay
        body = self._answer(parts.path)
        if wait:
            asyncio.get_running_loop().call_later(wait, self._send, body)
        else:
            self._send(body)

    def _set_up(self, given: dict[str, str]) -> bytes:
        state = self._state
        counted = {"requests": state.requests, "connections": state.connections}
        state.guests = int(given.get("guests", state.guests))
        state.delay = float(given.get("delay", 0))
        state.hang = given.get("hang", "")
        state.requests = state.connections = 0
        return json.dumps(counted).encode()

    def _answer(self, path: str) -> bytes:
        if path.endswith("/cluster/resources"):
            return _resources(self._state.guests)
        if path.endswith("/apidoc.js"):
            return self._description
        end = path[path.rfind("/", 0, path.rfind("/")) :]
        return _BY_END.get(end) or _BY_END.get(path[path.rfind("/") :]) or _body(None)

    def _send(self, body: bytes) -> None:
        if self._transport.is_closing():
            return
        last = self._served >= REQUESTS_A_CONNECTION
        head = _HEAD.format(length=len(body), connection="close" if last else "Keep-Alive")
        self._transport.write(head.encode() + body)
        if last:
            self._transport.close()


async def _main(port: int) -> None:
    state, description = State(), apidoc()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(state, description), "127.0.0.1", port, backlog=512
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(int(sys.argv[1])))
