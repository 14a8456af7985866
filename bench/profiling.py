"""Where the CPU of a call goes: pvemcp under cProfile, which makes small functions look dear."""

from __future__ import annotations

import asyncio
import pstats
from pathlib import Path

from bench.calls import CASES, GUESTS
from bench.processes import FakePve, product

CALLS = 300
SHOWN = 30


async def run(folder: Path, pve: FakePve) -> None:
    """Profile each case in a service of its own and print the most expensive functions."""
    for case in CASES:
        data = folder / f"{case.tool}.prof"
        pve.set_up(guests=GUESTS)
        async with product(folder, pve, profile=data) as server, server.client() as client:
            for number in range(CALLS):
                await client.call(case.tool, **case.arguments(number))
        print(f"\n{case.title}: {CALLS} calls and the start")
        stats = await asyncio.to_thread(pstats.Stats, str(data))
        stats.sort_stats("cumulative").print_stats("pvemcp/", SHOWN)
