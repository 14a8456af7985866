"""Jobs, high availability, names of the firewall and moves come back, too."""

from __future__ import annotations

import base64
import re
import tomllib
from importlib.resources import files

import pytest

from pvemcp.sim.world import WorldName
from tests.scenarios.picturing import Write, come_back, newest, picture, write
from tests.scenarios.rig import ToolFault, rig
from tests.scenarios.test_changes import Files
from tests.scenarios.test_undo import NETWORKS, STORAGES, twenty

FIREWALL, HA = "/cluster/firewall", "/cluster/ha"
GUEST = "/nodes/pve1/qemu/100/firewall"
_RULE = {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "22"}


def named(path: str) -> list[Write]:
    """Return writes to the aliases and address sets of the cluster, or of a guest."""
    alias, sets = f"{path}/aliases", f"{path}/ipset"
    return [
        ("POST", alias, {"name": "Office", "cidr": "192.0.2.0/24", "comment": "desks"}),
        ("PUT", f"{alias}/office", {"cidr": "198.51.100.0/24"}),
        ("PUT", f"{alias}/Office", {"cidr": "198.51.100.0/24", "comment": "x", "rename": "desk"}),
        ("DELETE", f"{alias}/DESK", {}),
        ("POST", sets, {"name": "Trusted", "comment": "who may"}),
        ("POST", f"{sets}/trusted", {"cidr": "192.0.2.7/32", "comment": "printer"}),
        ("POST", f"{sets}/trusted", {"cidr": "10.0.0.0/8", "nomatch": 1}),
        ("PUT", f"{sets}/trusted/10.0.0.0/8", {"comment": "all of it"}),
        ("PUT", f"{sets}/trusted/192.0.2.7", {"nomatch": 1}),
        ("DELETE", f"{sets}/trusted/10.0.0.0/8", {}),
        ("POST", sets, {"name": "known", "rename": "trusted", "comment": "friends"}),
        ("DELETE", f"{sets}/known", {"force": 1}),
        ("PUT", f"{path}/options", {"policy_in": "DROP", "enable": 1}),
        ("POST", f"{path}/rules", {**_RULE, "comment": "shell"}),
        ("PUT", f"{path}/rules/0", {"dport": "2222", "delete": "comment"}),
        ("DELETE", f"{path}/rules/0", {}),
    ]


GROUPS: list[Write] = [
    ("POST", f"{FIREWALL}/groups", {"group": "web", "comment": "servers"}),
    ("POST", f"{FIREWALL}/groups/web", {**_RULE, "dport": "80"}),
    ("POST", f"{FIREWALL}/groups/web", {**_RULE, "dport": "443", "enable": 1}),
    ("PUT", f"{FIREWALL}/groups/web/0", {"moveto": 2}),
    ("PUT", f"{FIREWALL}/groups/web/1", {"comment": "secure"}),
    ("POST", f"{FIREWALL}/rules", {"type": "group", "action": "web"}),
    ("POST", f"{FIREWALL}/groups", {"group": "www", "rename": "web"}),
    ("DELETE", f"{FIREWALL}/rules/0", {}),
    ("DELETE", f"{FIREWALL}/groups/www/0", {}),
    ("DELETE", f"{FIREWALL}/groups/www/0", {}),
    ("DELETE", f"{FIREWALL}/groups/www", {}),
]

JOBS: list[Write] = [
    ("PUT", "/cluster/backup/nightly", {"prune-backups": "keep-daily=7,keep-last=1"}),
    ("PUT", "/cluster/backup/nightly", {"delete": "comment,prune-backups", "mode": "stop"}),
    ("PUT", "/cluster/backup/nightly", {"enabled": 0, "fleecing": "enabled=1,storage=local-lvm"}),
    ("PUT", "/cluster/backup/nightly", {"delete": "all", "exclude-path": ["/tmp", "/var/cache"]}),
    ("PUT", "/cluster/backup/nightly", {"all": 1, "exclude": "105"}),
    ("PUT", "/cluster/backup/nightly", {"vmid": "100,101"}),
    ("PUT", "/cluster/backup/nightly", {"pool": "prod"}),
    ("DELETE", "/cluster/backup/nightly", {}),
    ("POST", "/cluster/backup", {"id": "weekly", "schedule": "sun 03:00", "storage": "nas"}),
    ("POST", "/cluster/backup", {"schedule": "sat 03:00", "vmid": "100", "storage": "nas"}),
]  # fmt: skip

