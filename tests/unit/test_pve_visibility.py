"""What a token cannot see: PVE leaves rows out of its lists without a word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pvemcp.pve.visibility import gap
from pvemcp.sim.world import make_world
from tests.unit.sim_rig import Caller, token_headers

RECORDED = Path(__file__).parents[2].parent / "shared" / "pve" / "recorded" / "responses.jsonl"
ROOTS = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")
LISTS = {
    "/vms": "VM.Audit",
    "/nodes": "Sys.Audit",
    "/storage": "Datastore.Audit",
    "/storage/nas": "Datastore.Audit",
    "/pool": "Pool.Audit",
    "/access": "Sys.Audit",
    "/sdn": "SDN.Audit",
    "/mapping": "Mapping.Audit",
    "/": "Sys.Audit",
}
AUDITOR = dict.fromkeys(LISTS.values(), 1)


def gaps(permissions: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    said = {path: gap(permissions, path, privilege=need, token="t") for path, need in LISTS.items()}
    return {path: text for path, text in said.items() if text}


def test_an_auditor_sees_every_list() -> None:
    assert gaps(dict.fromkeys(ROOTS, AUDITOR)) == {}


@pytest.mark.parametrize("root", [root for root in ROOTS if root in LISTS])
def test_a_root_that_pve_leaves_out_is_closed_and_inherits_nothing(root: str) -> None:
    held = {path: AUDITOR for path in ROOTS if path != root}
    assert f"lacks {LISTS[root]} on {root}." in gaps(held)[root]


def test_a_closed_root_below_the_list_hides_rows_of_it() -> None:
    held = {path: AUDITOR for path in ROOTS if path != "/access/groups"}
    assert gaps(held) == {
        "/access": "The list may be incomplete: token t lacks Sys.Audit on /access/groups."
    }


def test_a_path_below_a_closed_root_is_closed_until_it_has_its_own_entry() -> None:
    held: dict[str, dict[str, int]] = {path: AUDITOR for path in ROOTS if path != "/storage"}
    assert "/storage/nas" in gaps(held)
    assert "/storage/nas" not in gaps({**held, "/storage/nas": AUDITOR})


def test_a_right_that_does_not_propagate_shows_no_list() -> None:
    held = {**dict.fromkeys(ROOTS, AUDITOR), "/vms": {"VM.Audit": 0}}
    assert list(gaps(held)) == ["/vms"]


async def test_no_access_on_access_is_said_about_a_list_of_users() -> None:
    world = make_world("homelab")
    token = world.token("eye@pve", roles={"/": "PVEAuditor", "/access": "NoAccess"})
    held = await Caller(world, token_headers(token)).data("GET", "/access/permissions")
    assert list(gaps(held)) == ["/access"]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded data of PVE are not here")
def test_a_real_auditor_and_root_see_every_list() -> None:
    rows = map(json.loads, RECORDED.read_text("utf-8").splitlines())
    answers = [row for row in rows if row["path"].strip("/") == "access/permissions"]
    seen = {row["as"]: gaps(row["json"]["data"]) for row in answers if row["status"] == 200}
    assert len(seen) > 1
    assert not any(seen.values())
