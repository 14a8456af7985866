"""The check of traces: are they asked for, and can they be sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pvemcp import tracing
from pvemcp.health.check import Check, good, warning


def check_tracing(env: Mapping[str, str]) -> Iterator[Check]:
    """Judge whether traces that are asked for can be sent; say nothing when none are."""
    if kind := tracing.wanted(env):
        if trouble := tracing.problem(env):
            yield warning("traces", trouble, tracing.INSTALL)
        else:
            yield good("traces", f"are exported ({kind})")
