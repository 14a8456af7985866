"""Many clients at once, and clients that meet a node which hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from statistics import median

from bench.calls import GUESTS, status_path, vmid_of
from bench.client import Client, Failure
from bench.layout import FIRST_VMID, HANG, node_of
from bench.processes import FakePve, Server
from bench.report import Report, percentile

CLIENTS = 32
MANY = 1024
"""Guests, so that each client has some of its own on each node."""
SECONDS = 3.0
DELAY = 0.02
"""Seconds that PVE takes for an answer."""
HUNG = "pve2"


@dataclass(frozen=True, slots=True)
class Crowd:
    """What the clients saw together; latencies in ms."""

    rate: float
    p50: float
    p99: float
    errors: list[str]


async def run(
    report: Report, product: Server, yardstick: Server, pves: tuple[FakePve, FakePve]
) -> None:
    """Measure both with many clients, and pvemcp with a node that hangs."""
    report.title(f"{CLIENTS} clients, a guest's status, PVE answers in 20 ms")
    for title, node in (("guests of all nodes", ""), ("guests of one node", "pve1")):
        bare = await _crowd(yardstick, pves[1], node)
        ours = await _crowd(product, pves[0], node)
        note = (
            f"p50 {ours.p50:.0f} ms; {ours.rate / bare.rate:.2f}x the yardstick's {bare.rate:.0f}"
        )
        report.least(f"{title}: calls answered", ours.rate, 300, "/s", note)
        note = f"yardstick {bare.p99:.0f} ms"
        report.most(f"{title}: p99", ours.p99, 200, "ms", note)
        report.most(f"{title}: errors", len(ours.errors), 0, "", "".join(ours.errors[:1])[:60])
    report.title("One node hangs for 2 s, and some calls with it")
    for stuck in (1, 12):
        await _hanging(report, product, pves[0], stuck)


async def _crowd(server: Server, pve: FakePve, node: str) -> Crowd:
    pve.set_up(guests=MANY, delay=DELAY)
    every = range(FIRST_VMID, FIRST_VMID + MANY)
    guests = [vmid for vmid in every if not node or node_of(vmid) == node]
    taken: list[float] = []
    errors: list[str] = []
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for _ in range(CLIENTS)]
        started = time.perf_counter()
        # Each client has guests of its own: no two share a request.
        await asyncio.gather(
            *(
                _ask(client, guests[n::CLIENTS], taken, errors, until=started + SECONDS)
                for n, client in enumerate(clients)
            )
        )
        rate = len(taken) / (time.perf_counter() - started)
    pve.set_up(guests=GUESTS)
    return Crowd(rate, median(taken) * 1000, percentile(taken, 0.99) * 1000, errors)


async def _ask(
    client: Client, guests: Sequence[int], taken: list[float], errors: list[str], *, until: float
) -> None:
    for vmid in cycle(guests):
        if time.perf_counter() > until:
            return
        try:
            taken.append((await client.call("guest_get", guest=vmid, parts=[])).seconds)
        except Failure as failure:
            errors.append(str(failure))


async def _hanging(report: Report, server: Server, pve: FakePve, stuck: int) -> None:
    """Let `stuck` clients wait for the node that hangs, while another works on the others."""
    pve.set_up(guests=GUESTS, hang=HUNG)
    on_it = [vmid for n in range(GUESTS) if node_of(vmid := vmid_of(n)) == HUNG]
    off_it = [n for n in range(GUESTS) if node_of(vmid_of(n)) != HUNG]
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(server.client())
        await other.call("guest_get", guest=vmid_of(off_it[0]), parts=[])
        waiting = [
            asyncio.create_task(_wait(await stack.enter_async_context(server.client()), vmid))
            for vmid in on_it[:stuck]
        ]
        await asyncio.sleep(0.1)
        early = [task for task in waiting if task.done()]
        taken = await _others(other, off_it)
        await asyncio.gather(*waiting)
    pve.set_up(guests=GUESTS)
    if early:
        raise Failure("the node that should hang answered at once: nothing was measured")
    what = f"{stuck} hanging, calls to other nodes"
    report.most(f"{what}: p50", median(taken) * 1000, 15, "ms")
    slowest = f"slowest of {len(taken)}: {max(taken) * 1000:.1f} ms"
    report.most(f"{what}: p99", percentile(taken, 0.99) * 1000, 15, "ms", slowest)


async def _wait(client: Client, vmid: int) -> None:
    with contextlib.suppress(Failure):
        await client.call("guest_get", guest=vmid, parts=[])


async def _others(client: Client, numbers: Sequence[int]) -> list[float]:
    """Call until the hanging node is about to answer, at most once for each number."""
    until = time.perf_counter() + HANG - 0.3
    taken: list[float] = []
    for n in numbers:
        if time.perf_counter() > until and taken:
            break
        taken.append((await client.call("api_read", path=status_path(n))).seconds)
    return taken
