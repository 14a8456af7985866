"""Slots that many share: nobody gets all of them, and who comes later waits for a turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable

Names = tuple[tuple[Hashable, int], ...]
"""What a slot is taken of, each with the most that may be in use."""


def part(total: int) -> int:
    """Return how many of so many slots one holder may have: an eighth is kept for the others."""
    return max(1, total - max(1, total // 8))


class Pool:
    """Counts slots by name. A waiter gets the first that suits it, before anybody new does."""

    def __init__(self) -> None:
        self._used: dict[Hashable, int] = {}
        self._waiting: dict[asyncio.Future[None], Names] = {}

    def __len__(self) -> int:
        return len(self._used)

    def take(self, names: Names) -> bool:
        """Take a slot of all of them, if each has one left."""
        used = self._used
        for name, most in names:
            if used.get(name, 0) >= most:
                return False
        for name, _ in names:
            used[name] = used.get(name, 0) + 1
        return True

    async def wait(self, names: Names) -> None:
        """Wait until a slot of all of them is taken."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = names
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None:
                self.give(names)  # its turn came in the same moment
            raise

    def give(self, names: Names) -> None:
        """Give a slot of all of them back."""
        used = self._used
        for name, _ in names:
            if used[name] == 1:
                del used[name]
            else:
                used[name] -= 1
        if self._waiting:
            self._pass_on()

    def _pass_on(self) -> None:
        for turn, names in [*self._waiting.items()]:
            if not turn.done() and self.take(names):
                del self._waiting[turn]
                turn.set_result(None)


class Slots:
    """So many slots; one holder has at most its `part` of them."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._pool = Pool()

    @contextlib.asynccontextmanager
    async def hold(self, holder: str) -> AsyncIterator[None]:
        """Hold one slot."""
        names: Names = ((("",), self._total), (holder, part(self._total)))
        if not self._pool.take(names):
            await self._pool.wait(names)
        try:
            yield
        finally:
            self._pool.give(names)
