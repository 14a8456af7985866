"""What the process costs: its tool list, its start, its memory, the command line."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from statistics import median

from bench.calls import GUESTS, status_path, vmid_of
from bench.client import Client
from bench.layout import NODES
from bench.lists import KEPT
from bench.processes import FakePve, Server, environment, product, pvemcp, yardstick
from bench.report import Report

STARTS = 4
CALLS = 2000
LARGE_LISTS = 6


async def tool_list(report: Report, server: Server) -> None:
    """Weigh tools/list as a client gets it."""
    async with server.client() as client:
        tools = (await client.request("tools/list", {}))["tools"]
    sizes = {tool["name"]: _tokens(tool) for tool in tools}
    heaviest = max(sizes, key=lambda name: sizes[name])
    report.title("tools/list (tokens: bytes of compact JSON / 4)")
    report.most(f"all {len(tools)} tools: tokens", sum(sizes.values()), 4000)
    report.most("tokens a tool", sum(sizes.values()) / len(sizes), 120)
    report.info("tokens of the heaviest", sizes[heaviest], "", heaviest)


def _tokens(value: object) -> float:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()) / 4


async def start(report: Report, folder: Path, pve: FakePve) -> None:
    """Start both servers in turns, and a short command."""
    report.title("Start (the first of each is not counted)")
    ours, bare = [], []
    for _ in range(STARTS + 1):
        async with product(folder, pve) as server:
            ours.append(server.cold)
        async with yardstick(folder, pve) as server:
            bare.append(server.cold)
    cold, other = median(ours[1:]), median(bare[1:])
    ratio = f"{cold / other:.2f}x the yardstick's {other:.2f} s"
    report.most("process start to answered tools/list", cold, 1.0, "s", ratio)
    env = environment(folder, pve.url, 0)
    taken = []
    for _ in range(STARTS + 1):
        started = time.perf_counter()
        pvemcp(env, "grant", "list")
        taken.append(time.perf_counter() - started)
    report.most("pvemcp grant list", median(taken[1:]), 0.4, "s")


async def memory(report: Report, folder: Path, pves: tuple[FakePve, FakePve]) -> None:
    """Watch the memory of fresh servers through many calls and large lists."""
    report.title("Memory (resident, MB of 2^20 bytes; a description of 649 methods is loaded)")
    async with product(folder, pves[0]) as ours, yardstick(folder, pves[1]) as bare:
        mine, theirs = await asyncio.gather(_through(ours, pves[0]), _through(bare, pves[1]))
    note = [f"yardstick {value:.1f} MB" for value in theirs]
    report.most("after the start", mine[0], 80, "MB", note[0])
    growth = f"now {mine[1]:.1f} MB; yardstick {theirs[1] - theirs[0]:+.1f} MB"
    report.most(f"growth over {CALLS:,} calls", mine[1] - mine[0], 5, "MB", growth)
    report.info(f"after {LARGE_LISTS} fetched lists of 10,000 guests", mine[2], "MB", note[2])


async def _through(server: Server, pve: FakePve) -> tuple[float, float, float]:
    pve.set_up(guests=GUESTS)
    async with server.client() as client:
        await client.call("api_read", path=status_path(0))  # waits for the description
        idle = server.rss()
        await _work(client)
        worked = server.rss()
        pve.set_up(guests=10_000)
        for _ in range(LARGE_LISTS):
            await asyncio.sleep(KEPT)
            await client.call("inventory_find")
            await client.call("guest_get", guest=vmid_of(0), parts=[])
        pve.set_up(guests=GUESTS)
        return idle, worked, server.rss()


async def _work(client: Client) -> None:
    for n in range(CALLS // 4):
        await client.call("guest_get", guest=vmid_of(n), parts=[])
        await client.call("node_get", node=f"pve{1 + n % NODES}")
        await client.call("api_read", path=status_path(n))
        await client.call("inventory_find")
