"""Commands and files inside guests. Their programs and files are this machine's (inner.py)."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pvemcp.call import Effect
from pvemcp.redaction import MASK
from pvemcp.tools.agent import ascii_only, killer
from tests.scenarios.inner import Inner
from tests.scenarios.rig import ERAS, Caller, Rig, ToolFault, rig
from tests.scenarios.test_guests import a_guest
from tests.scenarios.test_host import until

KINDS = ("qemu", "lxc")


@dataclass
class Place:
    """A guest that runs, and a client that works it."""

    rig: Rig
    client: Caller
    vmid: int
    inner: Inner

    async def call(self, tool: str, **arguments: object) -> str:
        return await self.client.call(tool, guest=self.vmid, **arguments)


@asynccontextmanager
async def place(
    kind: str, *, era: str = ERAS[-1], ceiling: Effect = Effect.DESTROY, role: str = ""
) -> AsyncIterator[Place]:
    async with rig() as r:
        vmid, inner = a_guest(r, kind), Inner()
        r.world.guests[vmid].system = inner
        r.world.guests[vmid].agent_running = True
        token = r.world.token("someone@pve", roles={"/": role}) if role else None
        async with r.client(era=era, ceiling=ceiling, token=token) as client:
            yield Place(r, client, vmid, inner)
        inner.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_in_a_guest_shows_its_exit_code_and_streams(kind: str, era: str) -> None:
    async with place(kind, era=era) as p:
        text = await p.call("guest_exec", command="cat; echo err >&2; exit 9", stdin="in ü\n")
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


@pytest.mark.parametrize("kind", KINDS)
async def test_a_time_limit_ends_the_whole_tree_in_the_guest(kind: str) -> None:
    async with place(kind) as p:
        command = "trap '' TERM; (setsid sleep 3131 &) ; sleep 3132"
        text = await p.call("guest_exec", command=command, timeout=1)
        assert "ended at its time limit" in text
        await until(lambda: not _running("sleep 313"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_ends_the_whole_tree_in_the_guest(kind: str) -> None:
    async with place(kind) as p:
        command = "(setsid sleep 4141 &) ; sleep 4142"
        call = asyncio.create_task(p.call("guest_exec", command=command, timeout=100))
        await until(lambda: _running("sleep 4142"))
        call.cancel()
        await asyncio.wait([call])
        await until(lambda: not _running("sleep 414"))


def _running(what: str) -> bool:
    found = subprocess.run(["pgrep", "-f", f"^{what}"], capture_output=True, check=False).stdout
    return bool(found)


def test_the_killer_spares_what_is_not_the_calls() -> None:
    mine = subprocess.Popen(["sleep", "50"], env={**os.environ, "PVEMCP_CALL": "c1"})
    other = subprocess.Popen(["sleep", "50"], env={**os.environ, "PVEMCP_CALL": "c12"})
    try:
        subprocess.run(["/bin/sh", "-c", killer("c1")], check=True)
        assert mine.wait(10) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


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
        assert script.endswith("Get-Item 'ü'")


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
        ({"command": "x" * 100_000}, "characters"),
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


# Files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["plain", "with space", 'it\'s "q" $x', "ünï€", "-dash"])
async def test_a_large_file_makes_the_round_trip_byte_for_byte(
    kind: str, name: str, tmp_path: Path
) -> None:
    data = random.Random(7).randbytes(1_000_000)  # noqa: S311 - the same each time
    path = tmp_path / name
    async with place(kind) as p:
        for start in range(0, len(data), 500_000):
            content = base64.b64encode(data[start : start + 500_000]).decode()
            text = await p.call(
                "guest_file_write",
                path=str(path),
                content=content,
                encoding="base64",
                append=start > 0,
            )
            assert "500000 bytes" in text
        assert path.read_bytes() == data
        got = b""
        for _ in range(20):
            text = await p.call(
                "guest_file_read", path=str(path), offset=len(got), limit=72_000, encoding="base64"
            )
            head, encoded = text.split("\n", 1)
            got += base64.b64decode(encoded)
            if "goes on" not in head:
                break
        assert got == data
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_is_replaced_with_its_mode_kept_or_set(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old")
    path.chmod(0o640)
    async with place(kind) as p:
        await p.call("guest_file_write", path=str(path), content="ü new\n" * 20_000)
        assert path.read_text() == "ü new\n" * 20_000
        assert path.stat().st_mode & 0o777 == 0o640
        await p.call("guest_file_write", path=str(path), content="x", mode="0600")
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("x", 0o600)
        await p.call("guest_file_write", path=str(path), content="y", append=True)
        assert path.read_text() == "xy"


@pytest.mark.parametrize("kind", KINDS)
async def test_missing_files_folders_and_odd_paths_are_told_apart(
    kind: str, tmp_path: Path
) -> None:
    async with place(kind) as p:
        for path, what in (
            (str(tmp_path / "none"), "No such file|no file"),
            ("relative", "not absolute"),
            ("/a\0b", "NUL"),
        ):
            with pytest.raises(ToolFault, match=what):
                await p.call("guest_file_read", path=path)
        with pytest.raises(ToolFault, match=r"folder|Is a directory"):
            await p.call("guest_file_read", path=str(tmp_path))
        with pytest.raises(ToolFault, match="folder"):
            await p.call("guest_file_write", path=str(tmp_path), content="x", append=True)


async def test_what_was_masked_is_not_written_back(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("DB_PASSWORD=hunter2hunter2\n")
    async with place("qemu") as p:
        text = await p.call("guest_file_read", path=str(path))
        assert "hunter2" not in text
        assert MASK in text
        with pytest.raises(ToolFault, match="would destroy the secret"):
            await p.call("guest_file_write", path=str(path), content=text)
    assert path.read_text() == "DB_PASSWORD=hunter2hunter2\n"


async def test_what_is_no_utf_8_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"a\xffb")
    async with place("qemu") as p:
        text = await p.call("guest_file_read", path=str(path))
        assert "not all of it is UTF-8" in text
        assert text.endswith("a\\xffb")


async def test_a_grant_to_read_reads_what_pve_gives_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (17 << 20))
    async with place("qemu", ceiling=Effect.READ) as p:
        assert "of 16777216" in await p.call("guest_file_read", path=str(path))
        with pytest.raises(ToolFault, match="needs the effect destroy"):
            await p.call("guest_file_read", path=str(path), offset=(16 << 20) + 5)
        assert p.inner.started == []
    async with place("qemu") as p:
        text = await p.call("guest_file_read", path=str(path), offset=(16 << 20) + 5, limit=10)
        assert "of 17825792" in text
