"""Effects: what the reviewed table says, and what holds for a method that it does not know."""

from __future__ import annotations

from typing import Any

import pytest

from pvemcp.call import Effect
from pvemcp.pve.effects import effect_of, forbidden, unavailable, why, worst_effect

VM = "/nodes/{node}/qemu/{vmid}"
CT = "/nodes/{node}/lxc/{vmid}"


@pytest.mark.parametrize(
    ("verb", "template", "params", "effect"),
    [
        ("GET", f"{VM}/config", {}, Effect.READ),
        ("GET", "/something/new", {}, Effect.READ),
        ("POST", "/something/new", {}, Effect.CHANGE),
        ("PUT", "/something/new", {}, Effect.CHANGE),
        ("DELETE", "/something/new", {}, Effect.DESTROY),
        ("POST", f"{VM}/agent/ping", {}, Effect.READ),
        ("POST", f"{VM}/agent", {"command": "get-osinfo"}, Effect.READ),
        ("POST", f"{VM}/agent", {"command": "fsfreeze-freeze"}, Effect.CHANGE),
        ("POST", f"{VM}/agent/exec", {"command": ["uptime"]}, Effect.DESTROY),
        ("POST", f"{VM}/monitor", {"command": "info"}, Effect.DESTROY),
        ("POST", f"{VM}/status/start", {}, Effect.CHANGE),
        ("POST", f"{CT}/status/stop", {}, Effect.DESTROY),
        ("POST", f"{VM}/status/reset", {}, Effect.DESTROY),
        ("POST", f"{VM}/status/shutdown", {}, Effect.CHANGE),
        ("POST", f"{VM}/status/shutdown", {"forceStop": 1}, Effect.DESTROY),
        ("POST", f"{CT}/snapshot/{{snapname}}/rollback", {}, Effect.DESTROY),
        ("PUT", f"{VM}/config", {"memory": "512"}, Effect.CHANGE),
        ("PUT", f"{VM}/config", {"delete": "net1,description"}, Effect.CHANGE),
        ("PUT", f"{VM}/config", {"delete": "net1,scsi0"}, Effect.DESTROY),
        ("POST", f"{VM}/config", {"delete": "unused0"}, Effect.DESTROY),
        ("PUT", f"{VM}/config", {"delete": "scsihw"}, Effect.CHANGE),
        ("PUT", f"{CT}/config", {"delete": "mp0 features"}, Effect.DESTROY),
        ("POST", "/nodes/{node}/qemu", {"archive": "x"}, Effect.CHANGE),
        ("POST", "/nodes/{node}/qemu", {"archive": "x", "force": 1}, Effect.DESTROY),
        ("POST", "/nodes/{node}/lxc", {"restore": 1, "force": 1}, Effect.DESTROY),
        ("POST", "/nodes/{node}/vzdump", {"vmid": "100", "remove": "0"}, Effect.CHANGE),
        ("POST", "/nodes/{node}/vzdump", {"vmid": "100"}, Effect.DESTROY),
        ("POST", "/nodes/{node}/vzdump", {"vmid": "100", "remove": "1"}, Effect.DESTROY),
        ("POST", "/cluster/backup", {"all": "1"}, Effect.DESTROY),
        ("POST", "/cluster/backup", {"all": "1", "remove": "0"}, Effect.CHANGE),
        ("PUT", "/cluster/backup/{id}", {"comment": "nightly"}, Effect.CHANGE),
        ("PUT", "/cluster/backup/{id}", {"remove": "1"}, Effect.DESTROY),
        ("PUT", "/cluster/backup/{id}", {"delete": "comment,remove"}, Effect.DESTROY),
        ("POST", "/cluster/ha/resources/{sid}/relocate", {"node": "pve2"}, Effect.DESTROY),
        ("POST", "/cluster/ha/resources/{sid}/migrate", {"node": "pve2"}, Effect.CHANGE),
        ("POST", "/cluster/firewall/ipset/{name}", {"name": "Blacklist"}, Effect.DESTROY),
        ("POST", "/cluster/firewall/ipset/{name}", {"name": "offices"}, Effect.CHANGE),
        ("POST", "/nodes/{node}/vzdump", {"prune-backups": "keep-last=1"}, Effect.DESTROY),
        ("POST", "/nodes/{node}/status", {"command": "reboot"}, Effect.DESTROY),
        ("PUT", "/cluster/firewall/options", {"enable": 1}, Effect.DESTROY),
        ("PUT", "/cluster/firewall/options", {"ebtables": 1}, Effect.CHANGE),
        ("PUT", "/cluster/ceph/flags/{flag}", {"flag": "pause", "value": 1}, Effect.DESTROY),
        ("PUT", "/cluster/ceph/flags/{flag}", {"flag": "noout", "value": 1}, Effect.CHANGE),
        ("POST", "/nodes/{node}/execute", {}, Effect.DESTROY),
    ],
)
def test_the_effect_of_a_call(
    verb: str, template: str, params: dict[str, Any], effect: Effect
) -> None:
    assert effect_of(verb, template, params) is effect
    assert worst_effect(verb, template) >= effect


