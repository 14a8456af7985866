"""What the tools say of a real PVE, held against what PVE itself says. Nothing is changed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.place import Place
from tests.scenarios.rig import ToolFault

DECIDES = ("vmid", "type", "name", "node", "status", "template", "lock", "hastate", "pool", "tags")


async def test_the_overview_counts_what_there_is(place: Place, era: str) -> None:
    async with place.client(era=era) as client:
        view = await client.data("cluster_overview")
    rows = await place.data("/cluster/resources")
    guests = [row for row in rows if row["type"] in ("qemu", "lxc")]
    assert sum(sum(states.values()) for states in view["guests"].values()) == len(guests)
    online = [row for row in rows if row["type"] == "node" and row["status"] == "online"]
    assert len([row for row in view["nodes"] if row["status"] == "online"]) == len(online)


async def test_every_guest_is_listed_with_what_decides(place: Place) -> None:
    async with place.client() as client:
        listed = await client.data("inventory_find", fields=list(DECIDES), limit=1000)
    rows = await place.data("/cluster/resources", type="vm")
    for row in rows:
        row["status"] = "template" if row.get("template") else row["status"]
    expected = [{name: row[name] for name in DECIDES if name in row} for row in rows]
    assert listed["items"] == sorted(expected, key=lambda row: row["vmid"])[:1000]


@pytest.mark.parametrize("kind", ["qemu", "lxc"])
async def test_a_guest_is_shown_as_it_is(place: Place, kind: str) -> None:
    rows = [row for row in await place.data("/cluster/resources", type="vm") if row["type"] == kind]
    if not rows:
        pytest.skip(f"this PVE has no guest of type {kind}")
    row = rows[0]
    path = f"/nodes/{row['node']}/{kind}/{row['vmid']}"
    config = await place.data(f"{path}/config", current=1)
    async with place.client() as client:
        shown = await client.data("guest_get", guest=str(row["vmid"]))
        text = await client.call("guest_get", guest=str(row["vmid"]))
    assert shown["config"] == config
    assert shown["status"]["status"] == (await place.data(f"{path}/status/current"))["status"]
    assert config["digest"] in text
    assert all(f"  {key}: " in text or f"  {key}:\n" in text for key in config if key != "digest")


async def test_every_node_is_shown(place: Place) -> None:
    rows = [row for row in await place.data("/nodes") if row["status"] == "online"]
    async with place.client() as client:
        for row in rows:
            shown = await client.data("node_get", node=row["node"], parts=["guests", "storages"])
            status = await place.data(f"/nodes/{row['node']}/status")
            assert shown["status"]["pveversion"] == status["pveversion"]


async def test_the_lists_that_decide_lose_nothing(place: Place) -> None:
    paths = (
        "/access/users", "/access/acl", "/access/roles", "/cluster/backup",
        "/cluster/firewall/rules", "/cluster/ha/resources", "/storage", "/pools",
    )  # fmt: skip
    async with place.client() as client:
        for path in paths:
            status, rows = await place.raw(path)
            if status != 200:
                continue
            listed = await client.data("api_read", path=path, limit=1000)
            assert sorted(map(sorted, listed["items"])) == sorted(map(sorted, rows)), path
            text = await client.call("api_read", path=path, limit=1000)
            columns = set(text.split("\n")[1].split("\t")) if rows else set()
            said = {name for row in rows for name, value in row.items() if value not in (None, "")}
            assert columns == said, path


async def test_tasks_are_listed_and_shown(place: Place) -> None:
    async with place.client() as client:
        listed = await client.data("task_list", limit=5)
        assert "upid" in await client.call("task_list", limit=5)
        for row in listed["items"][:2]:
            shown = await client.data("task_get", upid=row["upid"])
            assert shown["status"]["upid"] == row["upid"]


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("api_read", {"path": "/nodse"}, "invalid", "/nodes"),
    ("api_read", {"path": "/nodes/{n}/qemus"}, "invalid", "/nodes/{node}/qemu"),
    ("api_read", {"path": "/nodes/{n}/../access"}, "invalid", "Write it like"),
    ("api_read", {"path": "/nodes/{n}/qemu/abc/config"}, "invalid", "whole number"),
    ("api_read", {"path": "/nodes/{n}/qemu/99/config"}, "invalid", "from 100"),
    ("api_read", {"path": "/nodes/{n}/qemu/999999998/config"}, "not_found", "List the guests"),
    ("api_read", {"path": "/nodes/no-such-node/qemu"}, "not_found", "There is"),
    ("api_read", {"path": "/nodes/{n}/storage/no-such/content"}, "not_found", "There is"),
    ("api_read", {"path": "/nodes/{n}/qemu", "params": {"ful": 1}}, "invalid", "did you mean full"),
    ("api_read", {"path": "/cluster/resources", "params": {"type": "vms"}}, "invalid", "one of vm"),
    ("api_read", {"path": "/nodes/{n}/rrddata"}, "invalid", "timeframe: is missing"),
    ("api_read", {"path": "/nodes/{n}/tasks/rubbish/status"}, "invalid", "upid"),
    ("api_read", {"path": "/access/users/nobody-here@pam"}, "not_found", "There is"),
    ("api_read", {"path": "/access/roles/NoSuchRole"}, "not_found", "There is"),
    ("guest_get", {"guest": "no-such-guest"}, "not_found", "inventory_find"),
    ("node_get", {"node": "no-such-node"}, "not_found", "There is"),
    ("task_get", {"upid": "rubbish"}, "invalid", "It looks like UPID:"),
    ("inventory_find", {"where": ["stauts=running"]}, "invalid", "did you mean status?"),
    ("api_describe", {"path": "/version", "method": "POST"}, "invalid", "It has GET"),
]


@pytest.mark.parametrize(("tool", "arguments", "code", "remedy"), WRONG)
async def test_a_wrong_call_names_the_remedy(
    place: Place, tool: str, arguments: dict[str, Any], code: str, remedy: str
) -> None:
    node = (await place.data("/nodes"))[0]["node"]
    if "path" in arguments:
        arguments = {**arguments, "path": arguments["path"].replace("{n}", node)}
    async with place.client() as client:
        with pytest.raises(ToolFault) as error:
            await client.call(tool, **arguments)
    assert str(error.value).startswith(f"{code}: "), error.value
    assert remedy in str(error.value)


async def test_a_wrong_secret_says_which_token_and_how_to_check_it(place: Place) -> None:
    secret = "00000000-0000-0000-0000-000000000000"
    async with place.client(secret=secret) as client:
        with pytest.raises(ToolFault, match="unauthenticated") as error:
            await client.call("inventory_find")
    assert place.token.id in str(error.value)
    assert "pveum user token list" in str(error.value)
    assert secret not in str(error.value)


async def test_another_certificate_than_the_pinned_one_is_not_trusted(place: Place) -> None:
    async with place.client(fingerprint="00:" * 31 + "00") as client:
        with pytest.raises(ToolFault, match="another certificate") as error:
            await client.call("inventory_find")
    assert "Nothing was sent" in str(error.value)
