"""Commands and files inside a real VM and a real container.

The VM has busybox, the container Debian. What the service does is all real; of Proxmox VE it is the
API that is simulated, and `pct exec` is lxc-attach.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from pvemcp.journal.book import Book
from pvemcp.journal.change import Change
from pvemcp.tools.written import WRITE
from tests.scenarios.rig import Caller, Rig, ToolFault, rig, unmarked
from tests.scenarios.test_guests import a_guest
from tests.scenarios.unboxed import Unboxed

UNICODE = "äöü€🎉"
AWKWARD = 'it\'s "q" $HOME `id` \\n\t*\nend '
MIB5 = random.Random(5).randbytes(5_000_000)  # noqa: S311 - the same each time


@dataclass(frozen=True)
class Real:
    """A real guest, and a client of the service that has it as one of its guests."""

    rig: Rig
    client: Caller
    vmid: int

    async def call(self, tool: str, **arguments: object) -> str:
        return unmarked(await self.client.call(tool, guest=self.vmid, **arguments))

    async def run(self, command: str, **arguments: object) -> str:
        """Run a command, and return what came out of it; it must end with 0."""
        head, _, text = (await self.call("guest_exec", command=command, **arguments)).partition(
            "\n"
        )
        assert head.startswith("exit 0"), f"{head}\n{text}"
        return text

    async def runs(self, what: str) -> int:
        """Return how many processes of the guest have this as their whole command line."""
        listed = (await self.run("ps -eo args")).splitlines()
        return [line.strip() for line in listed].count(what)

    async def until(self, what: str, true: Callable[[int], bool]) -> None:
        async with asyncio.timeout(40):
            while not true(await self.runs(what)):
                await asyncio.sleep(0.1)


@pytest.fixture(params=["vm", "container"])
def guest(request: pytest.FixtureRequest) -> tuple[str, object]:
    """Which real guest, and how it is reached."""
    return request.param, request.getfixturevalue(request.param)


@asynccontextmanager
async def real(guest: tuple[str, object]) -> AsyncIterator[Real]:
    kind, reached = guest
    async with rig() as r:
        vmid = a_guest(r, "qemu" if kind == "vm" else "lxc")
        if kind == "vm":
            r.world.guests[vmid].agent_socket = str(reached)
            r.world.guests[vmid].agent_running = True
        else:
            assert isinstance(r.executor, Unboxed)
            assert isinstance(reached, tuple)
            r.executor.enter = reached
        async with r.client() as client:
            yield Real(r, client, vmid)


async def test_a_command_has_stdin_an_exit_code_and_two_streams(
    guest: tuple[str, object],
) -> None:
    async with real(guest) as g:
        text = await g.call("guest_exec", command="cat; echo err >&2; exit 9", stdin="in\n")
        assert text.startswith("exit 9")
        assert "in\n" in text
        assert text.rstrip().endswith("stderr:\nerr")
        assert await g.run("cat") == "no output"


async def test_it_is_the_real_guest(guest: tuple[str, object]) -> None:
    async with real(guest) as g:
        assert (await g.run("hostname; id -u")).split() == ["real", "0"]


async def test_text_of_any_language_arrives_in_command_stdin_and_output(
    guest: tuple[str, object],
) -> None:
    async with real(guest) as g:
        text = await g.run(f"printf '%s|' '{UNICODE}'; cat; printf '%s' '€%d\\t'", stdin=UNICODE)
        assert text == f"{UNICODE}|{UNICODE}€%d\\t"
        sent = await g.run(f"printf %s '{UNICODE}' | sha256sum; cat | sha256sum", stdin=UNICODE)
        digest = hashlib.sha256(UNICODE.encode()).hexdigest()
        assert [line.split()[0] for line in sent.splitlines()] == [digest, digest]


async def test_every_byte_goes_in_and_comes_out_by_base64(guest: tuple[str, object]) -> None:
    async with real(guest) as g:
        data = bytes(range(256)) * 20
        encoded = base64.b64encode(data).decode()
        text = await g.run("base64 -d | tee /tmp/bytes | base64; rm /tmp/bytes", stdin=encoded)
        assert base64.b64decode(text) == data


async def test_environment_and_folder_may_have_any_characters(guest: tuple[str, object]) -> None:
    async with real(guest) as g:
        folder = f'/tmp/{UNICODE} it\'s "x" $y `z`'
        script = 'printf "%s|%s|" "$PWD" "$A"; printf %s "$B" | wc -c'
        quoted = folder.replace("'", "'\\''")
        await g.run(f"mkdir -p '{quoted}'")
        text = await g.run(script, cwd=folder, env={"A": AWKWARD + UNICODE, "B": "x" * 5000})
        assert text.split("|") == [folder, AWKWARD + UNICODE, "5000"]
        await g.run(f"rmdir '{quoted}'")
        text = await g.call("guest_exec", command="echo never", cwd=folder)
        assert not text.startswith("exit 0")
        assert "never" not in text


async def test_a_time_limit_ends_the_whole_tree(guest: tuple[str, object]) -> None:
    async with real(guest) as g:
        command = "trap '' TERM; (setsid sleep 3131 &); sleep 3131"
        text = await g.call("guest_exec", command=command, timeout=3)
        assert "ended at its time limit" in text
        await g.until("sleep 3131", lambda running: running == 0)


async def test_a_cancelled_call_ends_the_whole_tree(guest: tuple[str, object]) -> None:
    async with real(guest) as g:
        command = "trap '' TERM; (setsid sleep 4141 &); sleep 4141"
        call = asyncio.create_task(g.call("guest_exec", command=command, timeout=100))
        await g.until("sleep 4141", lambda running: running == 2)
        call.cancel()
        await asyncio.wait([call])
        await g.until("sleep 4141", lambda running: running == 0)


async def test_two_commands_run_at_once_and_the_end_of_one_spares_the_other(
    guest: tuple[str, object],
) -> None:
    async with real(guest) as g:
        wait = "i=0; while [ ! -e /tmp/{0} ]; do sleep 0.1; i=$((i+1)); [ $i -lt 300 ]; done"
        first = f"touch /tmp/one; {wait.format('two')}; echo first"
        second = f"touch /tmp/two; {wait.format('one')}; sleep 3; echo second"
        limited, *ended = await asyncio.gather(
            g.call("guest_exec", command="sleep 5151", timeout=1),
            g.run(first),
            g.run(second),
        )
        assert "ended at its time limit" in limited
        assert ended == ["first", "second"]
        await g.run("rm /tmp/one /tmp/two")


@pytest.mark.timeout(300, func_only=True)  # 200 commands in a VM without KVM
async def test_five_megabytes_make_the_round_trip_byte_for_byte(
    guest: tuple[str, object],
) -> None:
    async with real(guest) as g:
        path = '/tmp/it\'s "q" $x — 5 MB'
        for start in range(0, len(MIB5), 700_000):
            content = base64.b64encode(MIB5[start : start + 700_000]).decode()
            await g.call(
                "guest_file_write", path=path, content=content, encoding="base64", append=start > 0
            )
        digest = await g.run('sha256sum < "$F"; ls /tmp | grep -c pvemcp; true', env={"F": path})
        assert digest.split() == [hashlib.sha256(MIB5).hexdigest(), "-", "0"]
        got, more = b"", True
        while more:
            text = await g.call(
                "guest_file_read", path=path, offset=len(got), limit=72_000, encoding="base64"
            )
            head, encoded = text.split("\n", 1)
            assert f"of {len(MIB5)}" in head
            got += base64.b64decode(encoded)
            more = "goes on" in head
        assert got == MIB5
        await g.run('rm "$F"', env={"F": path})


async def test_a_file_of_text_is_written_replaced_and_appended_with_its_mode(
    guest: tuple[str, object],
) -> None:
    async with real(guest) as g:
        path, mode = "/tmp/a file 'of' text", "stat -c %a:%U \"/tmp/a file 'of' text\""
        await g.call("guest_file_write", path=path, content=f"{UNICODE}\n")
        assert UNICODE in await g.call("guest_file_read", path=path)
        await g.call("guest_file_write", path=path, content="new\n", mode="0600")
        assert await g.run(mode) == "600:root"
        await g.call("guest_file_write", path=path, content=f"{UNICODE}\n" * 10_000)
        assert await g.run(mode) == "600:root"
        await g.call("guest_file_write", path=path, content="end", append=True)
        digest = hashlib.sha256((f"{UNICODE}\n" * 10_000 + "end").encode()).hexdigest()
        assert digest in await g.run(f'sha256sum "{path}"; rm "{path}"')


def standing(book: Book) -> list[Change]:
    """Return the files that were written and not taken back, newest first."""
    mine = [change for change in book.list() if change.verb == WRITE]
    return [change for change in mine if not change.undone_by and not change.undoes]


async def test_files_get_their_former_content_again_and_new_ones_go(
    guest: tuple[str, object],
) -> None:
    async with real(guest) as g:
        path, look = "/tmp/settings", "cat /tmp/settings 2>&1"
        book = Book(g.rig.store)
        for content in ("first\n", "second\n", "x" * 60_000):
            await g.call("guest_file_write", path=path, content=content)
        for told in ("second", "first"):
            await g.client.call("change_undo", change=standing(book)[0].id)
            assert await g.run(look) == told
        await g.client.call("change_undo", change=standing(book)[0].id)
        assert "No such file" in await g.run(f"{look}; true")


async def test_what_is_no_file_is_said_to_be_none(guest: tuple[str, object]) -> None:
    async with real(guest) as g:
        for path in ("/tmp/none", "/tmp/keine €"):
            with pytest.raises(ToolFault, match=r"^not_found"):
                await g.call("guest_file_read", path=path)
            with pytest.raises(ToolFault, match=r"^not_found"):
                await g.call("guest_file_write", path=f"{path}/below", content="x", mode="0644")
        with pytest.raises(ToolFault, match=r"folder|directory"):
            await g.call("guest_file_read", path="/tmp")
        assert await g.run("ls /tmp | grep none; true") == "no output"


async def test_what_pve_asks_the_agent_is_answered_by_the_real_one(vm: str) -> None:
    async with real(("vm", vm)) as g:
        path = f"/nodes/{g.rig.world.guests[g.vmid].node}/qemu/{g.vmid}/agent"

        async def get(what: str, **params: object) -> str:
            return await g.client.call("api_read", path=f"{path}/{what}", params=params)

        assert "Debian GNU/Linux" in await get("get-osinfo")
        assert "lo" in await get("network-get-interfaces")
        with pytest.raises(ToolFault, match=r"Agent error: (PID|Invalid)"):
            await get("exec-status", pid=1)
        for program in ("/none", "/etc/passwd"):  # the agent's complaint kills pvedaemon
            with pytest.raises(ToolFault, match=r"596|Broken pipe"):
                await g.client.call(
                    "api_destroy",
                    method="POST",
                    path=f"{path}/exec",
                    params={"command": [program]},
                )
