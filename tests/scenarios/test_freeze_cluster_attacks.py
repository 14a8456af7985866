"""What a node says to others of freezes that is not its to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pvemcp.access.freeze import Freeze
from pvemcp.call import Effect
from pvemcp.errors import Conflict, Fault, Invalid
from pvemcp.peers.hearing import MOST, MOST_THAWS
from tests.scenarios.clustered import Nodes, nodes
from tests.scenarios.test_cluster_attacks import Attack, said
from tests.scenarios.test_freeze_cluster import THREE, events, held

# Attacks ----------------------------------------------------------------------------------------


def frozen(client: str = "", mode: str = "all", **more: Any) -> dict[str, Any]:
    """Return a freeze as nodes say it."""
    row = asdict(Freeze(client, mode, "mallory", "", 1.0, grant=client and f"id-{client}"))
    return {key: value for key, value in row.items() if key != "origin"} | more


async def says(n: Nodes, rows: Any, **more: Any) -> Fault | None:
    """Have pve1, which proves itself, say to pve2 what it has frozen; return the refusal."""
    issued = n["pve2"].cluster.identity().certificate
    attack = Attack(n.authority.issue("pve1"), server=issued, version=2)
    return await said(n, attack, {"do": "freezes", "freezes": rows, **more})


async def test_a_node_can_thaw_nothing_that_another_or_root_has_frozen() -> None:
    async with nodes(THREE) as n:
        n["pve2"].freezes.freeze("all", by="root")
        n["pve3"].freezes.freeze("all", by="root")
        await n["pve3"].spread.now()
        before = [("", "all", ""), ("", "all", "pve3")]
        attempts: Sequence[Mapping[str, Any]] = (
            {"rows": []},
            {"rows": [], "origin": "pve3"},
            {"rows": [], "origin": ""},
            {"rows": [], "node": "pve3", "caller": "pve2", "from": "pve3"},
        )
        for attempt in attempts:
            rows, more = attempt["rows"], {k: v for k, v in attempt.items() if k != "rows"}
            assert await says(n, rows, **more) is None
            assert held(n["pve2"]) == before, attempt
        weaker = frozen(mode="read-only")
        for origin in ("", "pve2", "pve3"):
            assert await says(n, [weaker | {"origin": origin}]) is None
            assert held(n["pve2"]) == [before[0], ("", "read-only", "pve1"), before[1]]
            assert n["pve2"].freezes.of("laptop") is not None
            assert n["pve2"].freezes.stops("laptop", Effect.READ), origin


async def test_who_is_not_the_node_that_it_says_freezes_nobody() -> None:
    async with nodes(THREE) as n:
        issued = n["pve2"].cluster.identity().certificate
        request = {"do": "freezes", "freezes": [frozen()]}
        forged = Attack(n.authority.issue("pve1"), name="pve3", server=issued, version=2)
        fault = await said(n, forged, request)
        assert fault is not None
        assert "not the certificate of pve3" in fault.message
        assert held(n["pve2"]) == []
        assert n["pve2"].refused() == [("foreign_node", "127.0.0.1")]


DAMAGED: Mapping[str, Any] = {
    "too many": [frozen(f"c{number}") for number in range(MOST + 1)],
    "no list": {"client": ""},
    "no object": ["x"],
    "an unknown mode": [frozen(mode="thawed")],
    "a mode that is no text": [frozen(mode=1)],  # type: ignore[arg-type]
    "a long reason": [frozen(reason="x" * 501)],
    "a person that is none": [frozen(by=None)],
    "a time before all time": [frozen(since=-1)],
    "a time beyond all years": [frozen(since=1e300)],
    "no time": [frozen(since=float("nan"))],
    "a client without its id": [frozen("laptop", grant="")],
    "an id without a client": [frozen(grant="id")],
    "a client twice": [frozen("laptop"), frozen("laptop", grant="other")],
    "an id twice": [frozen("laptop"), frozen("other", grant="id-laptop")],
    "a good one beside a bad one": [frozen(), frozen("laptop", mode="")],
}


async def test_what_is_too_much_or_damaged_changes_nothing() -> None:
    async with nodes() as n:
        assert await says(n, [frozen()]) is None
        for what, rows in DAMAGED.items():
            assert isinstance(await says(n, rows), Invalid), what
            assert held(n["pve2"]) == [("", "all", "pve1")], what
        assert n["pve2"].refused() == [("node_freezes", "127.0.0.1")]  # the others are counted
        assert await says(n, [frozen(f"c{number}") for number in range(MOST)]) is None


async def test_a_reason_from_another_node_cannot_obey_a_terminal() -> None:
    async with nodes() as n:
        assert await says(n, [frozen(reason="\x1b[2Jgone\u202e", by="\x07root")]) is None
        [found] = n["pve2"].freezes.all()
        assert str(found).isprintable()


async def test_a_node_that_thaws_all_the_time_is_not_heard_and_its_freeze_stays() -> None:
    async with nodes() as n:
        for number in range(MOST_THAWS + 5):
            await says(n, [frozen(since=float(number))])
        assert isinstance(await says(n, []), Conflict)
        assert held(n["pve2"]) == [("", "all", "pve1")]
        assert len(events(n["pve2"])) == MOST_THAWS + 1


async def test_who_freezes_only_is_always_heard() -> None:
    async with nodes() as n:
        rows = [frozen(f"c{number}") for number in range(MOST_THAWS * 2)]
        for number in range(len(rows) + 1):
            assert await says(n, rows[:number]) is None
        assert len(held(n["pve2"])) == len(rows)
