"""What one call may cost, and what of PVE's texts reaches the model."""

from __future__ import annotations

import json
import time

import pytest

from tests.scenarios.rig import ToolFault, rig

HASTY = 5.0
"""Seconds; unbounded, these would take minutes."""


@pytest.mark.parametrize(
    "where",
    [
        ["name=" + " " * 300_000 + "x" + " " * 300_000 + "y"],
        ["a" * 100_000],
        ["name~" + "*a" * 240],
        ["status=running"] * 21,
        ["x"] * 5000,
    ],
    ids=["blanks", "long", "stars", "many", "words"],
)
async def test_no_condition_keeps_the_others_waiting(where: list[str]) -> None:
    async with rig("cluster") as r, r.client() as client:
        await client.call("inventory_find")
        began = time.perf_counter()
        result = await client.raw("inventory_find", where=where)
        assert time.perf_counter() - began < HASTY
        assert "internal" not in result.content[0].text


async def test_no_field_list_is_endless() -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault, match="at most"):
            await client.call("inventory_find", fields=["vmid"] * 201)


async def test_an_answer_in_json_that_must_be_cut_is_still_json() -> None:
    async with rig() as r, r.client() as client:
        vmid = min(r.world.guests)
        r.world.guests[vmid].config["description"] = 'say "hello"\n' * 5000
        path = f"/nodes/pve1/qemu/{vmid}/config"
        got = await client.data("api_read", path=path)
        assert "narrow it with fields" in got["note"]
        assert got["cut"].startswith("{")


HOSTILE = "\x1b[2J\x07\u202eevil\u2066\ufeff\U000e0041"


async def test_what_a_terminal_obeys_or_nobody_sees_is_written_out() -> None:
    async with rig() as r, r.client() as client:
        vmid = min(r.world.guests)
        r.world.guests[vmid].config["description"] = HOSTILE
        text = await client.call("guest_get", guest=vmid, parts=["config"])
        assert not set(HOSTILE) - set("evil[2J") & set(text)
        assert "evil" in text
        got = await client.call("api_read", path=f"/nodes/pve1/qemu/{vmid}/config", format="json")
        assert not set(HOSTILE) - set("evil[2J") & set(got)
        assert json.loads(got)["description"] == HOSTILE


async def test_a_name_cannot_fake_a_row_of_a_table() -> None:
    async with rig() as r, r.client() as client:
        vmid = min(r.world.guests)
        r.world.guests[vmid].config["name"] = "a\n999\tqemu\troot"
        r.world.touch()
        text = await client.call("inventory_find")
        assert not any(line.startswith("999") for line in text.split("\n"))