@pytest.mark.parametrize(
    ("verb", "template"),
    [
        ("POST", "/nodes/{node}/execute"), ("POST", "/access/ticket"), ("PUT", "/access/password"),
        ("PUT", "/access/acl"), ("POST", "/access/users/{userid}/token/{tokenid}"),
        ("PUT", "/access/roles/{roleid}"), ("POST", "/access/users"), ("DELETE", "/access/tfa/x/y"),
        ("POST", f"{VM}/termproxy"), ("POST", f"{CT}/vncproxy"), ("POST", "/cluster/mapping/dir"),
    ],
)  # fmt: skip
def test_what_no_client_may_use_is_forbidden_with_a_reason(verb: str, template: str) -> None:
    assert forbidden(verb, template)
    assert why(verb, template, {}) == forbidden(verb, template)
    assert worst_effect(verb, template) is Effect.DESTROY


def test_reading_access_rights_is_not_forbidden() -> None:
    for template in ("/access/acl", "/access/users", "/access/permissions"):
        assert not forbidden("GET", template)


def test_what_is_no_plain_request_is_unavailable_and_names_another_way() -> None:
    assert "web interface" in unavailable("GET", f"{VM}/vncwebsocket", {})
    assert "download-url" in unavailable("POST", "/nodes/{node}/storage/{storage}/upload", {})
    log = "/nodes/{node}/tasks/{upid}/log"
    assert "limit=0" in unavailable("GET", log, {"download": 1})
    assert unavailable("GET", log, {}) == ""
    assert effect_of("GET", log, {}) is Effect.READ
    assert worst_effect("GET", log) is Effect.READ


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("PUT /cluster/replication/{id}", {"remove_job": "full"}),
        ("POST /cluster/backup", {"prune-backups": "keep-last=1"}),
        ("PUT /cluster/backup/{id}", {"delete": "prune-backups"}),
        ("PUT /cluster/backup/{id}", {"maxfiles": 1}),
        ("POST /storage", {"type": "dir", "path": "/etc"}),
        ("PUT /storage/{storage}", {"prune-backups": "keep-last=1"}),
        ("PUT /storage/{storage}", {"server": "192.0.2.1"}),
        ("PUT /storage/{storage}", {"delete": "content,encryption-key"}),
        ("PUT /nodes/{node}/storage/{storage}/content/{volume}", {"protected": 0}),
        ("PUT /nodes/{node}/qemu/{vmid}/config", {"delete": "cdrom"}),
        ("PUT /nodes/{node}/qemu/{vmid}/config", {"delete": "net0 vmstate"}),
        ("PUT /nodes/{node}/lxc/{vmid}/config", {"template": 1}),
        ("POST /nodes/{node}/qemu/{vmid}/remote_migrate", {}),
        ("POST /nodes/{node}/lxc/{vmid}/status/shutdown", {"timeout": 0}),
        ("PUT /cluster/ha/resources/{sid}", {"state": "stopped"}),
        ("PUT /cluster/firewall/options", {"policy_out": "DROP"}),
        ("POST /nodes/{node}/firewall/rules", {"action": "DROP", "type": "in"}),
        ("PUT /cluster/firewall/rules/{pos}", {"enable": 1}),
        ("POST /nodes/{node}/hosts", {"data": ""}),
        ("POST /nodes/{node}/certificates/custom", {}),
        ("PUT /cluster/notifications/endpoints/webhook/{name}", {"url": "http://192.0.2.1"}),
        ("PUT /cluster/metrics/server/{id}", {"server": "192.0.2.1"}),
        ("PUT /nodes/{node}/ceph/pool/{name}", {"size": 1}),
        ("POST /nodes/{node}/lxc/{vmid}/status/reboot", {"timeout": 1}),
        ("POST /nodes/{node}/qemu/{vmid}/move_disk", {"disk": "scsi0", "target-vmid": 900}),
        ("POST /nodes/{node}/lxc/{vmid}/move_volume", {"volume": "mp0", "target-vmid": 900}),
        ("POST /cluster/firewall/ipset", {"name": "blacklist", "rename": "mine"}),
        ("POST /cluster/firewall/ipset/{name}", {"name": "management", "nomatch": 1}),
        ("POST /cluster/firewall/aliases", {"name": "Local_Network", "cidr": "192.0.2.1"}),
        ("PUT /storage/{storage}", {"password": "x"}),
        ("PUT /storage/{storage}", {"keyring": "x"}),
        ("PUT /storage/{storage}", {"master-pubkey": "x"}),
        ("PUT /storage/{storage}", {"monhost": "192.0.2.1"}),
        ("POST /nodes/{node}/certificates/acme/certificate", {"force": 1}),
        (f"PUT {VM}/config", {"vmid": 900, "scsi1": "lvm:vm-100-disk-0,ro=1"}),
        (f"POST {VM}/config", {"vmid": 900, "scsi1": "media=disk,file=lvm:vm-100-disk-0"}),
        (f"PUT {CT}/config", {"vmid": 900, "mp0": "mp=/x,volume=zfs:subvol-100-disk-0"}),
        (f"PUT {VM}/config", {"vmid": 900, "sata0": "local:100/anything.qcow2"}),
        (f"PUT {VM}/config", {"vmid": 900, "unused0": "zfs:base-9-disk-0/vm-100-disk-0"}),
        ("POST /nodes/{node}/qemu", {"vmid": 900, "virtio0": "lvm:vm-100-disk-0"}),
    ],
)
def test_what_loses_data_or_cuts_off_through_a_parameter_is_destroy(
    method: str, params: dict[str, Any]
) -> None:
    verb, template = method.split()
    assert effect_of(verb, template, params) is Effect.DESTROY


