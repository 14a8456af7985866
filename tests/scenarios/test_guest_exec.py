"""Commands inside guests. Their programs are this machine's (inner.py)."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pvemcp.access.approvals import Person
from pvemcp.access.policy import Policy
from pvemcp.call import Effect
from pvemcp.tools.posix import ascii_only
from tests.scenarios.inner import Inner
from tests.scenarios.rig import ERAS, Caller, Rig, ToolFault, rig, unmarked
from tests.scenarios.test_approvals import id_in, refused
from tests.scenarios.test_guests import a_guest
from tests.scenarios.test_host import unboxed, until

KINDS = ("qemu", "lxc")
RUN = os.getpid()
"""Makes the commands of this run of the tests others than those of a run beside it."""


@dataclass
class Place:
    """A guest that runs, and a client that works it."""

    rig: Rig
    client: Caller
    vmid: int
    inner: Inner

    async def call(self, tool: str, **arguments: object) -> str:
        return unmarked(await self.client.call(tool, guest=self.vmid, **arguments))


@asynccontextmanager
async def place(
    kind: str, *, era: str = ERAS[-1], ceiling: Effect = Effect.DESTROY, role: str = ""
) -> AsyncIterator[Place]:
    inner = Inner()
    try:
        async with rig() as r:
            vmid = a_guest(r, kind)
            r.world.guests[vmid].system = inner
            r.world.guests[vmid].agent_running = True
            token = r.world.token("someone@pve", roles={"/": role}) if role else None
            async with r.client(era=era, ceiling=ceiling, token=token) as client:
                yield Place(r, client, vmid, inner)
    finally:
        inner.close()  # after the simulator, which may have a request in hand


def running(what: str) -> bool:
    found = subprocess.run(["pgrep", "-fx", what], capture_output=True, check=False).stdout
    return bool(found)


def end(what: str) -> None:
    subprocess.run(["pkill", "-fx", what], check=False)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_in_a_guest_shows_its_exit_code_and_streams(kind: str, era: str) -> None:
    async with place(kind, era=era) as p:
        command = "cat; echo err >&2; exit 9"
        text = await p.call("guest_exec", command=command, stdin="in ü\n")
        assert text.splitlines()[0].startswith("exit 9")
        assert f"{kind}/{p.vmid}" in text
        assert "in ü" in text
        assert "stderr:\nerr" in text


@pytest.mark.parametrize("kind", KINDS)
async def test_text_of_any_language_arrives_as_it_is_and_stays_ascii_on_the_way(kind: str) -> None:
    async with place(kind) as p:
        word = "äöü €🎉 %s \\n 'q' \"d\" $HOME `id`"
        text = await p.call(
            "guest_exec",
            command="pwd; printf '%s\\n' \"$WORD\" '€\\t%d'",
            env={"WORD": word},
            cwd="/usr",
        )
        assert text.split("\n", 1)[1] == f"/usr\n{word}\n€\\t%d"
        assert all(part.isascii() for argv in p.inner.started for part in argv)


def test_a_script_in_ascii_does_the_same() -> None:
    script = "printf '%s|' 'ü' \"a'b\" 'x\\\\y' '100%' \"$1\"\necho end # €"
    for made in (script, ascii_only(script)):
        done = subprocess.run(["/bin/sh", "-c", made, "sh", "one"], capture_output=True, check=True)
        assert done.stdout.decode() == "ü|a'b|x\\\\y|100%|one|end\n"
    assert ascii_only(script).isascii()


async def test_windows_gets_powershell() -> None:
    async with place("qemu") as p:
        p.rig.world.guests[p.vmid].config["ostype"] = "win11"
        p.rig.world.touch()
        with pytest.raises(ToolFault):
            await p.call("guest_exec", command="Get-Item 'ü'", cwd="C:\\Users", env={"A": "it's"})
        (argv,) = p.rig.world.guests[p.vmid].system.started  # type: ignore[union-attr]
        assert argv[0] == "powershell.exe"
        script = base64.b64decode(argv[-1]).decode("utf-16-le")
        assert "Set-Location -LiteralPath 'C:\\Users'" in script
        assert "$env:A='it''s'" in script
        assert "\nGet-Item 'ü'\n" in script


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["PVEAuditor", "PVEVMUser"])
async def test_a_token_without_the_right_runs_nothing_in_guests(kind: str, role: str) -> None:
    async with place(kind, role=role) as p:
        with pytest.raises(ToolFault, match=r"denied.*VM\.GuestAgent"):
            await p.call("guest_exec", command="true")
        if role == "PVEAuditor":  # PVEVMUser has the right to write files
            with pytest.raises(ToolFault, match=r"denied.*VM\.GuestAgent"):
                await p.call("guest_file_write", path="/tmp/x", content="x")
        assert p.inner.started == []


async def test_a_grant_below_destroy_is_not_offered_commands_in_guests() -> None:
    async with place("qemu", ceiling=Effect.CHANGE) as p:
        names = {tool.name for tool in (await p.client.mcp.list_tools()).tools}
        assert {"guest_exec", "guest_file_write"}.isdisjoint(names)
        assert "guest_file_read" in names
        with pytest.raises(ToolFault, match="denied"):
            await p.call("guest_exec", command="true")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"command": "a\0b"}, "NUL"),
        ({"command": "true", "env": {"A B": "c"}}, "cannot name a variable"),
        ({"command": "x" * 200_000}, "characters"),
        ({"command": "cat", "stdin": "x" * 70_000}, "guest agent takes"),
    ],
)
async def test_what_a_guest_cannot_take_is_refused_in_words(
    arguments: dict[str, object], what: str
) -> None:
    async with place("qemu") as p:
        with pytest.raises(ToolFault, match=f"invalid.*{what}"):
            await p.call("guest_exec", **arguments)
        assert p.inner.started == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_guest_that_does_not_run_is_said_to(kind: str) -> None:
    async with rig() as r, r.client() as client:
        for tool, more in (
            ("guest_exec", {"command": "true"}),
            ("guest_file_read", {"path": "/etc/hostname"}),
        ):
            with pytest.raises(ToolFault, match="Start it first"):
                await client.call(tool, guest=a_guest(r, kind, running=False), **more)


async def test_a_container_of_another_node_is_left_to_its_own_pvemcp() -> None:
    async with place("lxc") as p:
        p.rig.executor.node = "elsewhere"  # type: ignore[misc]
        with pytest.raises(ToolFault, match="Use the pvemcp of"):
            await p.call("guest_exec", command="true")


async def test_a_command_leads_a_session_of_its_own() -> None:
    async with place("qemu") as p:
        text = await p.call("guest_exec", command="cut -d' ' -f5,6 /proc/self/stat; echo $$")
        group, pid = text.split("\n")[1:]
        assert group == f"{pid} {pid}"
        assert int(pid) != os.getsid(0)


async def test_an_agent_that_is_silent_for_a_while_does_not_lose_the_command() -> None:
    async with place("qemu") as p:
        call = asyncio.create_task(p.call("guest_exec", command="sleep 0.6; echo done"))
        await until(lambda: p.inner.runs)
        p.rig.world.guests[p.vmid].agent_running = False
        asked = p.rig.asked()
        await until(lambda: p.rig.asked() > asked + 2)
        p.rig.world.guests[p.vmid].agent_running = True
        assert "done" in await call


async def test_a_result_that_is_lost_is_said_to_be(era: str) -> None:
    async with place("qemu", era=era) as p:
        call = asyncio.create_task(p.call("guest_exec", command=f"sleep 7171.{RUN}"))
        await until(lambda: p.inner.runs and running(f"sleep 7171.{RUN}"))
        runs, p.inner.runs = p.inner.runs, {}
        with pytest.raises(ToolFault, match=r"uncertain: .*does not know it any more"):
            await call
        p.inner.runs = runs
        end(f"sleep 7171.{RUN}")


@pytest.mark.parametrize("kind", KINDS)
async def test_an_end_that_the_guest_does_not_confirm_is_said_to_be_unsure(kind: str) -> None:
    async with place(kind) as p:
        call = asyncio.create_task(p.call("guest_exec", command=f"sleep 8181.{RUN}", timeout=1))
        await until(lambda: p.inner.runs or unboxed(p.rig).asked)
        await until(lambda: running(f"sleep 8181.{RUN}"))
        if kind == "qemu":
            p.rig.world.guests[p.vmid].agent_running = False
        else:
            unboxed(p.rig).enter = ("false",)
            await until(lambda: len(unboxed(p.rig).asked) == 2)
            end(f"sleep 8181.{RUN}")
        assert "the guest has not confirmed its end" in await call
        end(f"sleep 8181.{RUN}")


async def test_a_signal_is_named() -> None:
    async with place("qemu") as p:
        text = await p.call("guest_exec", command="kill -SEGV $$")
        assert text.startswith("killed by SIGSEGV")


async def test_why_the_helper_refuses_a_container_is_told() -> None:
    async with place("lxc") as p:
        said = "echo 'pvemcp: container 102 is privileged' >&2; exit 125"
        unboxed(p.rig).enter = ("/bin/sh", "-c", said)
        with pytest.raises(ToolFault, match="denied: container 102 is privileged"):
            await p.call("guest_exec", command="true")
        unboxed(p.rig).enter = ()
        text = await p.call("guest_exec", command="echo mine >&2; exit 125")
        assert text.startswith("exit 125")


async def test_a_token_of_pve_8_enters_containers_with_its_one_privilege() -> None:
    async with place("lxc") as p:
        p.rig.world.add_role("Agent8", "VM.Audit", "VM.Monitor")
        token = p.rig.world.token("eight@pve", roles={"/vms": "Agent8"})
        async with p.rig.client(token=token) as client:
            text = await client.call("guest_exec", guest=p.vmid, command="echo in")
            assert unmarked(text).endswith("\nin")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    ["; touch gone", "$(touch gone)", "`touch gone`", "'; touch gone; '", '"; touch gone; "',
     "a\n touch gone", "-rf", "\\' touch gone #", "%s\\000", "\t x \x01"],
)  # fmt: skip
async def test_no_folder_or_variable_becomes_a_command(
    kind: str, text: str, tmp_path: Path
) -> None:
    folder = tmp_path / f"x{text}".replace("/", "_")
    folder.mkdir()
    async with place(kind) as p:
        found = await p.call(
            "guest_exec",
            command='printf "%s|" "$PWD" "$V" | base64 -w0',
            cwd=str(folder),
            env={"V": text},
        )
        shown = base64.b64decode(found.split("\n", 1)[1]).decode()
        assert shown == f"{folder}|{text}|"
    assert os.listdir(tmp_path) == [folder.name]  # noqa: PTH208
    assert os.listdir(folder) == []  # noqa: PTH208


@pytest.mark.parametrize("kind", KINDS)
async def test_stdin_takes_any_character(kind: str) -> None:
    async with place(kind) as p:
        stdin = "\0\x01\x1b\x7f\x80\xff\r\n€🎉"
        text = await p.call("guest_exec", command="base64 -w0", stdin=stdin)
        assert base64.b64decode(text.split("\n", 1)[1]).decode() == stdin


@pytest.mark.parametrize("kind", KINDS)
async def test_a_folder_that_is_not_there_ends_the_command(kind: str) -> None:
    async with place(kind) as p:
        text = await p.call("guest_exec", command="echo ran", cwd="/none-such")
        assert text.startswith("exit 126")
        assert "\nran" not in text


async def test_a_number_names_the_guest_with_that_id_whatever_others_are_called() -> None:
    async with place("qemu") as p:
        other = a_guest(p.rig, "lxc")
        p.rig.world.guests[other].config["hostname"] = str(p.vmid)
        p.rig.world.touch()
        assert f"(qemu/{p.vmid} " in await p.call("guest_exec", command="true")


async def test_nothing_runs_in_a_paused_vm_or_a_template() -> None:
    async with place("qemu") as p:
        p.rig.world.guests[p.vmid].paused = True
        with pytest.raises(ToolFault, match=r"conflict: .* is paused.*\n.*resumes it"):
            await p.call("guest_exec", command="true")
        template = next(g.vmid for g in p.rig.world.guests.values() if g.template)
        with pytest.raises(ToolFault, match="is a template"):
            await p.client.call("guest_exec", guest=template, command="true")
        assert p.inner.started == []


async def test_text_beyond_ascii_counts_as_it_is_sent() -> None:
    async with place("qemu") as p:
        with pytest.raises(ToolFault, match=r"invalid.*characters"):
            await p.call("guest_exec", command="echo " + "ü" * 15_000)
        with pytest.raises(ToolFault, match=r"invalid.*surrogate"):
            await p.call("guest_exec", command="echo \ud800")
        assert p.inner.started == []


async def test_every_command_in_a_guest_is_in_the_audit() -> None:
    async with place("qemu") as p:
        await p.call("guest_exec", command="true")
        steps = p.rig.audit()[-1].steps
        assert ("POST", "destroy") in {(step["verb"], step["effect"]) for step in steps}


async def test_output_beyond_what_pve_can_answer_is_said_to_be_lost() -> None:
    async with place("qemu") as p:
        with pytest.raises(ToolFault, match="wrote more than an answer"):
            await p.call("guest_exec", command="head -c 12000000 /dev/zero")


@pytest.mark.parametrize("kind", KINDS)
async def test_an_approved_command_runs_once_when_the_call_is_repeated(kind: str) -> None:
    async with place(kind) as p, p.rig.client(policy=Policy()) as client:
        call = {"guest": p.vmid, "command": "echo approved"}
        id_ = id_in(await refused(client, "guest_exec", **call))
        assert "echo approved" in p.rig.approvals.get(id_).text
        p.rig.approvals.approve(id_, Person("root", "host"))
        assert "approved" in await client.call("guest_exec", **call, approval=id_)
        assert "was used already" in await refused(client, "guest_exec", **call, approval=id_)
