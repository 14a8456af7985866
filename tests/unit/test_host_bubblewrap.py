"""The sandbox of bubblewrap: what it runs, what it refuses, and what is left after an attack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pvemcp.errors import Fault, Invalid, Unavailable
from pvemcp.host.bubblewrap import Bubblewrap, find
from pvemcp.host.frames import Link
from pvemcp.host.seccomp import program
from pvemcp.running import executor
from pvemcp.settings import Settings
from tests.unit.bubblewrap_attacks import ATTACKS, Attack

SECRET = "canary-of-the-sandbox-7Qm2"
ROOT = os.geteuid() == 0
SHADOW = Path("/etc/shadow").read_bytes().splitlines()[0] if ROOT else b""
REASON = found if isinstance(found := find(), str) else ""
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@dataclass(frozen=True)
class Ran:
    """What a command wrote, and how it ended."""

    out: bytes
    err: bytes
    end: Mapping[str, Any]


async def follow(link: Link) -> Ran:
    """Read a link to its end, and close it."""
    out, err, end = b"", b"", {}
    try:
        async with asyncio.timeout(40):
            while frame := await link.receive():
                match frame.kind:
                    case "O":
                        out += frame.payload
                    case "e":
                        err += frame.payload
                    case "X":
                        end = json.loads(frame.payload)
    finally:
        link.close()
    return Ran(out, err, end)


async def run(box: Bubblewrap, shell: str, *, stdin: bytes = b"", **more: Any) -> Ran:
    link = await box.open({"do": "run", "profile": "read", "shell": shell, **more})
    await link.send_all(stdin)
    return await follow(link)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


VISIBLE = next((one for one in ("/srv", "/opt") if os.access(one, os.W_OK)), None)
"""Where a sandbox sees what the test makes; only root has such a place."""


class World:
    """What an attack could reach: files, secrets, a process, sockets. All of it is the test's."""

    def __init__(self, place: Path) -> None:
        self.canary, self.state, self.home = place / "canary", place / "state", place / "home"
        self.mark = f"31337{os.getpid()}"
        (self.canary / "sub").mkdir(parents=True)
        for name in ("one", "sub/two"):
            (self.canary / name).write_text("intact", "ascii")
        for path in (place, self.canary, *self.canary.rglob("*")):
            path.chmod(0o777)
        for folder in (self.state, self.home):
            folder.mkdir()
            self.hide(folder / "secret")
            (folder / "loose").write_text(SECRET, "ascii")
        if ROOT:
            self.hide(place / "secret")
        self.tree = self.look()
        self.tcp, self.unix, self.abstract = (
            socket.create_server(("127.0.0.1", 0)),
            socket.socket(socket.AF_UNIX),
            socket.socket(socket.AF_UNIX),
        )
        self.unix.bind(str(place / "socket"))
        (place / "socket").chmod(0o777)
        self.abstract.bind(f"\0pvemcp-{self.mark}")
        for one in (self.unix, self.abstract):
            one.listen()
        # Whoever is nobody outside must not reach other processes of nobody.
        drop = ["setpriv", "--reuid=65534", "--clear-groups", "--"] if ROOT else []
        self.victim = subprocess.Popen([*drop, "sleep", "777777"], env={"TOKEN": SECRET})
        self.words = {
            "{place}": str(place),
            "{mark}": self.mark,
            "{victim}": str(self.victim.pid),
            "{port}": str(self.tcp.getsockname()[1]),
        }

    def hide(self, path: Path) -> None:
        path.write_text(SECRET, "ascii")
        path.chmod(0o600)

    def look(self) -> list[tuple[str, int, int, str]]:
        return [
            (str(path), path.lstat().st_mode, path.lstat().st_uid, path.read_text("ascii"))
            if path.is_file()
            else (str(path), path.lstat().st_mode, path.lstat().st_uid, "")
            for path in sorted([self.canary, *self.canary.rglob("*")])
        ]

    def left(self) -> list[str]:
        """The processes that carry the mark."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in path.read_bytes():
                    found.append(str(path))
        return found

    def connected(self) -> list[str]:
        found = []
        for name in ("tcp", "unix", "abstract"):
            listener: socket.socket = getattr(self, name)
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append(name)
        return found

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for one in (self.tcp, self.unix, self.abstract):
            one.close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # Not in /tmp, which no sandbox sees: there it is to be read, and must not be written.
    place = tempfile.mkdtemp(prefix=".sandbox-", dir=VISIBLE)
    made = World(Path(place))
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("PVEMCP_CANARY", SECRET)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(place)


@pytest.fixture
async def box(world: World) -> AsyncIterator[Bubblewrap]:
    made = find(world.state)
    assert isinstance(made, Bubblewrap)
    yield made
    await made.close()


# What it runs


async def test_a_command_has_its_input_its_output_and_its_exit_code(box: Bubblewrap) -> None:
    ran = await run(box, "cat; echo err >&2; exit 7", stdin=b"x" * 200_000)
    assert ran.out == b"x" * 200_000
    assert ran.err == b"err\n"
    assert ran.end["code"] == 7


async def test_a_command_starts_in_tmp_with_a_bare_environment(box: Bubblewrap) -> None:
    ran = await run(
        box,
        "pwd; echo $HOME $LANG $MINE; echo x > /tmp/x && cat /tmp/x; hostname",
        env={"MINE": "yes"},
    )
    hostname = socket.gethostname()
    assert ran.out.decode() == f"/tmp\n/tmp C.UTF-8 yes\nx\n{hostname}\n"
    assert box.place == f"{hostname}, in bubblewrap"
    assert box.node == hostname.partition(".")[0]


async def test_what_the_service_may_read_can_be_read(box: Bubblewrap, world: World) -> None:
    ran = await run(box, f"cat {world.canary}/one; id -u")
    assert ran.out.startswith(b"intact") is (VISIBLE is not None)
    assert (b"65534" in ran.out) is ROOT


async def test_a_terminal_is_one(box: Bubblewrap) -> None:
    link = await box.open(
        {"do": "run", "profile": "read", "tty": {"rows": 33, "columns": 77}, "timeout": 1000}
    )
    await link.send_input(b"stty size; test -t 1 && echo term''inal; exit 4\n", last=False)
    ran = await follow(link)
    assert b"33 77" in ran.out
    assert b"terminal" in ran.out
    assert ran.end["code"] == 4


async def test_operations_that_only_read_run(box: Bubblewrap) -> None:
    ask = {"do": "operation", "name": "packages", "params": {"name": "dpkg"}}
    ran = await follow(await box.open(ask))
    assert "code" in ran.end
    assert "[operations.packages]" in await box.allowed()


async def test_a_command_that_is_too_slow_is_ended(box: Bubblewrap, world: World) -> None:
    ran = await run(box, f"trap '' TERM; sleep {world.mark}; sleep {world.mark}", timeout=0.2)
    assert ran.end["why"] == "timeout"
    await box.close()
    assert world.left() == []


# What it refuses


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        ({"do": "run", "profile": "change", "shell": "id"}, Unavailable),
        ({"do": "run", "profile": "root", "shell": "id"}, Unavailable),
        ({"do": "run", "shell": "id"}, Unavailable),
        ({"do": "job", "profile": "read", "shell": "id"}, Unavailable),
        ({"do": "operation", "name": "qm-list"}, Unavailable),
        ({"do": "operation", "name": "describe"}, Unavailable),
        ({"do": "operation", "name": "guest-exec", "params": {}}, Unavailable),
        ({"do": "operation", "name": "no-such"}, Invalid),
        ({"do": "operation", "name": "packages", "params": {"name": "-W"}}, Invalid),
        ({"do": "run", "profile": "read", "shell": "id", "timeout": 1e6}, Invalid),
    ],
)
async def test_what_needs_the_helper_is_refused(
    box: Bubblewrap, request_: dict[str, Any], fault: type[Fault]
) -> None:
    with pytest.raises(fault) as refused:
        await box.open(request_)
    if fault is Unavailable:
        assert "needs the root helper" in refused.value.message
        assert refused.value.hint == "Install the package on the PVE host."


def test_the_settings_say_where_commands_run(tmp_path: Path) -> None:
    here = Settings(helper_socket=tmp_path / "none", state_dir=tmp_path)
    assert executor(here).place.endswith("in bubblewrap")
    away = Settings(helper_socket=tmp_path / "none", pve_url="https://pve1:8006")
    assert executor(away).place == "nowhere"


def test_there_is_no_sandbox_without_its_filter() -> None:
    assert len(program("x86_64")) == len(program("aarch64"))
    with pytest.raises(LookupError):
        program("vax")


# Attacks


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
async def test_an_attack_leaves_nothing(box: Bubblewrap, world: World, attack: Attack) -> None:
    command = attack.command
    for name, value in world.words.items():
        command = command.replace(name, value)
    ran = await run(box, f"{command}\necho tried", timeout=2)
    await box.close()
    assert ran.out.endswith(b"tried\n") or attack.bomb
    assert SECRET.encode() not in ran.out + ran.err
    assert world.look() == world.tree
    assert world.victim.poll() is None
    assert world.connected() == []
    assert world.left() == []
    for said in attack.never:
        assert said.encode() not in ran.out


@pytest.mark.skipif(not ROOT, reason="only root can read /etc/shadow")
async def test_a_service_of_root_does_not_lend_its_rights(box: Bubblewrap, world: World) -> None:
    ran = await run(box, f"cat /etc/shadow* /proc/1/root/etc/shadow {world.canary}/../secret; id")
    assert SHADOW not in ran.out
    assert ran.out.startswith(b"uid=65534")


SERVICE = """
import asyncio, sys
from pvemcp.host.bubblewrap import find
async def main():
    box = find()
    link = await box.open({"do": "run", "profile": "read", "shell": sys.argv[1]})
    await link.send_input(b"", last=True)
    while frame := await link.receive():
        sys.stdout.buffer.write(frame.payload if frame.kind == "O" else b"")
    link.close()
    await box.close()
