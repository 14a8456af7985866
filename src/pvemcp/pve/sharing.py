"""Requests that several callers wait for, and answers that are kept for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pvemcp.errors import Unavailable

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiters: int = 0


class Flights(Generic[T]):
    """Runs the same work once for all who ask while it is under way.

    A waiter that is cancelled leaves the others alone; the work is cancelled with the last one.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Flight[T]] = {}

    async def share(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the work under this key returns, or raise what it raises."""
        flight = self._running.get(key)
        if flight is None:
            flight = self._running[key] = _Flight(asyncio.create_task(work()))
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if flight.task.cancelled() and not (waiter and waiter.cancelling()):
                raise Unavailable("the request was given up", hint="Try again.") from None
            raise
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._drop(key, flight.task)
                flight.task.cancel()

    def forget(self) -> None:
        """Let nobody join what is under way: something was written meanwhile."""
        self._running.clear()

    def _landed(self, key: Hashable, task: asyncio.Task[T]) -> None:
        self._drop(key, task)
        if not task.cancelled():
            task.exception()  # seen: a failure without waiters is no news

    def _drop(self, key: Hashable, task: asyncio.Task[T]) -> None:
        flight = self._running.get(key)
        if flight is not None and flight.task is task:
            del self._running[key]


class Kept(Generic[T]):
    """Answers kept for `seconds`, fetched once for all who ask, dropped when PVE is written to."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._values: dict[Hashable, tuple[float, T]] = {}
        self._flights: Flights[T] = Flights()
        self._age = 0

    def get(self, key: Hashable) -> T | None:
        """Return the kept answer, or None."""
        until, value = self._values.get(key, (0.0, None))
        return value if time.monotonic() < until else None

    async def share(self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Fetch an answer, or join the fetch under way, and keep it."""
        age = self._age
        value = await self._flights.share(key, fetch)
        if age == self._age:
            self._values[key] = (time.monotonic() + self._seconds, value)
            loop = asyncio.get_running_loop()
            loop.call_later(self._seconds + 0.1, self._expire, key)
        return value

    def drop(self, key: Hashable) -> None:
        """Drop one answer."""
        self._values.pop(key, None)

    def forget(self) -> None:
        """Drop everything: PVE was written to."""
        self._age += 1
        self._values.clear()
        self._flights.forget()

    def _expire(self, key: Hashable) -> None:
        until, _ = self._values.get(key, (0.0, None))
        if until <= time.monotonic():
            self._values.pop(key, None)
