"""Commands over SSH: a real sshd on loopback, and behind it a Unix socket in the helper's place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pvemcp.errors import Fault, Misconfigured, Unavailable
from pvemcp.host.frames import HEADER
from pvemcp.host.ssh import Door, Ssh
from tests.scenarios.unboxed import EXEC, FOLDER

SSHD = Path("/usr/sbin/sshd")
pytestmark = pytest.mark.skipif(
    not SSHD.exists() or os.geteuid() != 0,
    reason="needs Debian's openssh-server, and root to run it",
)


@dataclass
class Far:
    """The far side: sshd, and who serves the socket."""

    door: Door
    folder: Path
    sshd: subprocess.Popen[bytes]
    connections: int = 0

    def serve_sshd(self, *lines: str) -> None:
        """Start sshd anew with these settings."""
        self.stop()
        config = self.folder / "sshd_config"
        config.write_text(
            "\n".join(
                [
                    f"Port {self.door.port}", "ListenAddress 127.0.0.1", "UsePAM no",
                    f"HostKey {self.folder}/host_key", "PidFile none", "StrictModes no",
                    f"AuthorizedKeysFile {self.folder}/authorized_keys", "MaxSessions 50",
                    "PermitRootLogin prohibit-password", "PasswordAuthentication no", *lines,
                ]
            )
        )  # fmt: skip
        argv = [str(SSHD), "-D", "-e", "-f", str(config)]
        self.sshd = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.door.port)) == 0:
                    return

    def stop(self) -> None:
        """End sshd, and the connections that it holds."""
        subprocess.run(["pkill", "-P", str(self.sshd.pid)], check=False)
        self.sshd.kill()
        self.sshd.wait()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host_key", "key", "other_key"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(keygen, check=True)
    public = (tmp_path / "key.pub").read_text()
    (tmp_path / "authorized_keys").write_text(f"restrict,port-forwarding {public}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host_key = " ".join((tmp_path / "host_key.pub").read_text().split()[:2])
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    door = Door(
        "127.0.0.1", "root", port, tmp_path / "key", tmp_path / "known_hosts", tmp_path / "h.sock"
    )
    made = Far(door, tmp_path, subprocess.Popen(["true"]))
    made.serve_sshd()
    yield made
    made.stop()


@asynccontextmanager
async def helper(far: Far) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Serve the socket as the root helper would, but for the sandbox."""
    running: list[asyncio.subprocess.Process] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, size = HEADER.unpack(await reader.readexactly(HEADER.size))
        request = json.loads(await reader.readexactly(size))
        spec: dict[str, Any] = {"timeout": 20, "output": 1 << 20, "env": {}}
        described = request.get("name") == "describe"
        spec["shell"] = f"cat {EXEC}" if described else request["shell"]
        argv = ["/usr/bin/python3", "-I", "-S", str(FOLDER / "inside.py")]
        process = await asyncio.create_subprocess_exec(*argv, stdin=-1, stdout=-1)
        running.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        text = json.dumps(spec).encode()
        process.stdin.write(HEADER.pack(b"R", len(text)) + text)

        async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                to.write(data)
            to.close()

        await asyncio.gather(pump(reader, process.stdin), pump(process.stdout, writer))
        await process.wait()

    server = await asyncio.start_unix_server(serve, far.door.socket)
    async with server:
        yield running


async def run(ssh: Ssh, shell: str, stdin: bytes = b"") -> tuple[str, str]:
    link = await ssh.open({"do": "run", "profile": "read", "shell": shell, "timeout": 10})
    try:
        await link.send_input(stdin, last=True)
        text = ""
        while frame := await link.receive():
            if frame.kind == "X":
                return text, frame.payload.decode()
            text += frame.payload.decode()
        return text, "vanished"
    finally:
        link.close()


async def test_commands_run_by_the_helper_of_the_other_host(far: Far) -> None:
    ssh = Ssh(far.door)
    async with helper(far):
        await ssh.ready()
        assert ssh.node == socket.gethostname().partition(".")[0]
        text, end = await run(ssh, "cat; echo err >&2; exit 7", b"input\n")
        assert "input" in text
        assert '"code": 7' in end
        assert "[profiles.read]" in await ssh.allowed()
        await ssh.close()


async def test_twenty_at_once_share_one_connection_which_is_made_again_when_it_dies(
    far: Far,
) -> None:
    ssh = Ssh(far.door)
    async with helper(far):
        found = await asyncio.gather(*(run(ssh, f"echo {n}; sleep 0.2") for n in range(20)))
        assert [text for text, _ in found] == [f"{n}\n" for n in range(20)]
        assert _connections(far) == 1
        far.serve_sshd()
        for _ in range(20):
            with contextlib.suppress(Unavailable):
                text, _ = await run(ssh, "echo again")
                break
        assert text == "again\n"
        await ssh.close()


def _connections(far: Far) -> int:
    argv = ["ss", "-Htn", "state", "established", f"( dport = :{far.door.port} )"]
    return len(subprocess.run(argv, capture_output=True, check=True).stdout.splitlines())


async def test_closing_the_link_ends_the_command(far: Far) -> None:
    ssh = Ssh(far.door)
    async with helper(far) as running:
        link = await ssh.open({"do": "run", "profile": "read", "shell": "sleep 60", "timeout": 100})
        await link.send_input(b"", last=True)
        async with asyncio.timeout(20):
            while not running:
                await asyncio.sleep(0.01)
            link.close()
            await running[0].wait()
        await ssh.close()


@pytest.mark.parametrize(
    ("spoil", "kind", "what"),
    [
        ("unknown", Misconfigured, "the host key of"),
        ("changed", Misconfigured, "the host key of"),
        ("other key", Misconfigured, "does not let root in"),
        ("forbidden", Misconfigured, "AllowStreamLocalForwarding"),
        ("no socket", Misconfigured, "systemctl status pvemcp-helper.socket"),
        ("stopped", Unavailable, "cannot be reached by SSH"),
        ("no key", Unavailable, "No such file"),
    ],
)
async def test_what_is_wrong_is_said_with_its_repair(
    far: Far, spoil: str, kind: type[Fault], what: str
) -> None:
    door = far.door
    other = far.folder / "other_key"
    match spoil:
        case "unknown":
            door.known_hosts.write_text("")
        case "changed":
            key = " ".join(other.with_suffix(".pub").read_text().split()[:2])
            door.known_hosts.write_text(f"[127.0.0.1]:{door.port} {key}\n")
        case "other key":
            door = replace(door, key=other)
        case "forbidden":
            far.serve_sshd("AllowStreamLocalForwarding no")
        case "no socket":
            door = replace(door, socket=far.folder / "none.sock")
        case "stopped":
            far.stop()
        case "no key":
            door = replace(door, key=far.folder / "none")
    ssh = Ssh(door)
    async with helper(far), asyncio.timeout(15):
        with pytest.raises(kind) as error:
            await run(ssh, "true")
        assert what in str(error.value)
        await ssh.close()