asyncio.run(main())
"""
PUSH = """
for t in /dev/tty /dev/pts/* /proc/[0-9]*/fd/*; do
python3 - $t <<'END'
import fcntl, os, sys
for way in (os.O_RDWR, os.O_WRONLY):
    try:
        fd = os.open(sys.argv[1], way | os.O_NONBLOCK)
        os.isatty(fd) and os.write(fd, b"pwned")
        for letter in b"pwned\\n":
            fcntl.ioctl(fd, 0x5412, bytes([letter]))
    except OSError:
        pass
END
done; echo tried
"""


async def test_the_terminal_of_the_service_is_out_of_reach() -> None:
    master, slave = pty.openpty()
    try:
        ran = await asyncio.to_thread(
            subprocess.run,
            ["setsid", "--ctty", "--wait", sys.executable, "-c", SERVICE, PUSH],
            stdin=slave,
            capture_output=True,
            check=True,
            timeout=40,
        )
        assert ran.stdout.endswith(b"tried\n")
        os.set_blocking(master, False)
        with contextlib.suppress(OSError):
            assert os.read(master, 4096) == b""
    finally:
        os.close(master)
        os.close(slave)


# Ends


async def appears(world: World, *, there: bool) -> None:
    """Wait until processes with the mark are there, or gone."""
    async with asyncio.timeout(20):
        while bool(world.left()) is not there:
            await asyncio.to_thread(os.sched_yield)


async def test_closing_the_link_ends_what_has_stopped_its_keeper(
    box: Bubblewrap, world: World
) -> None:
    shell = f"kill -STOP $PPID; setsid sleep {world.mark} & exec sleep {world.mark}"
    link = await box.open({"do": "run", "profile": "read", "shell": shell})
    await appears(world, there=True)
    link.close()
    await box.close()
    assert world.left() == []


async def test_nothing_outlives_a_service_that_is_killed(world: World) -> None:
    shell = f"setsid sleep {world.mark} & sleep {world.mark}"
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, f"true; {shell}")
    # The service's own command line has the mark, and goes with it.
    async with asyncio.timeout(20):
        while len(world.left()) < 4:
            await asyncio.to_thread(os.sched_yield)
    service.kill()
    await service.wait()
    await appears(world, there=False)


async def test_closing_the_executor_ends_everything(box: Bubblewrap, world: World) -> None:
    links = [
        await box.open({"do": "run", "profile": "read", "shell": f"echo; sleep {world.mark}"})
        for _ in range(3)
    ]
    for link in links:
        while (frame := await link.receive()) and frame.kind != "O":
            pass
    assert world.left()
    await box.close()
    assert world.left() == []
    assert [await link.receive() for link in links] == [None] * 3


async def test_twenty_run_at_once_and_leave_no_descriptor(box: Bubblewrap, world: World) -> None:
    before = open_descriptors()
    ran = await asyncio.gather(*(run(box, f"echo {n} > /tmp/n; cat /tmp/n") for n in range(20)))
    assert [int(one.out) for one in ran] == list(range(20))
    await box.close()
    assert open_descriptors() == before
