"""`python -m bench [PART ...]`: print the bar line by line. Takes about three minutes."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench import calls, commands, crowd, lists, process_costs, profiling, safety
from bench.processes import FakePve, fake_pve, product, yardstick
from bench.report import Report

PARTS = ("calls", "safety", "crowd", "lists", "tools", "start", "memory", "commands")


async def _measure(parts: list[str], folder: Path, pves: tuple[FakePve, FakePve]) -> int:
    report = Report()
    report.head()
    if "start" in parts:
        await process_costs.start(report, folder, pves[0])
    if {"calls", "crowd", "lists", "tools"} & set(parts):
        await _at_work(report, parts, folder, pves)
    if "safety" in parts:
        await safety.run(report, folder, pves)
    if "memory" in parts:
        await process_costs.memory(report, folder, pves)
    if "commands" in parts:
        await commands.run(report, folder)
    report.end()
    return report.missed


async def _at_work(
    report: Report, parts: list[str], folder: Path, pves: tuple[FakePve, FakePve]
) -> None:
    async with product(folder, pves[0]) as ours, yardstick(folder, pves[1]) as bare:
        if "tools" in parts:
            await process_costs.tool_list(report, ours)
        if "calls" in parts:
            await calls.run(report, ours, bare, pves)
        if "crowd" in parts:
            await crowd.run(report, ours, bare, pves)
        if "lists" in parts:
            await lists.run(report, ours, bare, pves)


def main() -> int:
    """Run the parts asked for; all of them by default. The exit code is 0 even on a miss."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--profile", action="store_true", help="print where the CPU of a call goes, and no bar"
    )
    given = parser.parse_args()
    chosen = given.parts
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    with (
        tempfile.TemporaryDirectory(prefix="pvemcp-bench-") as folder,
        fake_pve() as first,
        fake_pve() as second,
    ):
        if given.profile:
            asyncio.run(profiling.run(Path(folder), first))
        else:
            asyncio.run(_measure(chosen or list(PARTS), Path(folder), (first, second)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
