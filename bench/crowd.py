"""Many clients at once, and clients that meet a node which hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median

from bench.calls import GUESTS, status_path, vmid_of
from bench.client import Client, Failure
from bench.layout import FIRST_VMID, HANG, node_of
from bench.processes import FakePve, Server
from bench.report import Report, percentile

CLIENTS = 32
SECONDS = 3.0
DELAY = 0.02
"""Seconds that PVE takes for an answer."""
HUNG = "pve2"


async def thirty_two(report: Report, server: Server, pve: FakePve, *, judge: bool = True) -> float:
    """Let 32 clients ask for different guests for SECONDS; return calls per second."""
    pve.set_up(guests=GUESTS, delay=DELAY)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for _ in range(CLIENTS)]
        taken: list[float] = []
        errors: list[str] = []
        started = time.perf_counter()
        await asyncio.gather(
            *(_ask(c, n, taken, errors, started + SECONDS) for n, c in enumerate(clients))
        )
        rate = len(taken) / (time.perf_counter() - started)
    pve.set_up(guests=GUESTS)
    p99 = percentile(taken, 0.99) * 1000
    if judge:
        note = f"p50 {median(taken) * 1000:.0f} ms"
        report.least(f"{CLIENTS} clients: calls answered", rate, 300, "/s", note)
        report.most(f"{CLIENTS} clients: p99", p99, 200, "ms")
        report.most(f"{CLIENTS} clients: errors", len(errors), 0, "", "".join(errors[:1])[:60])
    return rate


async def _ask(
    client: Client, number: int, taken: list[float], errors: list[str], until: float
) -> None:
    n = number * 1000
    while time.perf_counter() < until:
        n += 1
        try:
            # Each client asks for guests of its own, so that no two share a request.
            vmid = FIRST_VMID + (number + CLIENTS * n) % (GUESTS - GUESTS % CLIENTS)
            taken.append((await client.call("guest_get", guest=vmid, parts=[])).seconds)
        except Failure as failure:
            errors.append(str(failure))


async def hanging(report: Report, server: Server, pve: FakePve, stuck: int) -> None:
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
    what = f"{stuck} call{'s' if stuck > 1 else ''} hanging on one node, calls to others"
    report.most(f"{what}: p50", median(taken) * 1000, 15, "ms")
    report.most(f"{what}: slowest", max(taken) * 1000, 15, "ms", f"of {len(taken)}")


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
