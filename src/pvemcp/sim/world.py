"""The state of a simulated cluster, and the handles that a test holds."""

from __future__ import annotations

import hashlib
import random
import secrets
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pvemcp.sim.clock import Clock
from pvemcp.sim.faults import Faults
from pvemcp.sim.permissions import ROOT, Access, Kind, Token, User
from pvemcp.sim.tasks import Progress, Task, Tasks

GuestType = Literal["qemu", "lxc"]
WorldName = Literal["homelab", "cluster", "large"]
GIB = 1024**3
Interfaces = dict[str, dict[str, Any]]
"""What /etc/network/interfaces says, by interface."""
Sections = dict[str, dict[str, dict[str, Any]]]
"""What /etc/pve/sdn says: objects by kind (zones, vnets, …) and id."""
_SDN = ("zones", "vnets", "subnets", "controllers")
_LOG_LINES = 5000
"""How far back the cluster log goes: a host keeps some thousand lines too."""


@dataclass(slots=True)
class Node:
    """A host. `online` False is one that is switched off."""

    name: str
    ip: str
    nodeid: int
    online: bool = True
    cpus: int = 16
    memory: int = 64 * GIB
    """Bytes."""
    disk: int = 96 * GIB
    """Bytes of the root file system."""
    booted: float = 0.0
    certificate_days: int = 640
    """Until the certificate of the API ends."""
    services: dict[str, str] = field(default_factory=dict)
    """Service to `running` or `stopped`, where it differs from running."""
    interfaces: Interfaces = field(default_factory=dict)
    staged: Interfaces | None = None
    """interfaces.new: what counts after the next reload; None when there is none."""

    def __post_init__(self) -> None:
        """Give a node a network card, and a bridge with its address on it."""
        manual = {"method": "manual", "method6": "manual", "families": ["inet"]}
        self.interfaces = self.interfaces or {
            "eno1": {"type": "eth", **manual},
            "vmbr0": {
                **manual, "type": "bridge", "autostart": 1, "method": "static",
                "address": self.ip, "netmask": "24", "cidr": f"{self.ip}/24",
                "gateway": "192.0.2.1", "bridge_ports": "eno1", "bridge_stp": "off",
                "bridge_fd": "0",
            },
        }  # fmt: skip

    def take_over(self) -> None:
        """Reload the network: what is staged counts."""
        if self.staged is not None:
            self.interfaces, self.staged = self.staged, None


@dataclass(slots=True)
class Snapshot:
    """A snapshot with the configuration that it keeps. `parent` is another snapshot or empty."""

    name: str
    snaptime: int
    config: dict[str, Any]
    description: str = ""
    parent: str = ""
    vmstate: bool = False


class System(Protocol):
    """A real system behind a simulated guest's agent."""

    def start(self, argv: list[str], stdin: bytes) -> int:
        """Start a program and return its process id."""

    def status(self, pid: int) -> tuple[int, int, bytes, bytes] | tuple[()] | None:
        """Return exit code, signal, output and error output; () while it runs; None afterwards."""

    def read(self, path: str) -> bytes:
        """Return the contents of a file. Raises OSError."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file. Raises OSError."""


