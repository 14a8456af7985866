"""A small API description in PVE's form, enough for the tests of `pvemcp.pve`."""

from __future__ import annotations

import json
from typing import Any

from pvemcp.pve.description import Description
from pvemcp.pve.schema import Method

NODE = {"type": "string", "format": "pve-node", "description": "The node."}
VMID = {"type": "integer", "format": "pve-vmid", "minimum": 100, "maximum": 999999999}
STORAGE = {"type": "string", "format": "pve-storage-id"}

NIC = {
    "model": {"type": "string", "enum": ["virtio", "e1000"], "default_key": 1},
    "virtio": {"alias": "macaddr", "keyAlias": "model"},
    "macaddr": {"type": "string", "format": "mac-addr", "optional": 1},
    "bridge": {"type": "string", "optional": 1},
    "firewall": {"type": "boolean", "optional": 1},
    "tag": {"type": "integer", "minimum": 1, "maximum": 4094, "optional": 1},
    "trunks": {"type": "string", "optional": 1, "requires": "bridge"},
}

CONFIG: dict[str, Any] = {
    "node": NODE,
    "vmid": VMID,
    "name": {"type": "string", "format": "dns-name", "optional": 1, "description": "Its name."},
    "cores": {"type": "integer", "minimum": 1, "optional": 1},
    "cpulimit": {"type": "number", "minimum": 0, "maximum": 128, "optional": 1},
    "onboot": {"type": "boolean", "optional": 1},
    "ostype": {"type": "string", "enum": ["l26", "win11"], "optional": 1},
    "net[n]": {
        "type": "string", "format": NIC, "optional": 1,
        "typetext": "[model=]<enum> [,bridge=<bridge>]",
    },
    "scsi[n]": {"type": "string", "optional": 1},
    "tags": {"type": "string", "format": "pve-tag-list", "optional": 1},
    "delete": {"type": "string", "format": "pve-configid-list", "optional": 1},
    "force": {"type": "boolean", "optional": 1, "requires": "delete"},
    "digest": {"type": "string", "maxLength": 40, "optional": 1},
    "cipassword": {"type": "string", "minLength": 5, "optional": 1},
    "startdate": {"type": "string", "pattern": r"(now|\d{4}-\d{1,2}-\d{1,2})", "optional": 1},
    "sshkeys": {"type": "string", "format": "urlencoded", "optional": 1},
}  # fmt: skip


def method(
    verb: str, properties: dict[str, Any] | None = None, *, about: str = "", **more: Any
) -> dict[str, Any]:
    """Write one method as PVE does."""
    parameters = {"additionalProperties": 0, "properties": properties or {}}
    return {"method": verb, "description": about, "parameters": parameters, "allowtoken": 1} | more


