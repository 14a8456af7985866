"""Failed log-in attempts per client address: who guesses is slowed down."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable

FAILURES = 10
WINDOW = 60.0
"""Seconds in which that many failures are allowed."""
ADDRESSES = 4096
"""How many addresses are remembered; the one that failed longest ago is forgotten first."""


class Attempts:
    """Counts failures. `clock` returns seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str) -> float:
        """Return how many seconds this client must wait; 0.0 when it may try."""
        if not self._failures:
            return 0.0
        failures = self._failures.get(group(address))
        if failures is None or len(failures) < FAILURES:
            return 0.0
        return max(0.0, failures[0] + WINDOW - self._clock())

    def failed(self, address: str) -> None:
        """Count a failure. Success is not counted and takes nothing back."""
        failures = self._failures.setdefault(group(address), deque(maxlen=FAILURES))
        failures.append(self._clock())
        self._failures.move_to_end(group(address))
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)


def group(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a Unix socket has no address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((parsed, 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed)