@dataclass(slots=True)
class Guest:
    """A virtual machine or container. `config` holds what GET config shows, but for the digest."""

    vmid: int
    type: GuestType
    node: str
    config: dict[str, Any]
    running: bool = False
    paused: bool = False
    started: float = 0.0
    pending: dict[str, Any] = field(default_factory=dict)
    """Changes that wait for a restart; None stands for a removal."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    parent: str = ""
    """The snapshot that the present state stems from."""
    agent_running: bool = False
    addresses: tuple[str, ...] = ()
    """CIDRs of the first interface."""
    runs: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Commands started through the guest agent, by pid."""
    system: System | None = None
    """What its agent works with instead of the few programs of a simulated guest."""
    agent_socket: str = ""
    """The Unix socket of a real guest agent, which answers for it: see agent_bridge."""

    @property
    def name(self) -> str:
        """The name of a VM, the host name of a container."""
        return str(self.config.get("name") or self.config.get("hostname") or "")

    @property
    def template(self) -> bool:
        """Whether the guest is a template."""
        return bool(self.config.get("template"))

    @property
    def lock(self) -> str:
        """The lock on the configuration, or empty."""
        return str(self.config.get("lock", ""))

    @property
    def word(self) -> str:
        """How PVE calls this kind of guest in its messages: VM or CT."""
        return "VM" if self.type == "qemu" else "CT"

    def digest(self) -> str:
        """Return the SHA-1 of the configuration: it changes with every edit."""
        seen = repr((sorted(self.config.items()), sorted(self.pending.items()), self.parent))
        return hashlib.sha1(seen.encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Volume:
    """A file of a storage that belongs to no guest's configuration: an image, template, backup."""

    volid: str
    content: str
    size: int
    ctime: int
    format: str = ""
    vmid: int = 0
    notes: str = ""
    protected: bool = False


@dataclass(slots=True)
class Storage:
    """A storage of the cluster. `nodes` empty means all."""

    storage: str
    type: str
    content: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    """path, pool, server, …: what GET /storage shows besides."""
    shared: bool = False
    nodes: tuple[str, ...] = ()
    total: int = 500 * GIB
    volumes: list[Volume] = field(default_factory=list)
    disabled: bool = False
    filled: int = 0
    """Percent that is used besides `volumes`; 0 stands for a steady made-up share."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Passwords and keys, which no answer shows."""


@dataclass(slots=True)
class Pool:
    """A pool of guests and storages."""

    poolid: str
    comment: str = ""
    vms: set[int] = field(default_factory=set)
    storages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class HaResource:
    """A guest under high availability; `state` is what was asked for."""

    sid: str
    state: str = "started"
    comment: str = ""
    max_restart: int = 1
    max_relocate: int = 1
    failback: int = 1


@dataclass(slots=True)
class FirewallNames:
    """What rules call by name: of the cluster, or of a guest. Keys are lower-case names."""

    aliases: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """The entries of address sets, by CIDR."""
    comments: dict[str, str] = field(default_factory=dict)
    """Of address sets."""
    groups: dict[str, str] = field(default_factory=dict)
    """Comments of security groups, whose rules are in `World.firewall` as `group NAME`."""


class World:
    """A simulated cluster. The first node is the one that answers the API."""

    def __init__(self, *, progress: Progress = "immediate", seed: int = 1) -> None:
        self.name = "pvemcp-lab"
        self.random = random.Random(seed)
        self.clock = Clock(running=progress == "timed")
        self.nodes: dict[str, Node] = {}
        self.guests: dict[int, Guest] = {}
        self.storages: dict[str, Storage] = {}
        self.forgotten: dict[str, Storage] = {}
        """Storages whose definition was removed: what is in them is still there."""
        self.pools: dict[str, Pool] = {}
        self.ha: dict[str, HaResource] = {}
        self.ha_rules: dict[str, dict[str, Any]] = {}
        self.replication: dict[str, dict[str, Any]] = {}
        self.access = Access()
        self.access.users[ROOT] = User(ROOT)
        self.tasks = Tasks(self.clock, progress)
        self.tasks.changed = self.touch
        self.tasks.said = self._hear
        self.faults = Faults(self)
        self.options: dict[str, Any] = {}
        """datacenter.cfg."""
        self.firewall: dict[str, list[dict[str, Any]]] = {}
        """Rules by `cluster`, a node's name, a guest's id or `group NAME`."""
        self.firewall_options: dict[str, dict[str, Any]] = {}
        """What was set, by `cluster`, a node's name or a guest's id."""
        self.firewall_names: defaultdict[str, FirewallNames] = defaultdict(FirewallNames)
        """By `cluster` or a guest's id."""
        self.sections: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        """Settings that nothing here acts on, by their path: see sections.py."""
        self.sdn: Sections = {kind: {} for kind in _SDN}
        self.sdn_running: Sections = {kind: {} for kind in _SDN}
        """What was applied of it."""
        self.backup_jobs: dict[str, dict[str, Any]] = {}
        self.log: deque[dict[str, Any]] = deque(maxlen=_LOG_LINES)
        """The cluster log, oldest first."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """How often each (verb, path) was asked for."""
        self.revision = 0
        self.cached: dict[Any, bytes] = {}
        """Encoded answers of this revision."""
        self.key = secrets.token_bytes(32)
        """Signs tickets."""
        self._pool_of: dict[int, str] = {}
        self.access.pool_of = self._pool_of

    @property
    def local(self) -> Node:
        """The node that answers the API."""
        return next(iter(self.nodes.values()))

    def touch(self) -> None:
        """Say that the state has changed: what was cached is dropped.

        Requests, tasks and the handles below do so themselves; a test that changes the guests of
        a larger world by hand calls it.
        """
        self.revision += 1
        self.cached.clear()

    def online(self, node: str) -> bool:
        """Whether a node is part of the running cluster."""
        return self.nodes[node].online and node not in self.faults.dead_nodes

    def guests_on(self, node: str, type_: GuestType) -> list[Guest]:
        """Return a node's guests of one kind."""
        return [g for g in self.guests.values() if g.node == node and g.type == type_]

    def pool_of(self, vmid: int) -> str:
        """Return the pool of a guest, or an empty string."""
        return self._pool_of.get(vmid, "")

    def join_pool(self, poolid: str, vmid: int) -> None:
        """Put a guest into a pool, out of any other."""
        self.leave_pool(vmid)
        self.pools[poolid].vms.add(vmid)
        self._pool_of[vmid] = poolid
        self.access.forget()

    def leave_pool(self, vmid: int) -> None:
        """Take a guest out of its pool."""
        if poolid := self._pool_of.pop(vmid, ""):
            self.pools[poolid].vms.discard(vmid)
            self.access.forget()

    def next_vmid(self, floor: int = 100) -> int:
        """Return the lowest free guest id."""
        vmid = floor
        while vmid in self.guests:
            vmid += 1
        return vmid

    def uuid(self) -> str:
        """Return a random UUID out of the world's seed."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def record(self, user: str, message: str, *, node: str = "", failed: bool = False) -> None:
        """Write a line to the cluster log."""
        number, node = self.log[-1]["number"] + 1 if self.log else 1, node or self.local.name
        line = {"number": number, "node": node, "msg": message, "user": user}
        self.log.append({**line, "pri": 3 if failed else 6, "time": self.clock.seconds()})

    def _hear(self, task: Task, message: str) -> None:
        self.record(task.user, message, node=task.node, failed=task.failed)

    # Handles for tests -----------------------------------------------------------------------

    def add_user(
        self, userid: str, *, password: str = "", totp: str = "", enable: bool = True
    ) -> User:
        """Add an account, or return the one that is there. `totp` is a Base32 secret."""
        user = self.access.users.get(userid)
        if user is None:
            user = User(userid, password=password, totp=totp, enable=enable)
            self.access.users[userid] = user
        return user

    def add_role(self, roleid: str, *privileges: str) -> None:
        """Add or replace a role."""
        self.access.custom_roles[roleid] = frozenset(privileges)
        self.access.forget()

    def grant(
        self,
        path: str,
        ugid: str,
        role: str,
        propagate: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Add an access control entry. `ugid` is a user, a token (`user!token`) or a group."""
        if self.access.role(role) is None:
            raise ValueError(f"no role {role!r}")
        kind: Kind = "token" if "!" in ugid else "user" if "@" in ugid else "group"
        self.access.grant(path, ugid, role, kind=kind, propagate=propagate)
        self.touch()

    def token(
        self,
        userid: str = ROOT,
        tokenid: str = "mcp",
        *,
        privsep: bool = False,
        roles: Mapping[str, str] | None = None,
    ) -> tuple[str, str]:
        """Return `(full id, secret)` of an API token, made when it is not there yet.

        `roles` maps ACL paths to roles. They go to the user and, with `privsep`, to the token.
        """
        user = self.add_user(userid)
        full = f"{userid}!{tokenid}"
        if tokenid not in user.tokens:
            user.tokens[tokenid] = Token(tokenid, self.uuid(), privsep=privsep)
            self.access.forget()
        for path, role in (roles or {}).items():
            if privsep:
                self.grant(path, full, role)
            if userid != ROOT:
                self.grant(path, userid, role)
        return full, user.tokens[tokenid].secret


def make_world(name: WorldName, *, progress: Progress = "immediate", seed: int = 1) -> World:
    """Build one of the three worlds; the same seed gives the same world."""
    from pvemcp.sim.worlds import BUILDERS  # noqa: PLC0415 - worlds need the types above

    world = World(progress=progress, seed=seed)
    BUILDERS[name](world)
    return world