def node(path: str, *methods: dict[str, Any], children: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Write one node of the tree."""
    return {"path": path, "info": {m["method"]: m for m in methods}, "children": list(children)}


_GUEST = "/nodes/{node}/qemu/{vmid}"
_CONTENT = "/nodes/{node}/storage/{storage}/content"
_TASK = "/nodes/{node}/tasks/{upid}"
_GUEST_KEYS = {"node": NODE, "vmid": VMID}
_VOLUME = {"node": NODE, "storage": STORAGE, "volume": {"type": "string"}}
_FILTERS: dict[str, Any] = {
    "vmid": VMID | {"optional": 1},
    "since": {"type": "integer", "optional": 1},
    "source": {"type": "string", "enum": ["archive", "active", "all"], "optional": 1},
    "limit": {"type": "integer", "minimum": 0, "optional": 1},
}
_UPID = {"node": NODE, "upid": {"type": "string"}}

TREE = [
    node("/version", method("GET", about="Version of the API.")),
    node("/cluster", method("GET"), children=(
        node("/cluster/resources", method("GET", {
            "type": {"type": "string", "enum": ["vm", "node", "storage"], "optional": 1},
        })),
        node("/cluster/nextid", method("GET", {"vmid": VMID | {"optional": 1}})),
        node("/cluster/tasks", method("GET")),
        node("/cluster/notes", method("POST", {
            "lines": {"type": "array", "items": {"type": "string"}},
        })),
    )),
    node("/access", method("GET"), children=(
        node("/access/permissions", method("GET")),
        node("/access/acl", method("GET"), method("PUT", {"path": {"type": "string"}})),
    )),
    node("/nodes", method("GET"), children=(
        node("/nodes/{node}", method("GET", {"node": NODE}), children=(
            node("/nodes/{node}/status", method("GET", {"node": NODE}), method("POST", {
                "node": NODE, "command": {"type": "string", "enum": ["reboot", "shutdown"]},
            })),
            node("/nodes/{node}/execute", method("POST", {
                "node": NODE, "commands": {"type": "string"},
            })),
            node("/nodes/{node}/qemu",
                 method("GET", {"node": NODE, "full": {"type": "boolean", "optional": 1}},
                        about="List the virtual machines of a node."),
                 method("POST", CONFIG | {"archive": {"type": "string", "optional": 1}},
                        about="Create or restore a virtual machine."),
                 children=(
                    node(_GUEST, method("GET", _GUEST_KEYS), method("DELETE", _GUEST_KEYS),
                         children=(
                        node(f"{_GUEST}/config", method("GET", _GUEST_KEYS),
                             method("PUT", CONFIG), method("POST", CONFIG)),
                        node(f"{_GUEST}/status/current", method("GET", _GUEST_KEYS)),
                        node(f"{_GUEST}/status/start", method("POST", _GUEST_KEYS)),
                        node(f"{_GUEST}/status/stop", method("POST", _GUEST_KEYS)),
                        node(f"{_GUEST}/agent/exec", method("POST", _GUEST_KEYS | {
                            "command": {"type": "array", "items": {"type": "string"}},
                        })),
                        node(f"{_GUEST}/agent/ping", method("POST", _GUEST_KEYS)),
                        node(f"{_GUEST}/snapshot",
                             method("GET", _GUEST_KEYS, about="List all snapshots."),
                             method("POST", _GUEST_KEYS | {
                                "snapname": {"type": "string", "format": "pve-configid",
                                             "maxLength": 40, "description": "Its name."},
                             }, about="Snapshot a VM."), children=(
                            node(f"{_GUEST}/snapshot/{{snapname}}", method(
                                "GET", _GUEST_KEYS | {"snapname": {"type": "string"}})),
                        )),
                        node(f"{_GUEST}/vncwebsocket", method("GET", _GUEST_KEYS)),
                    )),
            )),
            node(_CONTENT, method("GET", {"node": NODE, "storage": STORAGE}), children=(
                node(f"{_CONTENT}/{{volume}}", method("GET", _VOLUME), method("DELETE", _VOLUME)),
            )),
            node("/nodes/{node}/tasks", method("GET", {"node": NODE} | _FILTERS), children=(
                node(_TASK, method("GET", _UPID), method("DELETE", _UPID)),
                node(f"{_TASK}/status", method("GET", _UPID)),
                node(f"{_TASK}/log", method("GET", _UPID | {
                    "start": {"type": "integer", "minimum": 0, "optional": 1},
                    "limit": {"type": "integer", "minimum": 0, "optional": 1},
                    "download": {"type": "boolean", "optional": 1},
                })),
            )),
        )),
    )),
]  # fmt: skip

TEXT = f"const apiSchema = {json.dumps(TREE)};\nExt.onReady(function() {{}});\n"


def description() -> Description:
    """Return the small description, parsed from what a host would serve."""
    return Description.parse(TEXT, source="the small tree")


def method_of(verb: str, template: str) -> Method:
    """Return one method of the small description."""
    found = description().method(verb, template)
    assert found is not None
    return found
