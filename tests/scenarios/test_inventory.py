"""What there is, as a client sees it."""

from __future__ import annotations

import pytest

from pvemcp.sim.world import make_world
from tests.scenarios.rig import ToolFault, rig


async def test_the_guests_of_a_host_are_listed_with_what_decides(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        text = await client.call("inventory_find")
        head, columns, *rows = text.split("\n")
        assert head == "12 guests"
        assert columns.split("\t")[:5] == ["vmid", "type", "name", "node", "status"]
        assert "template" in columns
        assert len(rows) == 12
        assert [row.split("\t")[0] for row in rows] == sorted(row.split("\t")[0] for row in rows)


async def test_a_list_of_ten_thousand_guests_is_one_request_and_under_a_thousand_tokens() -> None:
    async with rig("large") as r, r.client() as client:
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
