"""What makes the home lab and the small cluster worth asking about: troubles and their traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pvemcp.sim.history import DAY, Backups, Done, backed_up, done, happen, refreshed, said
from pvemcp.sim.permissions import Token
from pvemcp.sim.world import GIB, Guest, Snapshot, Volume, World

MIB = 1024**2


def homelab_past(world: World) -> None:
    """Three nights of backups (that of `mail` failed last night), some starts and stops."""
    broken = {
        105: (
            "INFO: creating archive with compressor zstd",
            "INFO: tar: ./var/mail/archive/2019.mbox: Cannot open: Input/output error",
            "INFO: tar: Exiting with failure status due to previous errors",
            "command 'set -o pipefail && tar cpf - ...' failed: exit code 2",
        )
    }
    events = [
        *backed_up(world, Backups("nas", list(world.guests.values()), broken=broken)),
        *done(world, _HOMELAB),
        *refreshed(world, days=3),
        said(world, ago=52, user="alice@pve", vmid=106, message="update VM 106: -cores 8"),
    ]
    happen(world, events)


_NO_MEMORY = "kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory"
_HOMELAB = (
    Done(
        75, "qmstart", 108, "alice@pve", 2, (_NO_MEMORY,), "start failed: QEMU exited with code 1"
    ),
    Done(74, "qmstart", 108, "alice@pve"),
    Done(29, "qmshutdown", 108, "alice@pve", 21),
    Done(26, "vzshutdown", 109, "root@pam", 6),
)


# The cluster ---------------------------------------------------------------------------------


def cluster_past(world: World) -> None:
    """Fill the cluster: stopped guests, templates, snapshots, a full storage, failed tasks."""
    _stopped(world)
    _templates(world)
    _snapshots(world)
    _pending(world)
    _files(world)
    _people(world)
    world.nodes["pve3"].certificate_days = 9
    world.storages["nas"].filled = 80
    world.backup_jobs["nightly-prod"] = {
        "type": "vzdump", "schedule": "02:30", "storage": "nas", "mode": "snapshot", "enabled": 1,
        "pool": "prod", "comment": "production", "prune-backups": {"keep-last": "3"},
    }  # fmt: skip
    world.backup_jobs["weekly-customers"] = {
        "type": "vzdump", "schedule": "sat 01:00", "storage": "nas", "mode": "snapshot",
        "enabled": 0, "pool": "customers", "comment": "off until there is room",
    }  # fmt: skip
    guests = [world.guests[vmid] for vmid in sorted(world.pools["prod"].vms)]
    job = Backups("nas", guests, broken={116: _NO_SPACE}, absent={"pve5": 2})
    events = [
        *backed_up(world, job),
        *done(world, _CLUSTER),
        *refreshed(world, days=2),
        said(world, ago=31, user="alice@pve", vmid=106, message="update VM 106: -cores 4"),
        said(world, ago=27, user="bob@pve", vmid=112, message="update VM 112: -memory 16384"),
        said(world, ago=3, user="ci@pve!deploy", vmid=127, message="update CT 127: -delete swap"),
    ]
    happen(world, events)


_NO_SPACE = (
    "INFO:  60% (19.2 GiB of 32.0 GiB) in 18s, read: 512.0 MiB/s, write: 498.2 MiB/s",
    "INFO: zstd: error 70 : Write error : cannot write block : No space left on device",
    "ERROR: vma_queue_write: write error - Broken pipe",
    "INFO: aborting backup job",
    "vma_queue_write: write error - Broken pipe",
)
_NO_ROOTFS = (
    "run_buffer: 571 Script exited with status 32",
    "lxc_setup: 4437 Failed to run mount hooks",
    '__lxc_start: 2114 Failed to initialize container "143"',
)
_RESCUE = "nas:iso/systemrescue-12.01-amd64.iso"
_CLUSTER = (
    Done(24 * 40, "qmshutdown", 132, "bob@pve", 17),
    Done(24 * 6, "qmshutdown", 121, "alice@pve", 12),
    Done(24 * 5, "vzstop", 143, "alice@pve", 1),
    Done(49, "qmigrate", 125, "bob@pve", 64),
    Done(30, "qmstop", 137, "ci@pve!deploy", 1),
    Done(28, "vzstart", 143, "alice@pve", 4, _NO_ROOTFS, "startup for container '143' failed"),
    Done(26, "qmsnapshot", 109, "alice@pve", 5),
    Done(20, "qmshutdown", 161, "bob@pve", 600, (), "VM quit/powerdown failed - got timeout"),
    Done(19.8, "qmstop", 161, "bob@pve", 1),
    Done(5, "qmstart", 121, "alice@pve", 1, (), f"volume '{_RESCUE}' does not exist"),
    Done(2, "qmreboot", 102, "ci@pve!deploy", 15),
)
_STOPPED: Mapping[int, str] = {
    121: "rescue disc inserted for repair",
    132: "retired, delete next year",
    137: "",
    143: "",
    161: "",
    185: "cold standby of 180",
}


def _stopped(world: World) -> None:
    for vmid, notes in _STOPPED.items():
        guest = world.guests[vmid]
        guest.running = guest.agent_running = False
        if notes:
            guest.config["description"] = notes
    world.guests[121].config["ide2"] = f"{_RESCUE},media=cdrom,size=1190M"


def _templates(world: World) -> None:
    for vmid, name in ((150, "debian13-tmpl"), (170, "win2025-tmpl")):
        guest = world.guests[vmid]
        guest.running = guest.agent_running = False
        guest.config |= {"name": name, "template": 1, "tags": "template"}
        guest.config["scsi0"] = f"ceph:base-{vmid}-disk-0,size=32G"
    world.guests[153].config["scsi0"] = "ceph:base-150-disk-0/vm-153-disk-0,size=32G"


_TAKEN: Sequence[tuple[str, int, str]] = (
    ("initial", 400, "as installed"),
    ("before-upgrade", 45, ""),
    ("before-patch-day", 3, "ticket 4711"),
)


def _snapshots(world: World) -> None:
    """Give every ninth guest one to three snapshots: the last ones of the list."""
    for vmid in range(100, 300, 9):
        guest = world.guests[vmid]
        if not guest.template:
            for name, days, notes in _TAKEN[vmid // 9 % 3 :]:
                _snapshot(world, guest, name, days=days, notes=notes)


def _snapshot(world: World, guest: Guest, name: str, *, days: int, notes: str) -> None:
    taken = world.clock.seconds() - days * DAY - guest.vmid * 61
    guest.snapshots[name] = Snapshot(name, taken, dict(guest.config), notes, guest.parent)
    guest.parent = name


def _pending(world: World) -> None:
    world.guests[106].pending["cores"] = 4
    world.guests[112].pending["memory"] = "16384"
    world.guests[127].pending["swap"] = None


def _files(world: World) -> None:
    now = world.clock.seconds()
    for name, size, days in (
        ("debian-13.1.0-amd64-netinst.iso", 783, 60),
        ("ubuntu-24.04.3-live-server-amd64.iso", 3150, 75),
        ("virtio-win-0.1.285.iso", 754, 40),
    ):
        volume = Volume(f"nas:iso/{name}", "iso", size * MIB, now - days * DAY)
        world.storages["nas"].volumes.append(volume)
    name = "debian-13-standard_13.1-2_amd64.tar.zst"
    template = Volume(f"local:vztmpl/{name}", "vztmpl", GIB // 8, now - 50 * DAY, "tzst")
    world.storages["local"].volumes.append(template)


def _people(world: World) -> None:
    """Operators in a group, one who has left, tokens that have ended or end soon."""
    now = world.clock.seconds()
    world.access.groups["operators"] = "on call"
    bob = world.add_user("bob@pve")
    bob.details = {"comment": "on call", "email": "bob@example.org"}
    for userid in ("alice@pve", "bob@pve"):
        world.access.users[userid].groups.add("operators")
    world.grant("/pool/prod", "operators", "PVEVMUser")
    carol = world.add_user("carol@pve", enable=False)
    carol.details = {"comment": "left in spring"}
    world.add_user("ci@pve").details = {"comment": "deployments"}
    world.token("ci@pve", "deploy", roles={"/pool/staging": "PVEVMAdmin"})
    tokens = world.access.users["ci@pve"].tokens
    tokens["deploy"].expire, tokens["deploy"].comment = now + 5 * DAY, "renew in time"
    tokens["old"] = Token("old", world.uuid(), expire=now - 30 * DAY, comment="replaced by deploy")
