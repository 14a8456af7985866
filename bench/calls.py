"""One client, one call after the other: pvemcp against the yardstick, in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.client import Client
from bench.layout import FIRST_VMID, NODES, node_of
from bench.processes import FakePve, Server
from bench.report import Report

GUESTS = 200
ROUNDS = 9
CALLS = 60
"""Calls of each server in each round."""
RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """A call to measure; `arguments` makes those of the call of that number."""

    title: str
    tool: str
    arguments: Callable[[int], dict[str, Any]]


def vmid_of(number: int) -> int:
    """Return another guest for each number, until they are through."""
    return FIRST_VMID + number * 7 % GUESTS


def status_path(number: int) -> str:
    """Return the path of a guest's status."""
    vmid = vmid_of(number)
    return f"/nodes/{node_of(vmid)}/qemu/{vmid}/status/current"


CASES = (
    Case("guest_get", "guest_get", lambda n: {"guest": vmid_of(n)}),
    Case("guest_get, status only", "guest_get", lambda n: {"guest": vmid_of(n), "parts": []}),
    Case("node_get", "node_get", lambda n: {"node": f"pve{1 + n % NODES}"}),
    Case("api_read of a guest's status", "api_read", lambda n: {"path": status_path(n)}),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost in one round: median latency and the server's own CPU, in ms."""

    p50: float
    cpu: float


async def run(
    report: Report, product: Server, yardstick: Server, pves: tuple[FakePve, FakePve]
) -> None:
    """Measure every case."""
    report.title("One client, PVE answers at once (yardstick: bare SDK tool, same PVE requests)")
    async with product.client() as ours, yardstick.client() as bare:
        for pve in pves:
            pve.set_up(guests=GUESTS)
        for case in CASES:
            await _case(report, case, (product, ours), (yardstick, bare), pves)


async def _case(
    report: Report,
    case: Case,
    ours: tuple[Server, Client],
    bare: tuple[Server, Client],
    pves: tuple[FakePve, FakePve],
) -> None:
    for server, client in (ours, bare):
        await one_round(server, client, case, 0)
    for pve in pves:
        pve.set_up(guests=GUESTS)
    rounds = []
    for number in range(ROUNDS):
        pair = (ours, bare) if number % 2 else (bare, ours)
        costs = {
            server.name: await one_round(server, client, case, number) for server, client in pair
        }
        rounds.append((costs[ours[0].name], costs[bare[0].name]))
    for name, pick in (("p50", _p50), ("server CPU", _cpu)):
        figures = [(pick(a), pick(b)) for a, b in rounds]
        a, b = (median(values) for values in zip(*figures, strict=True))
        ratio = median(x / y for x, y in figures)
        report.most(
            f"{case.title}: {name} / yardstick's", ratio, RATIO, "x", f"{a:.2f} / {b:.2f} ms"
        )
    _requests(report, case, pves)


def _p50(cost: Cost) -> float:
    return cost.p50


def _cpu(cost: Cost) -> float:
    return cost.cpu


def _requests(report: Report, case: Case, pves: tuple[FakePve, FakePve]) -> None:
    ours, bare = (pve.set_up(guests=GUESTS) for pve in pves)
    calls = ROUNDS * CALLS
    mine, theirs = ours["requests"] / calls, bare["requests"] / calls
    report.most(
        f"{case.title}: PVE requests / yardstick's", mine / theirs, 1.01, "x",
        f"{mine:.2f} / {theirs:.2f} a call",
    )  # fmt: skip
    report.most(
        f"{case.title}: new PVE connections per 100",
        100 * ours["connections"] / ours["requests"], 1.5, "", "pveproxy closes each after 100",
    )  # fmt: skip


async def one_round(
    server: Server, client: Client, case: Case, number: int, calls: int = CALLS
) -> Cost:
    """Make the calls of one round, and return what one cost."""
    cpu = server.cpu()
    first = number * calls
    taken = [
        (await client.call(case.tool, **case.arguments(n))).seconds
        for n in range(first, first + calls)
    ]
    return Cost(median(taken) * 1000, (server.cpu() - cpu) / calls * 1000)
