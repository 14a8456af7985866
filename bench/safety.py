"""What policy, audit and journal cost a call that only reads: the product with and without them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench.calls import CASES, GUESTS, Case, one_round, vmid_of
from bench.client import Client
from bench.processes import FakePve, Server, product, unguarded
from bench.report import Report
from pvemcp.tail import BATCH

PAIRS, ROUNDS = 5, 8
"""Pairs of servers, and turns of each server. A turn has as many calls as rows of reads go into
the database at once, so that each pays for one such transaction."""
RATIO = 1.15
_TEAMS = ("web", "db", "mail", "build", "lab", "vault")
_SEARCH = Case("inventory_find", "inventory_find", lambda n: {"where": f"vmid={vmid_of(n)}"})
_READS = (*CASES, _SEARCH)


def policy() -> list[dict[str, Any]]:
    """Return twenty rules as a team might have them: by tag, pool, client, hours, and reads."""
    rules: list[dict[str, Any]] = [
        {"name": "vault", "verdict": "deny", "effect": ["read", "change", "destroy"], "vmid": 99},
        {"name": "keys", "verdict": "deny", "effect": "read", "path": "/nodes/*/certificates/*"},
        {"name": "night", "verdict": "ask", "path": "/storage*", "hours": "22:00-06:00"},
        {"name": "guest clients", "verdict": "deny", "client": "guest-*", "effect": "change"},
        {"name": "pairs", "verdict": "ask", "tag": "prod", "persons": 2, "channel": "person"},
        {"name": "read before", "verdict": "ask", "after_untrusted_text": True, "pool": "prod"},
        {"name": "sandbox", "verdict": "allow", "profile": "change"},
        {"name": "shells", "verdict": "record"},
    ]
    for team in _TEAMS:
        rules.append({"name": f"{team} asks", "verdict": "ask", "tag": team, "effect": "destroy"})
        rules.append({"name": f"{team} may", "verdict": "allow", "pool": team, "client": team})
    return rules


async def run(report: Report, folder: Path, pves: tuple[FakePve, FakePve]) -> None:
    """Measure every case with several pairs of processes: some are laid out luckier in memory."""
    report.title("Policy of 20 rules, audit and journal, for reads (server CPU, without them = 1)")
    found: dict[str, list[tuple[float, float]]] = {case.title: [] for case in _READS}
    for number in range(PAIRS):
        place = folder / f"pair-{number}"
        for name in ("on", "off"):
            (place / name).mkdir(mode=0o700, parents=True)
        for title, figures in (await _pair(place, pves)).items():
            found[title].append(figures)
    for title, pairs in found.items():
        a, b = (median(values) for values in zip(*pairs, strict=True))
        ratio, note = median(x / y for x, y in pairs), f"{a:.2f} / {b:.2f} ms"
        report.most(f"{title}: server CPU, on / off", ratio, RATIO, "x", note)


async def _pair(folder: Path, pves: tuple[FakePve, FakePve]) -> dict[str, tuple[float, float]]:
    """Return what a call cost with and without, in ms, for each case.

    Both have the same environment: its size alone moves the figures by some percent.
    """
    with_rules = {"PVEMCP_POLICY": json.dumps(policy())}
    async with (
        product(folder / "on", pves[0], **with_rules) as on,
        unguarded(folder / "off", pves[1], **with_rules) as off,
        on.client() as guarded,
        off.client() as free,
    ):
        for pve in pves:
            pve.set_up(guests=GUESTS)
        return {case.title: await _case(case, (on, guarded), (off, free)) for case in _READS}


async def _case(
    case: Case, on: tuple[Server, Client], off: tuple[Server, Client]
) -> tuple[float, float]:
    """Compare the lower quartiles of many short turns: other work on the machine only adds."""
    cpu: dict[str, list[float]] = {on[0].name: [], off[0].name: []}
    for number in range(ROUNDS + 1):
        for server, client in (on, off) if number % 2 else (off, on):
            cost = await one_round(server, client, case, number, BATCH)
            cpu[server.name] += [cost.cpu] if number else []  # the first warms up
    a, b = (quantiles(cpu[server.name], n=4)[0] for server, _ in (on, off))
    return a, b
