"""Slots that many share: nobody gets all of them, and who comes later waits for a turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, Sequence


def part(total: int) -> int:
    """Return how many of so many slots one holder may have: an eighth is kept for the others."""
    return max(1, total - max(1, total // 8))


class Counted:
    """Semaphores by name: made when somebody asks, forgotten when nobody holds or waits."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def enter(self, name: Hashable, size: int) -> asyncio.Semaphore:
        """Return the semaphore of that name; `leave` must follow."""
        semaphore, users = self._known.get(name) or (asyncio.Semaphore(size), 0)
        self._known[name] = (semaphore, users + 1)
        return semaphore

    def leave(self, name: Hashable) -> None:
        """Say that one user is done with it."""
        semaphore, users = self._known.pop(name)
        if users > 1:
            self._known[name] = (semaphore, users - 1)


class Slots:
    """So many slots; one holder has at most its `part` of them."""

    def __init__(self, total: int) -> None:
        self._all = asyncio.Semaphore(total)
        self._each = part(total)
        self._holders = Counted()

    @contextlib.asynccontextmanager
    async def hold(self, holder: str) -> AsyncIterator[None]:
        """Hold one slot."""
        own = self._holders.enter(holder, self._each)
        try:
            async with own, self._all:
                yield
        finally:
            self._holders.leave(holder)


async def acquire(semaphores: Sequence[asyncio.Semaphore]) -> None:
    """Acquire all of them in this order, or none."""
    taken = 0
    try:
        for semaphore in semaphores:
            await semaphore.acquire()
            taken += 1
    except BaseException:
        for semaphore in semaphores[:taken]:
            semaphore.release()
        raise