RESOURCES: list[Write] = [
    ("POST", f"{HA}/resources", {"sid": "vm:100", "comment": "shop", "max_restart": 3}),
    ("POST", f"{HA}/resources", {"sid": "101", "state": "stopped"}),
    ("PUT", f"{HA}/resources/vm:100", {"state": "stopped", "delete": "comment"}),
    ("POST", f"{HA}/rules",
     {"rule": "near", "type": "node-affinity", "nodes": "pve1:2", "resources": "vm:100"}),
    ("POST", f"{HA}/rules", {"rule": "apart", "type": "resource-affinity",
                             "affinity": "negative", "resources": "vm:101,vm:100"}),
    ("PUT", f"{HA}/rules/near", {"type": "node-affinity", "strict": 1, "disable": 1}),
    ("PUT", f"{HA}/rules/near", {"type": "node-affinity", "delete": "disable"}),
    ("DELETE", f"{HA}/resources/vm:100", {}),
    ("DELETE", f"{HA}/rules/apart", {}),
]  # fmt: skip


async def test_names_of_the_clusters_firewall_come_back_byte_for_byte() -> None:
    await come_back(named(FIREWALL))


async def test_names_of_a_guests_firewall_come_back_byte_for_byte() -> None:
    await come_back(named(GUEST))


async def test_security_groups_come_back_byte_for_byte() -> None:
    await come_back(GROUPS)


async def test_backup_jobs_come_back_byte_for_byte() -> None:
    await come_back(JOBS)


async def test_high_availability_comes_back_with_its_rules() -> None:
    await come_back(RESOURCES)


MOVES: list[Write] = [
    ("POST", "/nodes/pve3/qemu/102/migrate", {"target": "pve1", "online": 1}),
    ("POST", "/nodes/pve4/lxc/103/migrate", {"target": "pve2", "restart": 1}),
    ("POST", "/nodes/pve2/qemu/106/move_disk", {"disk": "scsi0", "storage": "nas", "delete": 1}),
    ("PUT", "/nodes/pve2/qemu/106/config", {"scsi1": "ceph:4"}),
]
REPLICATION: list[Write] = [
    ("POST", "/cluster/replication", {"id": "106-0", "type": "local", "target": "pve3"}),
    ("PUT", "/cluster/replication/106-0", {"schedule": "*/5", "disable": 1, "rate": 10}),
    ("PUT", "/cluster/replication/106-0", {"delete": "disable,rate", "comment": "often"}),
]
DISKS: list[Write] = [
    ("POST", "/nodes/pve1/lxc/109/move_volume",
     {"volume": "rootfs", "storage": "nas", "delete": 1}),
    ("PUT", "/nodes/pve1/qemu/108/config", {"scsi1": "local-lvm:4"}),
    ("PUT", "/nodes/pve1/qemu/108/config", {"boot": "order=scsi1;net0"}),
    ("POST", "/nodes/pve1/qemu/108/move_disk",
     {"disk": "scsi1", "target-vmid": 106, "target-disk": "scsi3"}),
]  # fmt: skip