@pytest.mark.parametrize(
    ("template", "params"),
    [
        ("/cluster/acme/tos", {"directory": "https://192.0.2.1/"}),
        ("/cluster/acme/meta", {"directory": "https://192.0.2.1/"}),
        ("/nodes/{node}/query-url-metadata", {"url": "http://192.0.2.1/"}),
        ("/nodes/{node}/scan/nfs", {"server": "192.0.2.1"}),
        ("/nodes/{node}/scan/cifs", {"server": "192.0.2.1"}),
    ],
)
def test_a_read_that_makes_the_node_call_an_address_is_a_change(
    template: str, params: dict[str, Any]
) -> None:
    assert effect_of("GET", template, params) is Effect.CHANGE
    assert effect_of("GET", "/cluster/acme/tos", {}) is Effect.READ


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("PUT /nodes/{node}/qemu/{vmid}/config", {"delete": "net0", "memory": "2048"}),
        ("POST /nodes/{node}/firewall/rules", {"action": "ACCEPT", "type": "in"}),
        ("POST /nodes/{node}/qemu/{vmid}/status/shutdown", {"timeout": 60}),
        ("PUT /cluster/backup/{id}", {"comment": "x"}),
        ("PUT /storage/{storage}", {"content": "iso"}),
        (
            "POST /nodes/{node}/qemu/{vmid}/move_disk",
            {"disk": "scsi0", "storage": "b", "delete": 1},
        ),
        ("POST /nodes/{node}/lxc/{vmid}/status/reboot", {"timeout": 60}),
        ("POST /nodes/{node}/qemu/{vmid}/status/reboot", {"timeout": 1}),
        ("POST /cluster/firewall/aliases", {"name": "office", "cidr": "192.0.2.1"}),
        (f"PUT {VM}/config", {"vmid": 900, "scsi1": "lvm:vm-900-disk-0", "net0": "virtio"}),
        (f"PUT {VM}/config", {"vmid": 900, "scsi1": "lvm:32", "ide2": "local:iso/vm-1-x.iso"}),
        (f"PUT {VM}/config", {"vmid": 900, "scsi1": "x:0,import-from=y:vm-100-disk-0"}),
        (f"PUT {VM}/config", {"vmid": 900, "scsi1": "zfs:base-9-disk-0/vm-900-disk-0"}),
        ("POST /nodes/{node}/lxc", {"vmid": 900, "ostemplate": "local:vztmpl/a-1-b.tar.zst"}),
        ("PUT /cluster/ha/resources/{sid}", {"state": "started"}),
    ],
)
def test_everyday_changes_stay_changes(method: str, params: dict[str, Any]) -> None:
    verb, template = method.split()
    assert effect_of(verb, template, params) is Effect.CHANGE
