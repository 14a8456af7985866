"""What a test can break."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemcp.sim.tasks import Tasks
    from pvemcp.sim.world import World


@dataclass(slots=True)
class Faults:
    """Faults of a world; all off at first."""

    world: World = field(repr=False)
    slow_nodes: dict[str, float] = field(default_factory=dict)
    """Node to the seconds that each of its answers takes, in real time."""
    dead_nodes: set[str] = field(default_factory=set)
    """Nodes without a route: 595 for what they would answer."""
    pvedaemon_down: bool = False
    """595 for protected methods of the node that was asked; others still work."""
    unsampled: set[int] = field(default_factory=set)
    """Guests that pvestatd has not seen yet: up to 10 s after one is made, /cluster/resources has
    neither its name nor its state (seen on PVE 9.1)."""
    quorum_lost: bool = False
    """Writes to the configuration fail."""
    refuse_after_write: int = 0
    """So many writes happen and are then answered 596."""
    login_delay: float = 0.0
    """Seconds that a 401 takes; 3 on a real host."""
    _drops: int = 0
    _drop_forever: bool = False

    def slow_node(self, node: str, seconds: float) -> None:
        """Let every answer of the node take so long; 0 ends it."""
        self.slow_nodes[node] = seconds

    def dead_node(self, node: str) -> None:
        """Take the node away: 595 `No route to host`."""
        self.dead_nodes.add(node)
        self.world.touch()

    def revive_node(self, node: str) -> None:
        """Bring the node back."""
        self.dead_nodes.discard(node)
        self.world.touch()

    def drop_connections(self, times: int | None = None) -> None:
        """Close the connection without an answer: so many times, or until `drop_connections(0)`."""
        self._drop_forever = times is None
        self._drops = times or 0

    def lock_guest(self, vmid: int, lock: str = "backup") -> None:
        """Put a lock on a guest, as a backup does; an empty string takes it away."""
        guest = self.world.guests[vmid]
        guest.config.pop("lock", None)
        if lock:
            guest.config["lock"] = lock
        self.world.touch()

    def fail_tasks(self, type_: str, exitstatus: str) -> None:
        """Let every task of this type end with the given exit status; empty ends it."""
        self._tasks.failures = {
            **{t: s for t, s in self._tasks.failures.items() if t != type_},
            **({type_: exitstatus} if exitstatus else {}),
        }

    def answer_596_after_write(self, times: int = 1) -> None:
        """Do the next writes and answer 596, as when pvedaemon dies before it has answered."""
        self.refuse_after_write = times

    @property
    def _tasks(self) -> Tasks:
        return self.world.tasks

    def take_drop(self) -> bool:
        """Whether this request is to be dropped; counts down."""
        if self._drops:
            self._drops -= 1
            return True
        return self._drop_forever

    def take_596(self) -> bool:
        """Whether this write is to be answered with 596; counts down."""
        if self.refuse_after_write:
            self.refuse_after_write -= 1
            return True
        return False