MATCHER, METRICS = "/cluster/notifications/matchers", "/cluster/metrics/server"
SETTINGS: list[Write] = [
    ("PUT", "/cluster/options", {"migration": "type=insecure", "registered-tags": "a;b"}),
    ("PUT", "/cluster/options", {"migration": "network=10.0.0.0/8,type=secure", "max_workers": 3}),
    ("PUT", "/cluster/options", {"delete": "registered-tags,migration", "console": "html5"}),
    ("PUT", "/nodes/pve1/config", {"description": "first rack", "acmedomain0": "a.example"}),
    ("PUT", "/nodes/pve1/config", {"delete": "acmedomain0", "ballooning-target": 70}),
    ("PUT", "/nodes/pve1/dns", {"search": "other.example", "dns1": "192.0.2.53"}),
    ("PUT", "/nodes/pve1/time", {"timezone": "Europe/Vienna"}),
    ("POST", "/nodes/pve1/hosts", {"data": "127.0.0.1 localhost\n"}),
    ("POST", MATCHER, {"name": "backups", "match-field": ["exact:type=vzdump"], "mode": "any"}),
    ("PUT", f"{MATCHER}/backups", {"match-severity": ["error", "warning"], "comment": "bad ones"}),
    ("PUT", f"{MATCHER}/backups", {"delete": ["comment", "match-field"], "disable": 1}),
    ("DELETE", f"{MATCHER}/backups", {}),
    ("POST", f"{METRICS}/graf", {"type": "graphite", "server": "192.0.2.8", "port": 2003}),
    ("PUT", f"{METRICS}/graf", {"server": "192.0.2.9", "port": 2003, "disable": 1}),
    ("DELETE", f"{METRICS}/graf", {}),
]


async def test_settings_of_nodes_notifications_and_metrics_come_back() -> None:
    await come_back(SETTINGS)


REST: list[Write] = [
    ("POST", "/nodes/pve1/qemu/101/status/suspend", {}),
    ("POST", "/nodes/pve1/qemu/101/status/resume", {}),
    ("POST", "/nodes/pve1/qemu/101/status/shutdown", {}),
    ("POST", "/nodes/pve1/qemu/110/status/stop", {}),
    ("POST", "/pools", {"poolid": "old", "comment": "to go"}),
    ("DELETE", "/pools", {"poolid": "old"}),
    ("POST", "/pools", {"poolid": "older"}),
    ("PUT", "/pools/older", {"comment": "as it was done before PVE 8"}),
    ("DELETE", "/pools/older", {}),
]


async def test_power_and_pools_come_back() -> None:
    await come_back(REST)


async def test_a_note_on_a_backup_comes_back() -> None:
    async with rig() as r, r.client() as client:
        volume = next(v for v in r.world.storages["nas"].volumes if v.content == "backup")
        before = picture(r.world)
        path = f"/nodes/pve1/storage/nas/content/{volume.volid}"
        await write(client, "PUT", path, {"notes": "keep it", "protected": 1})
        assert picture(r.world) != before
        await client.call("change_undo", change=newest(r).id)
        assert picture(r.world) == before


async def test_a_file_written_by_pves_own_method_comes_back() -> None:
    async with rig() as r, r.client() as client:
        guest = next(g for g in r.world.guests.values() if g.type == "qemu" and g.agent_running)
        guest.system = inside = Files({"/etc/motd": b"first\xff\n"})
        path = f"/nodes/pve1/qemu/{guest.vmid}/agent/file-write"
        content = base64.b64encode(b"second").decode()
        await write(client, "POST", path, {"file": "/etc/motd", "content": content, "encode": 0})
        assert inside.content["/etc/motd"] == b"second"
        assert "content" not in newest(r).undo
        await client.call("change_undo", change=newest(r).id)
        assert inside.content["/etc/motd"] == b"first\xff\n"


async def test_migrations_and_replication_come_back() -> None:
    await come_back([*MOVES, *REPLICATION], "cluster")


async def test_disks_that_were_moved_come_back() -> None:
    await come_back(DISKS)


async def test_a_moved_disk_that_left_its_volume_comes_back_under_another_name() -> None:
    async with rig() as r, r.client() as client:
        path = "/nodes/pve1/qemu/108/move_disk"
        await write(client, "POST", path, {"disk": "scsi0", "storage": "nas"})
        assert r.world.guests[108].config["unused0"] == "local-lvm:vm-108-disk-0"
        said = await client.call("change_undo", change=newest(r).id)
        assert "not brought back: scsi0 gets a new volume on local-lvm, of another name" in said
        assert str(r.world.guests[108].config["scsi0"]).startswith("local-lvm:vm-108-disk-1,")


