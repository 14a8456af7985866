"""What there is, as a client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pvemcp.pve.sharing import Kept
from pvemcp.sim.world import make_world
from tests.scenarios.rig import ToolFault, rig


async def test_the_guests_of_a_host_are_listed_with_what_decides(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        text = await client.call("inventory_find")
        head, columns, *rows = text.split("\n")
        assert head == "12 guests"
        assert columns.split("\t")[:5] == ["vmid", "type", "name", "node", "status"]
        assert "template" in {row.split("\t")[4] for row in rows}
        assert len(rows) == 12
        assert [row.split("\t")[0] for row in rows] == sorted(row.split("\t")[0] for row in rows)


async def test_a_list_of_ten_thousand_guests_is_one_request_and_under_a_thousand_tokens() -> None:
    async with rig("large") as r, r.client() as client:
        r.pve.resources = Kept(60)  # the second call finds it there however slow the machine is
        before = r.asked()
        text = await client.call("inventory_find")
        assert len(text.encode()) / 4 < 1000
        assert text.startswith("10000 guests\n")
        # The second request asks what the token may see, and is kept for half a minute.
        assert r.asked() - before <= 2
        await client.call("inventory_find", where=["status=running"], sort="-mem", limit=5)
        assert r.world.requests["GET", "/cluster/resources"] == 1


async def test_a_cursor_walks_every_guest_once() -> None:
    async with rig("cluster") as r, r.client() as client:
        seen: list[int] = []
        cursor = ""
        while True:
            page = await client.data("inventory_find", limit=33, cursor=cursor, fields=["vmid"])
            seen += [row["vmid"] for row in page["items"]]
            cursor = page.get("cursor", "")
            if not cursor:
                break
        assert len(seen) == len(set(seen)) == page["total"] == 200


async def test_a_cursor_goes_on_after_a_guest_that_has_gone() -> None:
    async with rig("cluster") as r, r.client() as client:
        first = await client.data("inventory_find", limit=10, fields=["vmid"])
        shown = [row["vmid"] for row in first["items"]]
        del r.world.guests[shown[3]]
        r.world.touch()
        r.pve.resources.forget()
        second = await client.data(
            "inventory_find", limit=10, fields=["vmid"], cursor=first["cursor"]
        )
        assert second["items"][0]["vmid"] == shown[-1] + 1


async def test_guests_are_filtered_by_any_field() -> None:
    async with rig("cluster") as r, r.client() as client:
        found = await client.data(
            "inventory_find", where=["type=lxc", "status!=running", "node~pve*"], limit=500
        )
        expected = [g for g in r.world.guests.values() if g.type == "lxc" and not g.running]
        assert found["total"] == len(expected) > 0
        big = await client.data("inventory_find", where=["maxmem>=4GiB"], limit=500)
        assert 0 < big["total"] < 200
        assert all(row["maxmem"] >= 4 * 1024**3 for row in big["items"])


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("status==running", lambda g: g["status"] == "running"),
        ("status='running'", lambda g: g["status"] == "running"),
        ("status!=running|template", lambda g: g["status"] not in ("running", "template")),
        ("status=running|template", lambda g: g["status"] in ("running", "template")),
        ("name!~web", lambda g: "web" not in g.get("name", "")),
        ("name=web*", lambda g: g.get("name", "").startswith("web")),
        ("tags=prod;web", lambda g: {"prod", "web"} <= set(g.get("tags", "").split(";"))),
        ("mem>50%", lambda g: "mem" in g and g["mem"] > g["maxmem"] / 2),
        ("cpu<10%", lambda g: g.get("cpu") is not None and g["cpu"] < 0.1),
        ("uptime>1h", lambda g: g.get("uptime", 0) > 3600),
        ("lxc", lambda g: "lxc" in str(g)),
    ],
)
async def test_conditions_mean_what_they_say(
    where: str, fits: Callable[[dict[str, Any]], bool]
) -> None:
    async with rig("cluster") as r, r.client() as client:
        fields = ["name", "status", "type", "tags", "cpu", "mem", "maxmem", "uptime", "node"]
        every = await client.data("inventory_find", limit=1000, fields=fields)
        expected = [g["vmid"] for g in every["items"] if fits(g)]
        found = await client.data("inventory_find", where=where, limit=1000, fields=["vmid"])
        assert [g["vmid"] for g in found["items"]] == expected


@pytest.mark.parametrize(
    "where",
    ["status:running", "status in (a,b)", "status is stopped", "!web", "a=b AND c=d",
     "name=a,node=b", "mem>5 and cpu>3", "name>80%", "status=", "=x", ""],
)  # fmt: skip
async def test_what_is_no_condition_is_refused_or_said(where: str) -> None:
    async with rig("cluster") as r, r.client() as client:
        result = await client.raw("inventory_find", where=[where])
        text = result.content[0].text
        assert "Nothing matches" in text or (result.is_error and text.startswith("invalid"))


async def test_a_condition_that_matches_nothing_names_the_values_there_are() -> None:
    async with rig("cluster") as r, r.client() as client:
        text = await client.call("inventory_find", where=["status=paused"])
        assert "status is running (" in text


async def test_rows_without_the_field_come_last_in_both_directions() -> None:
    async with rig("cluster") as r, r.client() as client:
        for sort in ("mem", "-mem"):
            found = await client.data("inventory_find", sort=sort, limit=500, fields=["mem"])
            has = ["mem" in row for row in found["items"]]
            assert has == sorted(has, reverse=True)


async def test_chosen_fields_come_with_the_key_of_the_row() -> None:
    async with rig() as r, r.client() as client:
        text = await client.call("inventory_find", fields=["status"], limit=1)
        assert text.split("\n")[1] == "vmid\tstatus"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"where": ["stauts=running"]}, "did you mean status?"),
        ({"where": ["mem>lots"]}, "is not a number"),
        ({"sort": "nmae"}, "did you mean name?"),
        ({"fields": ["vmdi"]}, "did you mean vmid?"),
        ({"cursor": "rubbish"}, "another list"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"limit": "40"}, "valid integer"),
        ({"kind": "vms"}, "'guests'"),
        ({"filter": "x"}, "unknown argument"),
    ],
)
async def test_a_wrong_list_request_says_what_is_right(
    arguments: dict[str, object], says: str
) -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault, match="invalid") as error:
            await client.call("inventory_find", **arguments)
        assert says in str(error.value)


@pytest.mark.parametrize("kind", ["nodes", "storages", "pools"])
async def test_nodes_storages_and_pools_are_listed(kind: str) -> None:
    async with rig("cluster") as r, r.client() as client:
        text = await client.call("inventory_find", kind=kind)
        assert f" {kind}\n" in text


async def test_a_list_under_a_weak_token_says_that_it_may_be_incomplete() -> None:
    async with rig() as r:
        weak = r.world.token("root@pam", "weak", privsep=True)
        async with r.client(token=weak) as client:
            for kind in ("guests", "nodes", "storages", "pools"):
                text = await client.call("inventory_find", kind=kind)
                assert "incomplete" in text, kind
                assert "root@pam!weak" in text, kind
                assert weak[1] not in text


async def test_the_overview_names_what_needs_attention(era: str) -> None:
    async with rig("cluster") as r, r.client(era=era) as client:
        text = await client.call("cluster_overview")
        assert "4 of 5 nodes online" in text
        assert "quorate" in text
        assert "offline" in text
        view = await client.data("cluster_overview")
        assert sum(sum(states.values()) for states in view["guests"].values()) == 200


async def test_the_overview_of_a_large_cluster_stays_small() -> None:
    async with rig("large") as r, r.client() as client:
        text = await client.call("cluster_overview")
        assert len(text.encode()) / 4 < 1000
        assert "32 nodes" in text


async def test_a_lost_quorum_is_said() -> None:
    async with rig("cluster") as r, r.client() as client:
        r.world.faults.quorum_lost = True
        r.world.touch()
        assert "NOT QUORATE" in await client.call("cluster_overview")


async def test_the_overview_under_a_weak_token_claims_nothing_that_it_cannot_see() -> None:
    world = make_world("cluster")
    weak = world.token("root@pam", "weak", privsep=True)
    async with rig(world) as r, r.client(token=weak) as client:
        text = await client.call("cluster_overview")
        assert text.startswith("quorum unknown: ")
        for part in ("guests", "storages", "nodes and tasks"):
            assert f"{part}: The list may be incomplete: token root@pam!weak lacks" in text
        assert (await client.data("cluster_overview"))["cluster"] is None
