"""Commands on another node of the cluster: a client asks one node, and another carries them out."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from pvemcp.access.shared import SharedClients, encode, take_over
from pvemcp.call import ApiToken, Effect
from pvemcp.health.cluster import check_cluster
from pvemcp.settings import Settings
from tests.scenarios.clustered import Node, Nodes, is_alive, nodes, put
from tests.scenarios.rig import Caller, ToolFault


async def test_a_command_runs_on_the_node_that_is_asked_for() -> None:
    async with nodes() as n, n["pve1"].client(n.share()) as client:
        text = await client.call("host_run", command="echo over there", node="pve2")
        assert "over there" in text
        assert "(read, pve2)" in text
        assert n["pve1"].executor.asked == []
        [request] = n["pve2"].executor.asked
        assert request["shell"] == "echo over there"


async def test_input_and_much_output_pass_whole() -> None:
    async with nodes() as n, n["pve1"].client(n.share()) as client:
        text = await client.call(
            "host_run",
            command="tr a-z A-Z; seq 100000 | sha256sum",
            stdin="x" * 300_000,
            node="pve2",
        )
        assert "bytes left out" in text
        found = await client.data("host_run", command="seq 200000; false", node="pve2")
        assert found["exit_code"] == 1
        assert found["dropped"] + found["left_out"] + len(found["stdout"]) == 1288895


async def test_both_nodes_audit_it_and_the_far_one_names_its_peer() -> None:
    async with nodes() as n:
        grant = n.share()
        async with n["pve1"].client(grant) as client:
            await client.call("host_run", command="true", effect="change", node="pve2")
        [near], [far] = n["pve1"].audit(), n["pve2"].audit()
        assert [step["path"] for step in near.steps if step["verb"] == "RUN"] == [
            "nodes/pve2/host/change"
        ]
        assert (far.client, far.grant, far.tool) == ("laptop", grant.id, "node_command")
        assert far.address == "node pve1"
        assert far.arguments["node"] == "pve1"
        assert far.arguments["call"] == near.id
        assert far.outcome == "ok"
        lines = n["pve2"].journal.getvalue().splitlines()
        assert json.loads(lines[0])["address"] == "node pve1"


async def test_a_node_asked_for_itself_runs_the_command_itself() -> None:
    async with nodes() as n, n["pve2"].client(n.share()) as client:
        assert "(read, here)" in await client.call("host_run", command="true", node="pve2")


async def test_diagnostics_shells_and_jobs_are_found_on_their_node() -> None:
    async with nodes() as n, n["pve1"].client(n.share()) as client:
        assert "ceph-health" in await client.call("host_diagnose", node="pve2")
        opened = await client.call("shell_open", node="pve2")
        assert "(read, pve2)" in opened
        name = opened.split()[0]
        sent = await client.call("shell_send", shell=name, text="echo $((6 * 7))")
        assert "42" in sent
        assert "closed" in await client.call("shell_close", shell=name)
        await until_ended(n["pve2"].executor.running[-1].pid)


async def until_ended(pid: int) -> None:
    """Wait until a process is gone."""
    async with asyncio.timeout(10):
        while is_alive(pid):
            await asyncio.sleep(0.01)


async def test_a_cancelled_call_ends_the_command_over_there() -> None:
    async with nodes() as n, n["pve1"].client(n.share()) as client:
        call = asyncio.create_task(client.call("host_run", command="sleep 100", node="pve2"))
        async with asyncio.timeout(10):
            while not n["pve2"].executor.running:
                await asyncio.sleep(0)
        call.cancel()
        await until_ended(n["pve2"].executor.running[0].pid)
        async with asyncio.timeout(10):
            while n["pve2"].audit()[-1:] == []:
                await asyncio.sleep(0)
        assert n["pve2"].audit()[-1].outcome == "cancelled"


async def test_a_node_that_breaks_off_is_named() -> None:
    async with nodes() as n, n["pve1"].client(n.share()) as client:
        call = asyncio.create_task(client.call("host_run", command="sleep 100", node="pve2"))
        async with asyncio.timeout(10):
            while not n["pve2"].executor.running:
                await asyncio.sleep(0)
        n["pve2"].executor.running[0].kill()
        assert "sandbox was killed" in await call


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("pve9", "no node pve9 is in this cluster.*There are: pve1, pve2, pve3"),
        ("pve3", "pve3 is offline.*pvecm status"),
    ],
)
async def test_a_node_that_is_not_there_is_said_to_be(node: str, said: str) -> None:
    async with nodes(("pve1", "pve2", "pve3")) as n, n["pve1"].client(n.share()) as client:
        n.members(offline=("pve3",))
        with pytest.raises(ToolFault, match=f"(?s){said}"):
            await client.call("host_run", command="true", node=node)


async def fails(client: Caller, said: str, **arguments: str) -> None:
    """Run a command on pve2, which must be refused."""
    with pytest.raises(ToolFault, match=f"(?s){said}"):
        await client.call("host_run", command="true", node="pve2", **arguments)


async def test_a_client_of_one_node_alone_runs_nothing_on_another() -> None:
    async with nodes() as n:
        async with n["pve1"].client(n.share(on=("pve1",))) as client:
            await fails(client, "pve2: this client is not one that the whole cluster shares")
        assert n["pve2"].executor.asked == []


async def test_a_revoked_client_is_refused_and_its_command_ended() -> None:
    async with nodes() as n:
        grant = n.share()
        async with n["pve1"].client(grant) as client:
            running = asyncio.create_task(client.call("host_run", command="sleep 100", node="pve2"))
            async with asyncio.timeout(10):
                while not n["pve2"].executor.running:
                    await asyncio.sleep(0)
            take_over(n["pve2"].store, SharedClients(2))
            with pytest.raises(ToolFault, match=r"pve2: .*it was revoked"):
                await running
            await until_ended(n["pve2"].executor.running[0].pid)
            await fails(client, "it was revoked")


async def test_the_far_side_has_its_own_opinion_of_the_ceiling() -> None:
    async with nodes() as n:
        grant = n.share()
        n["pve2"].store.write("UPDATE grants SET ceiling = 'read'")
        async with n["pve1"].client(grant) as client:
            await fails(client, "pve2: .*has the ceiling read", effect="change")
            assert "exit 0" in await client.call("host_run", command="true", node="pve2")
        assert [entry.outcome for entry in n["pve2"].audit()] == ["denied", "ok"]


async def test_both_sides_ask_pve_about_the_node() -> None:
    async with nodes() as n:
        poor = n.world.token("here@pve", roles={"/nodes/pve1": "PVEAuditor"})
        grant = n.share(token=poor)
        async with n["pve1"].client(grant) as client:
            await fails(client, "^denied: commands .*need Sys.Audit on /nodes/pve2")
        assert n["pve2"].audit() == []
        rich = n.world.token()
        async with n["pve1"].client(replace(grant, token=ApiToken(*rich))) as client:
            await fails(client, "^denied: pve2: .*need Sys.Audit on /nodes/pve2")
        assert n["pve2"].executor.asked == []


def a_container(n: Nodes) -> tuple[int, Node, Node]:
    """Return a running container, its node, and the other one."""
    vmid, name = next(
        (guest.vmid, guest.node)
        for guest in n.world.guests.values()
        if guest.type == "lxc" and guest.running and guest.node in n.by_name
    )
    [other] = set(n.by_name) - {name}
    return vmid, n[name], n[other]


def a_file(node: Node) -> str:
    """Write a file and return its path."""
    path = node.folder / "file"
    path.write_text("a file\n")
    return str(path)


async def test_a_container_of_another_node_is_entered_from_there() -> None:
    async with nodes() as n:
        vmid, node, other = a_container(n)
        path = a_file(node)
        async with other.client(n.share()) as client:
            text = await client.call("guest_exec", guest=vmid, command="echo inside $((1 + 1))")
            assert "inside 2" in text
            assert "a file" in await client.call("guest_file_read", guest=vmid, path=path)
        assert other.executor.asked == []
        assert [entry.steps[-1]["effect"] for entry in node.audit()] == ["destroy", "read"]


async def test_reading_in_a_container_of_another_node_needs_no_more_than_reading() -> None:
    async with nodes() as n:
        vmid, node, other = a_container(n)
        path = a_file(node)
        async with other.client(n.share(ceiling=Effect.READ)) as client:
            assert "a file" in await client.call("guest_file_read", guest=vmid, path=path)


async def test_doctor_asks_every_node_and_reads_the_shared_clients() -> None:
    async with nodes(("pve1", "pve2", "pve3")) as n:
        n.members(offline=("pve3",))
        settings = Settings(mirror_dir=n["pve1"].mirror, peer_port=n.port)
        found = {check.name: check for check in await check_cluster(settings)}
        assert found.keys() == {"node pve2", "node pve3"}
        assert found["node pve2"].repair == ""
        assert "offline" in found["node pve3"].message
        put(n["pve1"].mirror / "clients.json", encode(SharedClients(1)))
        assert "the same on every node" in (await check_cluster(settings))[0].message
        put(n["pve1"].mirror / "clients.json", b"")
        broken = (await check_cluster(settings))[0]
        assert not broken.ok
        assert "it is empty; those of before stay in force" in broken.message
        assert await check_cluster(replace(settings, mirror_dir=n["pve1"].folder)) == []