async def test_a_replication_that_is_removed_says_beforehand_that_it_stays_so() -> None:
    async with rig("cluster") as r, r.client() as client:
        await write(client, *REPLICATION[0])
        path = "/cluster/replication/106-0"
        plan = await client.call("api_destroy", method="DELETE", path=path, dry_run=True)
        assert "undo: not possible, PVE removes the job" in plan
        await write(client, "DELETE", path, {})
        assert newest(r).recipe.why_not in plan


@pytest.mark.parametrize(
    ("writes", "other", "world"),
    [
        (JOBS[:1], ("PUT", "/cluster/backup/nightly", {"prune-backups": "keep-last=9"}), "homelab"),
        (named(FIREWALL)[:1], ("PUT", f"{FIREWALL}/aliases/Office", {"cidr": "10.1.0.0/16"}),
         "homelab"),
        (named(FIREWALL)[4:6], ("PUT", f"{FIREWALL}/ipset/trusted/192.0.2.7", {"comment": "x"}),
         "homelab"),
        (RESOURCES[:1], ("PUT", f"{HA}/resources/vm:100", {"state": "disabled"}), "homelab"),
        (MOVES[:1], ("POST", "/nodes/pve1/qemu/102/migrate", {"target": "pve2", "online": 1}),
         "cluster"),
        (REPLICATION[:1], ("PUT", "/cluster/replication/106-0", {"rate": 3}), "cluster"),
    ],
    ids=["backup job", "alias", "address set", "ha", "migration", "replication"],
)  # fmt: skip
async def test_what_somebody_else_has_changed_since_stays(
    writes: list[Write], other: Write, world: WorldName
) -> None:
    async with rig(world) as r, r.client() as client:
        for each in writes:
            await write(client, *each)
        change = newest(r)
        await write(client, *other)
        before = picture(r.world)
        with pytest.raises(ToolFault, match="has moved on since"):
            await client.call("change_undo", change=change.id)
        assert picture(r.world) == before


UNSIMULATED = (
    "/cluster/notifications/endpoints", "/cluster/acme", "/cluster/sdn/ipams",
    "/cluster/sdn/dns", "/cluster/mapping", "/cluster/ha/groups",
)  # fmt: skip
"""What the simulator cannot change: their way back is found in the API description alone."""


ELSEWHERE: list[Write] = [
    ("POST", "/nodes/pve1/qemu/106/snapshot/clean/rollback", {}),  # test_safety.py
    ("PUT", "/nodes/pve1/storage/nas/content/backup", {}),  # above
    ("POST", "/nodes/pve1/qemu/100/agent/file-write", {}),  # above
]
"""What comes back with something beside it, or names what each world has under another name."""


def promised() -> list[str]:
    """Return the methods of which plans say that they can be taken back, but for these."""
    text = files("pvemcp.journal").joinpath("undoable.toml").read_text("utf-8")
    rules = [rule for rule in tomllib.loads(text)["rule"] if "how" in rule]
    methods = [method for rule in rules for method in rule["methods"]]
    return [m for m in methods if not m.partition(" ")[2].startswith(UNSIMULATED)]


@pytest.mark.parametrize("method", promised())
async def test_every_way_back_that_a_plan_promises_is_gone_here(method: str) -> None:
    async with rig() as r:
        tried = [
            *twenty(r), *NETWORKS, *STORAGES, *named(FIREWALL), *named(GUEST), *GROUPS, *JOBS,
            *RESOURCES, *MOVES, *REPLICATION, *DISKS, *SETTINGS, *REST, *ELSEWHERE,
        ]  # fmt: skip
    parts = re.split(r"(\{\w+\}|\*)", method)
    pattern = "".join(
        ".*" if part == "*" else "[^/]+" if part.startswith("{") else re.escape(part)
        for part in parts
    )
    assert any(re.fullmatch(pattern, f"{verb} {path}") for verb, path, _ in tried)
