"""Lists: what they cost in tokens, time and PVE requests, at three sizes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.client import Client
from bench.processes import FakePve, Server
from bench.report import Report

SIZES = (12, 200, 10_000)
KEPT = 1.1
"""Seconds after which a list that is kept for 1 s has gone."""
ROUNDS = 4
HITS = 5
_NARROW = {"where": ["status=running", "name~web*"], "sort": "-mem"}


@dataclass(frozen=True, slots=True)
class Listed:
    """Medians of one size: tokens, ms on a miss and on a hit, PVE requests of a miss."""

    tokens: float
    miss: float
    hit: float
    requests: float
    narrow: float


async def run(
    report: Report, product: Server, yardstick: Server, pves: tuple[FakePve, FakePve]
) -> None:
    """Measure every size."""
    report.title("Lists of guests (inventory_find as it comes; yardstick: the rows as JSON)")
    async with product.client() as ours, yardstick.client() as bare:
        await ours.call("inventory_find")
        for size in SIZES:
            mine, theirs = await _size(size, ours, bare, pves)
            _lines(report, f"{size:,} guests", mine, theirs)
    for pve in pves:
        pve.set_up(guests=SIZES[0])


def _lines(report: Report, what: str, mine: Listed, theirs: Listed) -> None:
    report.most(f"{what}: tokens", mine.tokens, 1000, "", f"yardstick {theirs.tokens:,.0f}")
    report.most(f"{what}: on a miss", mine.miss, 90, "ms", f"yardstick {theirs.miss:.1f} ms")
    report.most(f"{what}: on a hit", mine.hit, 10, "ms", f"yardstick {theirs.hit:.1f} ms")
    report.most(f"{what}: PVE requests of a miss", mine.requests, 1)
    report.info(f"{what}: filtered and sorted, on a hit", mine.narrow, "ms")


async def _size(
    size: int, ours: Client, bare: Client, pves: tuple[FakePve, FakePve]
) -> tuple[Listed, Listed]:
    for pve in pves:
        pve.set_up(guests=size)
    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    for _ in range(ROUNDS):
        await asyncio.sleep(KEPT)
        mine = await _round(ours, pves[0], size, narrow=_NARROW)
        theirs = await _round(bare, pves[1], size, narrow={})
        rounds.append((mine, theirs))
    # The first round pays for what the fake makes once.
    return _medians([a for a, _ in rounds[1:]]), _medians([b for _, b in rounds[1:]])


async def _round(
    client: Client, pve: FakePve, size: int, *, narrow: dict[str, Any]
) -> dict[str, float]:
    pve.set_up(guests=size)
    first = await client.call("inventory_find")
    requests = pve.set_up(guests=size)["requests"]
    hits = [(await client.call("inventory_find")).seconds for _ in range(HITS)]
    narrowed = (await client.call("inventory_find", **narrow)).seconds
    return {
        "tokens": first.size / 4,
        "miss": first.seconds * 1000,
        "hit": median(hits) * 1000,
        "requests": requests,
        "narrow": narrowed * 1000,
    }


def _medians(rounds: list[dict[str, float]]) -> Listed:
    return Listed(**{name: median(one[name] for one in rounds) for name in rounds[0]})
