"""Which guests a write touches besides the one in its path."""

from __future__ import annotations

from typing import Any

import pytest

from pvemcp.call import Effect, Intent
from pvemcp.plans.previews.named import _everyone, _vmids

CONFIG = "PUT /nodes/{node}/qemu/{vmid}/config"
MOUNTS = "PUT /nodes/{node}/lxc/{vmid}/config"
VOLUME = "/nodes/{node}/storage/{storage}/content/{volume}"

TO: dict[str, Any] = {"target-vmid": 100}


def intent(method: str, *path: str, **params: Any) -> Intent:
    """Return a write, by verb and template."""
    verb, template = method.split()
    node = params.get("node", "")
    return Intent(
        verb, "".join(path) or template, Effect.CHANGE, template=template, params=params, node=node
    )


@pytest.mark.parametrize(
    ("write", "vmids"),
    [
        (intent("POST /cluster/backup", vmid="100,101"), {100, 101}),
        (intent("POST /cluster/bulk-action/guest/start", vms=["100", "102"]), {100, 102}),
        (intent("PUT /pools", poolid="lab", vms="100;101"), {100, 101}),
        (intent("DELETE /cluster/ha/resources/{sid}", sid="vm:100"), {100}),
        (intent("POST /cluster/ha/resources", sid="ct:102"), {102}),
        (intent("POST /cluster/ha/rules", rule="a", resources="vm:100,ct:102"), {100, 102}),
        (intent("DELETE /cluster/replication/{id}", id="100-0"), {100}),
        (intent("DELETE /cluster/backup/{id}", id="backup-1f2e"), set()),
        (intent("DELETE /cluster/metrics/server/{id}", id="graphite"), set()),
        (intent("POST /nodes/{node}/qemu", vmid=100, archive="local:backup/x", force=1), {100}),
        (intent("POST /nodes/{node}/qemu", vmid=900, archive="pbs:backup/vm/100/2026"), {900, 100}),
        (
            intent("POST /nodes/{node}/qemu/{vmid}/move_disk", vmid=111, **TO),
            {111, 100},
        ),
        (
            intent(CONFIG, vmid=111, scsi1="lvm:vm-100-disk-0,ro=1"),
            {111, 100},
        ),
        (
            intent(MOUNTS, vmid=111, mp0="x:subvol-102-disk-0,mp=/a"),
            {111, 102},
        ),
        (
            intent(CONFIG, vmid=111, scsi1="x:0,import-from=y:vm-100-d"),
            {111, 100},
        ),
        (
            intent(f"DELETE {VOLUME}", volume="vm-100-disk-1"),
            {100},
        ),
        (
            intent(f"DELETE {VOLUME}", volume="x:9/base-9-disk-0.raw/100/vm-100-disk-0.qcow2"),
            {100},
        ),
        (
            intent(f"PUT {VOLUME}",
                   volume="local:backup/vzdump-qemu-100-2026_01_01-00_00_00.vma.zst"),
            {100},
        ),
        (
            intent("DELETE /nodes/{node}/tasks/{upid}",
                   upid="UPID:pve1:0000C350:000F4240:6742E1A0:vzdump:100:root@pam:"),
            {100},
        ),
        (intent("RUN host", "lxc/105"), {105}),
        (intent("RUN host", "host/change", shell="qm stop 100"), set()),
        (intent("PUT /nodes/{node}/dns", dns1="192.168.100.1"), set()),
    ],
)  # fmt: skip
def test_guests_are_found_whatever_names_them(write: Intent, vmids: set[int]) -> None:
    assert set(_vmids(write)) == vmids


@pytest.mark.parametrize(
    ("write", "whose"),
    [
        (intent("POST /nodes/{node}/stopall", node="pve1"), "pve1"),
        (intent("POST /nodes/{node}/stopall", node="pve1", vms="100"), ""),
        (intent("POST /nodes/{node}/status", node="pve1", command="reboot"), "pve1"),
        (intent("POST /cluster/bulk-action/guest/shutdown"), "*"),
        (intent("POST /nodes/{node}/vzdump", node="pve2", all=1), "pve2"),
        (intent("POST /cluster/backup", all=1, node="pve1"), "pve1"),
        (intent("POST /nodes/{node}/vzdump", node="pve2", exclude="100"), "pve2"),
        (intent("POST /nodes/{node}/vzdump", node="pve2", exclude=""), "pve2"),
        (intent("POST /nodes/{node}/vzdump", node="pve2", exclude="100", pool="lab"), ""),
        (intent("PUT /cluster/backup/{id}", all=["", 1], node=["pve1", "pve2"]), "*"),
        (intent("PUT /nodes/{node}/dns", node="pve1"), ""),
    ],
)
def test_what_is_done_to_all_guests_is_done_to_each(write: Intent, whose: str) -> None:
    assert _everyone(write) == whose
