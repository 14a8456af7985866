"""A freeze on one node of a cluster stops the others, and nobody there can end it from afar."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.freeze import Freezes
from pvemcp.call import Effect
from pvemcp.chain import Event
from pvemcp.errors import Missing
from pvemcp.health.policy import check_policy
from pvemcp.host.frames import Link, read_frame
from pvemcp.host.greeting import Challenge
from pvemcp.peers.spread import AGAIN, EVERY, Spread
from pvemcp.settings import Settings
from pvemcp.store import Store
from tests.scenarios.clustered import Node, Nodes, nodes
from tests.scenarios.rig import Caller, ToolFault
from tests.scenarios.test_cluster import a_container, until_ended
from tests.scenarios.test_host import until
from tests.scenarios.test_http import web
from tests.scenarios.test_monitoring import checks, figures

THREE = ("pve1", "pve2", "pve3")


def held(node: Node) -> list[tuple[str, str, str]]:
    """Return what is frozen on a node: client, mode, origin."""
    return [(one.client, one.mode, one.origin) for one in node.freezes.all()]


def events(node: Node) -> list[Event]:
    """Return what the audit of a node says of freezes, oldest first."""
    return [one for one in node.audited.events(1000) if one.kind in ("freeze", "thaw")]


async def fails(client: Caller, match: str, **more: str) -> None:
    """Run a command that a freeze must stop."""
    with pytest.raises(ToolFault, match=f"(?s){match}"):
        await client.call("host_run", command="true", **more)


# What a person does ---------------------------------------------------------------------------


async def test_a_freeze_of_all_holds_on_every_node_and_ends_where_it_was_made() -> None:
    async with nodes(THREE) as n, n["pve2"].client(n.share()) as client:
        n["pve1"].freezes.freeze("all", by="root", reason="look first")
        await n["pve1"].spread.now()
        for name in ("pve2", "pve3"):
            assert held(n[name]) == [("", "all", "pve1")]
        await fails(client, r"frozen since .* by root on pve1: look first.*pvemcp thaw, on pve1")
        assert n["pve1"].told.behind(n["pve1"].freezes.own()) == []

        with pytest.raises(Missing, match="was not frozen here, but on pve1") as caught:
            n["pve2"].freezes.thaw(by="root")
        assert "pvemcp thaw --here" in caught.value.hint
        n["pve1"].freezes.thaw(by="root")
        await n["pve1"].spread.now()
        assert held(n["pve2"]) == held(n["pve3"]) == []
        await client.call("host_run", command="true")


async def test_both_ends_of_a_freeze_are_events_on_every_node() -> None:
    async with nodes() as n:
        n["pve1"].freezes.freeze("read-only", by="alice", reason="odd")
        await n["pve1"].spread.now()
        await n["pve1"].spread.now()  # says nothing new
        n["pve1"].freezes.thaw(by="alice")
        await n["pve1"].spread.now()
        first, last = events(n["pve2"])
        assert (first.kind, last.kind) == ("freeze", "thaw")
        assert first.about["origin"] == last.about["origin"] == "pve1"
        assert (first.about["by"], first.about["reason"]) == ("alice", "odd")


async def test_each_nodes_own_freeze_stays_when_another_ends() -> None:
    async with nodes() as n:
        for node in n.by_name.values():
            node.freezes.freeze("read-only", by="root")
        for node in n.by_name.values():
            await node.spread.now()
        n["pve1"].freezes.thaw(by="root")
        await n["pve1"].spread.now()
        assert held(n["pve1"]) == [("", "read-only", "pve2")]
        assert held(n["pve2"]) == [("", "read-only", "")]


async def test_a_client_is_frozen_by_its_id_whatever_its_name_is_there() -> None:
    async with nodes() as n:
        own, _ = n["pve2"].grants.create("laptop", Effect.DESTROY)
        grant = n.share("laptop")
        n["pve1"].freezes.freeze("read-only", client="laptop", by="root")
        await n["pve1"].spread.now()
        assert held(n["pve2"]) == [("laptop@cluster", "read-only", "pve1")]
        assert n["pve2"].freezes.of(own.name) is None
        shared = n["pve2"].grants.shared(grant.id)
        assert shared is not None
        assert n["pve2"].freezes.of(shared.name) is not None


async def test_a_client_that_another_node_does_not_know_yet_is_frozen_when_it_does() -> None:
    async with nodes() as n:
        grant = n.share("laptop", on=("pve1",))
        n["pve1"].freezes.freeze("all", client="laptop", by="root")
        await n["pve1"].spread.now()
        assert held(n["pve2"]) == [("laptop of pve1", "all", "pve1")]
        assert n["pve2"].freezes.all()[0].remedy == "pvemcp thaw --client laptop, on pve1"
        assert n["pve2"].freezes.of("laptop") is None
        n.learn("pve2", grant)
        assert n["pve2"].freezes.of("laptop") is not None


async def test_a_client_of_one_node_alone_is_frozen_there_alone() -> None:
    async with nodes() as n:
        for node in n.by_name.values():
            node.grants.create("laptop", Effect.READ)
        n["pve1"].freezes.freeze("all", client="laptop", by="root")
        await n["pve1"].spread.now()
        assert n["pve1"].freezes.of("laptop") is not None
        assert held(n["pve2"]) == []
        assert n["pve1"].told.behind(n["pve1"].freezes.own()) == []


async def test_what_a_lost_node_froze_root_can_end_on_each_node_and_that_stays() -> None:
    async with nodes(THREE) as n:
        n["pve1"].freezes.freeze("all", by="root")
        await n["pve1"].spread.now()
        [ended] = n["pve2"].freezes.release(by="bob")
        assert (ended.origin, held(n["pve2"])) == ("pve1", [])
        assert held(n["pve3"]) == [("", "all", "pve1")]
        event = events(n["pve2"])[-1]
        assert (event.kind, event.about["by"], event.about["origin"]) == ("thaw", "bob", "pve1")

        again = Spread(n["pve1"].cluster, Freezes(n["pve1"].store), n["pve1"].told)
        await again.now()  # it was restarted, and says the same
        assert held(n["pve2"]) == []
        assert {one.node: one.released for one in n["pve1"].told.all()} == {"pve2": 1, "pve3": 0}
        n["pve1"].freezes.freeze("read-only", by="root")  # another decision
        await again.now()
        assert held(n["pve2"]) == [("", "read-only", "pve1")]
        with pytest.raises(Missing, match="no other node has frozen every client"):
            n["pve1"].freezes.release(by="bob")


# Commands for other nodes -----------------------------------------------------------------------


async def begun(node: Node) -> int:
    """Wait until a command runs on a node; return its process."""
    await until(lambda: bool(node.executor.running))
    return node.executor.running[-1].pid


@pytest.mark.parametrize("where", ["pve1", "pve2"])
async def test_a_frozen_clients_commands_for_another_node_end_and_none_begins(where: str) -> None:
    async with nodes() as n, n["pve1"].client(n.share()) as client:
        shell = (await client.call("shell_open", node="pve2")).split()[0]
        shell_pid = await begun(n["pve2"])
        running = asyncio.create_task(client.call("host_run", command="sleep 99", node="pve2"))
        await until(lambda: len(n["pve2"].executor.running) == 2)
        pid = await begun(n["pve2"])
        n[where].freezes.freeze("all", client="laptop", by="root")  # the other node is not told
        with pytest.raises(ToolFault, match="frozen"):
            await running
        await until_ended(pid)
        await until_ended(shell_pid)
        asked = len(n["pve2"].executor.asked)
        await fails(client, "frozen", node="pve2")
        assert len(n["pve2"].executor.asked) == asked
        with pytest.raises(ToolFault):
            await client.call("shell_send", shell=shell, text="true")


async def test_the_far_node_refuses_also_a_node_that_ignores_the_freeze() -> None:
    async with nodes() as n:
        vmid, node, other = a_container(n)
        grant = n.share()
        node.freezes.freeze("read-only", client="laptop", by="root")
        async with other.client(grant) as client:  # which has not heard of it
            assert "exit 0" in await client.call("host_run", command="true", node=node.name)
            await fails(client, f"{node.name}: .*frozen", node=node.name, effect="change")
            with pytest.raises(ToolFault, match="frozen"):
                await client.call("guest_exec", guest=vmid, command="true")
        assert [entry.outcome for entry in node.audit()] == ["ok", "denied", "denied"]


# Nodes that do not answer -----------------------------------------------------------------------


async def test_a_node_that_is_down_is_said_to_be_and_told_when_it_is_up() -> None:
    async with nodes() as n:
        pve1, moment = n["pve1"], [0.0]
        spread = Spread(pve1.cluster, pve1.freezes, pve1.told, clock=lambda: moment[0])
        await n["pve2"].stop()
        pve1.freezes.freeze("all", by="root")
        task = asyncio.create_task(spread.run())
        await until(lambda: bool(pve1.told.all()) and bool(pve1.told.all()[0].problem))
        [behind] = pve1.told.behind(pve1.freezes.own())
        assert "pve2 does not know the freezes of this node" in behind.behind
        assert "nothing listens" in behind.behind
        assert held(n["pve2"]) == []

        n["pve2"].start()
        await n.listening("pve2")
        moment[0] += AGAIN
        await until(lambda: bool(held(n["pve2"])))
        await until(lambda: not pve1.told.behind(pve1.freezes.own()))
        n["pve2"].store.write("DELETE FROM freezes")  # it went back to an older database
        n["pve2"].store.changed()
        moment[0] += EVERY
        await until(lambda: bool(held(n["pve2"])))
        task.cancel()
        await asyncio.wait((task,))


async def test_a_node_that_is_down_stays_frozen_until_it_has_heard_of_the_thaw() -> None:
    async with nodes() as n:
        pve1 = n["pve1"]
        pve1.freezes.freeze("all", by="root")
        await pve1.spread.now()
        await n["pve2"].stop()
        pve1.freezes.thaw(by="root")
        await pve1.spread.now()
        assert held(n["pve2"]) == [("", "all", "pve1")]
        [behind] = pve1.told.behind(pve1.freezes.own())
        assert "nothing listens" in behind.problem
        n.members(without=("pve2",))  # pvecm delnode
        await pve1.spread.now()
        assert pve1.told.all() == []


async def test_a_freeze_needs_no_quorum_nor_a_cluster_that_sees_the_node() -> None:
    async with nodes() as n:
        n.members(offline=("pve1", "pve2"))
        n["pve1"].freezes.freeze("all", by="root")
        await n["pve1"].spread.now()
        assert held(n["pve2"]) == [("", "all", "pve1")]


KILLED = """
import os, signal, sys
from pathlib import Path
from pvemcp.access.freeze import Freezes
from pvemcp.store import Store
Freezes(Store(Path(sys.argv[1]))).{}
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_after(node: Node, what: str) -> None:
    """Freeze or thaw in a process that dies before it can tell anybody."""
    command = [sys.executable, "-c", KILLED.format(what), str(node.store.path.parent)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


async def test_a_kill_between_writing_and_telling_loses_neither_freeze_nor_thaw() -> None:
    async with nodes() as n:
        for what, expected in (
            ("freeze('all', by='root')", [("", "all", "pve1")]),
            ("thaw(by='root')", []),
        ):
            killed_after(n["pve1"], what)
            fresh = Spread(n["pve1"].cluster, Freezes(n["pve1"].store), n["pve1"].told)
            await fresh.now()  # the next start
            assert held(n["pve2"]) == expected


async def test_a_node_with_an_older_pvemcp_is_named_and_nothing_breaks() -> None:
    async with nodes() as n:
        pve1, pve2 = n["pve1"], n["pve2"]
        await pve2.stop()
        asked: list[str] = []

        async def older(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            challenge = Challenge("pve2", b"n" * 32, version=1, oldest=1, pvemcp="0.9")
            await Link(reader, writer).send_object("N", challenge.encoded())
            while frame := await read_frame(reader, "HR"):
                asked.append(frame.kind)
            writer.close()

        tls = pve2.cluster.identity().server
        async with await asyncio.start_server(older, pve2.address, n.port, ssl=tls):
            pve1.freezes.freeze("all", by="root")
            await pve1.spread.now()
        [behind] = pve1.told.behind(pve1.freezes.own())
        assert "pve2 (0.9) is too old to understand this" in behind.behind
        assert asked == []
        assert held(pve1) == [("", "all", "")]


# The whole service, and its command line --------------------------------------------------------


async def test_a_running_service_tells_and_hears_and_shows_it(tmp_path: Path) -> None:
    async with nodes() as n:
        await n["pve1"].stop()
        changes: dict[str, Any] = {"mirror_dir": n["pve1"].mirror, "peer_port": n.port}
        async with web(policy=None, **changes) as w:
            await n.listening("pve1")
            n["pve2"].freezes.freeze("read-only", by="bob")
            await n["pve2"].spread.now()
            seen = await figures(w)
            assert (seen["pvemcp_frozen{}"], seen["pvemcp_frozen_elsewhere{}"]) == (1, 1)
            async with w.client() as client:
                with pytest.raises(ToolFault, match="by bob on pve2"):
                    await client.call("guest_power", guests=106, action="start", wait=0)

            state, blind = w.rig.store.path.parent, tmp_path  # only the service can tell others
            told = await pvemcp(state, blind, n.port, "freeze", "--all")
            assert "What is frozen here is frozen on pve2, too." in told
            assert ("", "all", "pve1") in held(n["pve2"])
            Freezes(w.rig.store).freeze("read-only", by="root")
            await until(lambda: ("", "read-only", "pve1") in held(n["pve2"]))
            await n["pve2"].stop()
            Freezes(w.rig.store).thaw(by="root")

            async def warns() -> bool:
                found = (await checks(w))["freezes"]
                return found["state"] == "warn" and "pve2 does not know" in found["reason"]

            async with asyncio.timeout(20):
                while not await warns():
                    await asyncio.sleep(0.1)
            assert (await figures(w))["pvemcp_freezes_untold{}"] == 1


async def command(n: Nodes, node: str, *words: str) -> str:
    """Run pvemcp on a node, where no service answers, and return what it says."""
    at = n[node]
    return await pvemcp(at.store.path.parent, at.mirror, n.port, *words)


async def pvemcp(state: Path, mirror: Path, port: int, *words: str) -> str:
    """Run a command line."""
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pvemcp", *words,
        env={
            "PVEMCP_STATE_DIR": str(state), "PVEMCP_MIRROR_DIR": str(mirror),
            "PVEMCP_PEER_PORT": str(port), "PATH": "/usr/bin", "HOME": "/nonexistent",
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await run.communicate()
    return told.decode()


async def test_the_command_tells_the_nodes_itself_and_says_who_knows() -> None:
    async with nodes(THREE) as n:
        await n["pve3"].stop()
        told = await command(n, "pve1", "freeze", "--all", "--reason", "look")
        assert held(n["pve2"]) == [("", "all", "pve1")]
        assert "What is frozen here is frozen on pve2, too." in told
        assert "pve3 does not know the freezes of this node: the pvemcp of pve3" in told
        assert "It is told as soon as it answers" in told
        assert "frozen on pve2" in await command(n, "pve1", "freeze", "--status")
        assert "not frozen here, but on pve1" in await command(n, "pve2", "thaw")
        (n["pve1"].mirror / "members.json").rename(n["pve1"].mirror / "away")
        lost = await command(n, "pve1", "freeze", "--all")
        assert "Other nodes are not told: the cluster's nodes are not known" in lost
        assert "pve2 does not know the freezes of this node: the cluster's nodes" in lost
        (n["pve1"].mirror / "away").rename(n["pve1"].mirror / "members.json")
        settings = Settings(state_dir=n["pve1"].store.path.parent)
        found = [check.message for check in check_policy(settings, []) if check.name == "freeze"]
        assert any("pve3 does not know" in text for text in found)

        told = await command(n, "pve2", "thaw", "--here")
        assert told == "Thawed, on this node alone.\n"
        told = await command(n, "pve1", "thaw")
        assert told.startswith("Thawed.\n")
        with Store(n["pve2"].store.path.parent) as store:
            assert store.rows("SELECT * FROM freezes") == []
