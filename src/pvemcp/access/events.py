"""What happens to approvals, freezes and elevations is told, so that the audit has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Event = Callable[[str, Mapping[str, Any]], None]
"""`(kind, about)`: told of everything that happens."""


def untold(_kind: str, _about: Mapping[str, Any]) -> None:
    """Tell nobody."""
