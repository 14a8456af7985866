"""How much one grant may ask, so that one client cannot keep the others from being served."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pvemcp.call import Call
from pvemcp.errors import Limited
from pvemcp.settings import Settings

MINUTE = 60.0
MORE = "An administrator can raise it in the settings of pvemcp."


@dataclass(slots=True)
class _Bucket:
    """Tokens that come back with time; never more than a minute's."""

    tokens: float
    at: float


class Rate:
    """So many a minute for each grant, and as many at once. `clock` never goes back."""

    def __init__(self, name: str, a_minute: int, clock: Callable[[], float]) -> None:
        self._name = name
        self._most = float(a_minute)
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def refusal(self, grant: str, what: str) -> Limited | None:
        """Count one; return the refusal when the grant has none left."""
        now = self._clock()
        bucket = self._buckets.get(grant)
        if bucket is None:
            bucket = self._buckets[grant] = _Bucket(self._most, now)
        tokens = min(self._most, bucket.tokens + (now - bucket.at) * self._most / MINUTE)
        bucket.at = now
        bucket.tokens = tokens - 1 if tokens >= 1 else tokens
        if tokens >= 1:
            return None
        wait = (1 - tokens) * MINUTE / self._most
        return Limited(
            self._name,
            f"{self._name}: this grant has made its {self._most:.0f} {what} of the minute. "
            "Nothing was done.",
            hint=f"Try again in {math.ceil(wait)} s, with fewer and larger {what}. {MORE}",
            wait=wait,
        )


class Gate:
    """Lets calls through, or refuses them. `hits` counts the refusals of each limit."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.hits: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        """Calls under way, by grant."""
        self._each = settings.concurrent_calls_per_grant
        self._all = settings.concurrent_calls
        self._requests = Rate("requests_per_minute", settings.requests_per_minute, clock)
        self._calls = Rate("calls_per_minute", settings.calls_per_minute, clock)
        self.total = 0
        """Calls under way, of all."""

    def request(self, grant: str) -> Limited | None:
        """Count an HTTP request; return what refuses it."""
        return self._noted(self._requests.refusal(grant, "requests"))

    @contextlib.contextmanager
    def call(self, call: Call) -> Iterator[None]:
        """Let a call through for as long as it runs. Raises Limited."""
        grant = call.principal.grant
        if refusal := self._noted(self._calls.refusal(grant, "calls") or self._full(grant)):
            raise refusal
        self.total += 1
        self.running[grant] += 1
        try:
            yield
        finally:
            self.total -= 1
            if self.running[grant] == 1:
                del self.running[grant]
            else:
                self.running[grant] -= 1

    def _full(self, grant: str) -> Limited | None:
        own = self.running[grant] >= self._each
        if not own and self.total < self._all:
            return None
        name, most, whose = (
            ("concurrent_calls_per_grant", self._each, "of this grant")
            if own
            else ("concurrent_calls", self._all, "of all clients")
        )
        return Limited(
            name,
            f"{name}: {most} calls {whose} run already. Nothing was done.",
            hint=f"Try again when one of them has ended. {MORE}",
            wait=1.0,
        )

    def noted(self, refusal: Limited) -> Limited:
        """Count a refusal of another's making, and return it."""
        self.hits[refusal.limit] += 1
        return refusal

    def _noted(self, refusal: Limited | None) -> Limited | None:
        return self.noted(refusal) if refusal is not None else None
