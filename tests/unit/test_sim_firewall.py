"""PVE's firewall as the simulator keeps it."""

from __future__ import annotations

import pytest

from pvemcp.sim.world import make_world
from tests.unit.sim_rig import Caller, caller, errors, failure, root

RULES = "/nodes/pve1/firewall/rules"
RULE = {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "8080"}


async def comments(api: Caller) -> list[str]:
    return [rule.get("comment", "") for rule in await api.data("GET", RULES)]


def node_of(api: Caller) -> str:
    return api.world.local.name


@pytest.fixture
def api() -> Caller:
    made = root()
    assert RULES.startswith(f"/nodes/{node_of(made)}/")
    return made


async def test_a_new_rule_is_on_top_and_off(api: Caller) -> None:
    for name in ("first", "second"):
        await api.data("POST", RULES, **RULE, comment=name, pos=7)
    rules = await api.data("GET", RULES)
    assert [(rule["comment"], rule["pos"], rule["enable"]) for rule in rules] == [
        ("second", 0, 0),
        ("first", 1, 0),
    ]


async def test_a_stale_digest_is_refused(api: Caller) -> None:
    await api.data("POST", RULES, **RULE)
    [rule] = await api.data("GET", RULES)
    await api.data("PUT", f"{RULES}/0", enable=1, digest=rule["digest"])
    for verb in ("PUT", "DELETE"):
        reply = await api.ask(verb, f"{RULES}/0", digest=rule["digest"])
        assert reply.status == 500
        assert "detected modified configuration" in reply.reason
    [rule] = await api.data("GET", RULES)
    await api.data("DELETE", f"{RULES}/0", digest=rule["digest"])
    assert await api.data("GET", RULES) == []


@pytest.mark.parametrize(("moveto", "order"), [(0, "cab"), (1, "acb"), (3, "abc")])
async def test_a_rule_moves_before_another(api: Caller, moveto: int, order: str) -> None:
    for name in "cba":
        await api.data("POST", RULES, **RULE, comment=name)
    await api.data("PUT", f"{RULES}/2", moveto=moveto)
    assert "".join(await comments(api)) == order


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"source": "10.0.0.0/8,fe80::/64"}, "source"),
        ({"source": "10.0.0.0/99"}, "source"),
        ({"proto": ""}, "proto"),
    ],
)
async def test_a_rule_that_means_nothing_is_refused(
    api: Caller, wrong: dict[str, str], name: str
) -> None:
    given = {key: value for key, value in (RULE | wrong).items() if value}
    assert name in errors(await api.ask("POST", RULES, **given))
    assert await api.data("GET", RULES) == []


async def test_there_is_no_rule_beyond_the_last(api: Caller) -> None:
    for verb in ("GET", "PUT", "DELETE"):
        assert failure(await api.ask(verb, f"{RULES}/3")) == (500, "no rule at position 3")


async def test_options_are_set_and_unset(api: Caller) -> None:
    path = "/cluster/firewall/options"
    assert (await api.data("GET", path))["enable"] == 0
    await api.data("PUT", path, enable=1, policy_in="ACCEPT")
    await api.data("PUT", path, delete="policy_in")
    found = await api.data("GET", path)
    assert (found["enable"], "policy_in" in found) == (1, False)


async def test_an_auditor_may_only_read() -> None:
    api = caller(make_world("homelab"), _="PVEAuditor")
    assert await api.data("GET", RULES) == []
    assert (await api.ask("POST", RULES, **RULE)).status == 403
