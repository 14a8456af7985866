"""Tells the other nodes of the cluster what this one has frozen.

What is told is a state, all freezes of this node at once, so it may be told again: at the start,
when it changes, and from time to time, because the other side may have gone back to an older
database. A node that does not answer is tried until it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pvemcp.access.freeze import Freeze, Freezes
from pvemcp.access.told import Told, digest
from pvemcp.errors import Fault, Unavailable
from pvemcp.host.cluster import Cluster
from pvemcp.host.ended import output_of
from pvemcp.host.peer import Peer
from pvemcp.peers.hearing import NEEDS, said

logger = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds between two looks at the freezes."""
AGAIN = 5.0
"""Seconds until a node that could not be told is tried again."""
EVERY = 60.0
"""Seconds until a node is told again what it knows."""
PATIENCE = 5.0
"""Seconds for which a person waits to hear who knows."""


@dataclass(slots=True)
class Spread:
    """Tells the others. `clock` is in seconds."""

    cluster: Cluster
    freezes: Freezes
    told: Told
    clock: Callable[[], float] = time.monotonic
    _due: dict[str, tuple[str, float]] = field(default_factory=dict)
    """What a node was told, or should have been (its digest), and when it is to be told again."""
    _telling: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Tell them, for ever."""
        try:
            while True:
                with contextlib.suppress(Fault):  # the database is busy: look again
                    self._begin()
                await asyncio.sleep(LOOK)
        finally:
            for task in self._telling.values():
                task.cancel()
            await asyncio.gather(*self._telling.values(), return_exceptions=True)

    async def now(self) -> None:
        """Tell them now, and wait for their answers for a short time. Raises Unavailable."""
        self._due.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._begin():
                    await asyncio.wait(list(self._telling.values()))

    def _begin(self) -> bool:
        """Begin to tell who is to be told; return whether anybody is being told."""
        nodes = self._nodes()
        own = self.freezes.own()
        for node in nodes:
            told, due = self._due.get(node, ("", 0.0))
            if node not in self._telling and (told != digest(own) or self.clock() >= due):
                task = asyncio.create_task(self._tell(node, own))
                self._telling[node] = task
                task.add_done_callback(partial(self._told_now, node))
        return bool(self._telling)

    def _nodes(self) -> list[str]:
        """Return the other nodes. Raises Unavailable, having noted it, when they are not known."""
        try:
            nodes = self.cluster.members().others() if self.cluster.port else []
        except Unavailable as fault:
            for each in self.told.all():
                self.told.failed(each.node, fault)
            raise
        self.told.keep(nodes)
        return nodes

    def _told_now(self, node: str, _: asyncio.Task[None]) -> None:
        del self._telling[node]

    async def _tell(self, node: str, own: Sequence[Freeze]) -> None:
        wanted = digest(own)
        self._due[node] = (wanted, self.clock() + AGAIN)
        try:
            # A node without the cluster (a network of corosync's own has failed) goes on serving.
            link = await Peer(self.cluster, node).open(said(own), needs=NEEDS, offline=True)
            answer = await output_of(link, "what is frozen elsewhere")
            self.told.heard(node, wanted, _released(node, answer))
            self._due[node] = (wanted, self.clock() + EVERY)
        except Fault as fault:
            with contextlib.suppress(Fault):  # the database is busy
                now = self.told.failed(node, fault)
                if now is not None and now.digest != wanted:
                    logger.warning("%s", now.behind)
        except Exception:
            logger.exception("telling %s what is frozen here failed", node)


def _released(node: str, answer: str) -> int:
    try:
        return int(json.loads(answer)["released"])
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"{node} did not say what it has taken over") from None
