"""Commands over SSH: a real sshd on loopback, and behind it a Unix socket in the helper's place."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pvemcp.errors import Fault, Misconfigured, Unavailable
from pvemcp.host.frames import Link
from pvemcp.host.ssh import Door, Ssh
from tests.unit.stand_in_helper import DESCRIBE, node, serving

SSHD = Path("/usr/sbin/sshd")
pytestmark = pytest.mark.skipif(not SSHD.exists(), reason="needs Debian's openssh-server")
AT_ONCE = 20


@dataclass
class Far:
    """The far side: sshd, and what it wrote."""

    door: Door
    folder: Path
    sshd: subprocess.Popen[bytes] | None = None

    def serve_sshd(self, *lines: str) -> None:
        """Start sshd anew with these settings, which win over those below."""
        self.stop()
        config = self.folder / "sshd_config"
        config.write_text(
            "\n".join(
                [
                    *lines, f"Port {self.door.port}", "ListenAddress 127.0.0.1", "UsePAM no",
                    f"HostKey {self.folder}/host_key", "PidFile none", "StrictModes no",
                    f"AuthorizedKeysFile {self.folder}/authorized_keys", "LogLevel DEBUG1",
                    "PermitRootLogin prohibit-password", "PasswordAuthentication no",
                ]
            )
        )  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=log)
        while self.sshd.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.door.port)) == 0:
                    return
        raise AssertionError(self.log)

    def stop(self) -> None:
        """End sshd, and the connections that it holds."""
        if self.sshd is not None:
            subprocess.run(["pkill", "-KILL", "-P", str(self.sshd.pid)], check=False)
            self.sshd.kill()
            self.sshd.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def trust(self, key: str) -> None:
        """Make this key (a file's name) the one that known_hosts has for the host."""
        words = (self.folder / f"{key}.pub").read_text().split()[:2]
        self.door.known_hosts.write_text(f"[127.0.0.1]:{self.door.port} {' '.join(words)}\n")


def keygen(path: Path, passphrase: str = "") -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(argv, check=True)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host_key", "key", "other_key"):
        keygen(tmp_path / name)
    public = (tmp_path / "key.pub").read_text()
    (tmp_path / "authorized_keys").write_text(f"restrict,port-forwarding {public}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key, known, there = tmp_path / "key", tmp_path / "known_hosts", tmp_path / "h.sock"
    user = pwd.getpwuid(os.geteuid()).pw_name
    made = Far(Door("127.0.0.1", user, port, key, known, there), tmp_path)
    made.trust("host_key")
    made.serve_sshd()
    yield made
    made.stop()


async def start(ssh: Ssh, shell: str) -> Link:
    return await ssh.open({"do": "run", "profile": "read", "shell": shell, "timeout": 10})


async def follow(link: Link) -> tuple[str, str]:
    """Return what was written, and the last frame; an empty one for a link that broke."""
    text = b""
    try:
        while frame := await link.receive():
            if frame.kind == "X":
                return text.decode(), frame.payload.decode()
            text += frame.payload
        return text.decode(), ""
    finally:
        link.close()


async def run(ssh: Ssh, shell: str, stdin: bytes = b"") -> tuple[str, str]:
    link = await start(ssh, shell)
    await link.send_all(stdin)
    return await follow(link)


async def test_commands_run_by_the_helper_of_the_other_host(far: Far) -> None:
    ssh = Ssh(far.door)
    async with serving(far.door.socket):
        assert ssh.node == ""
        await ssh.ready()
        assert ssh.node == node()
        text, end = await run(ssh, "cat; echo err >&2; exit 7", b"input\n")
        assert "input" in text
        assert '"code": 7' in end
        assert "[profiles.read]" in await ssh.allowed()
        text, _ = await run(ssh, "wc -c", b"x" * 3_000_000)
        assert text.strip() == "3000000"
        await ssh.close()


async def test_twenty_at_once_share_one_connection(far: Far) -> None:
    ssh = Ssh(far.door)
    async with serving(far.door.socket):
        links = await asyncio.gather(*(start(ssh, "read x; echo $x; cat") for _ in range(AT_ONCE)))
        for number, link in enumerate(links):  # all of them have begun, and none has ended
            await link.send_input(f"{number}\n".encode(), last=False)
            while (frame := await link.receive()) and frame.kind != "O":
                pass
            assert frame is not None
            assert frame.payload == f"{number}\n".encode()
        for link in links:
            await link.send_input(b"", last=True)
        ends = await asyncio.gather(*map(follow, links))
        assert all('"code": 0' in end for _, end in ends)
        assert far.log.count("Accepted publickey") == 1
        await ssh.close()


async def test_a_connection_that_died_ends_its_commands_and_is_made_anew(far: Far) -> None:
    ssh = Ssh(far.door)
    async with serving(far.door.socket), asyncio.timeout(20):
        link = await start(ssh, "echo begun; sleep 60")
        while (frame := await link.receive()) and frame.kind != "O":
            pass
        far.serve_sshd()
        assert await follow(link) == ("", "")
        assert (await run(ssh, "echo again"))[0] == "again\n"
        far.serve_sshd()  # this time nobody has seen that it died
        assert (await run(ssh, "echo again"))[0] == "again\n"
        assert far.log.count("Accepted publickey") == 3
        await ssh.close()


async def test_who_waits_for_an_attempt_that_fails_does_not_repeat_it(far: Far) -> None:
    attempts = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    far.stop()
    server = await asyncio.start_server(hang_up, "127.0.0.1", far.door.port)
    ssh = Ssh(far.door)
    async with server:
        asked = (start(ssh, "true") for _ in range(AT_ONCE))
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(fault) for fault in found} == {Unavailable}
        assert attempts == 1
        with pytest.raises(Unavailable):  # who comes later tries again
            await start(ssh, "true")
        assert attempts == 2


async def test_closing_the_link_ends_the_command(far: Far) -> None:
    ssh = Ssh(far.door)
    async with serving(far.door.socket) as started, asyncio.timeout(15):
        link = await start(ssh, "echo begun; sleep 60")
        while (frame := await link.receive()) and frame.kind != "O":
            pass
        link.close()
        [process] = started
        await process.wait()
        await ssh.close()


@pytest.mark.parametrize("name", ["../pve1", "", "pve1 pve2", "-pve1"])
async def test_a_host_whose_name_is_none_is_no_node(far: Far, name: str) -> None:
    ssh = Ssh(far.door)
    async with serving(far.door.socket, {"uname -n": f"echo '{name}'"}):
        with pytest.raises(Misconfigured, match="which no PVE node can be called"):
            await ssh.ready()
        assert ssh.node == ""
        await ssh.close()


async def test_what_the_helper_there_cannot_do_is_not_taken_for_an_answer(far: Far) -> None:
    ssh = Ssh(far.door)
    failing = {DESCRIBE: "echo '[profiles]'; echo not there >&2; exit 1"}
    async with serving(far.door.socket, {**failing, "uname -n": "echo pve1; kill -9 $PPID"}):
        with pytest.raises(Unavailable, match=r"describe \(exit 1\): not there"):
            await ssh.allowed()
        with pytest.raises(Unavailable, match=r"uname -n \(vanished\)"):
            await ssh.ready()
        await ssh.close()


async def test_only_the_key_is_offered_even_where_a_password_would_do(far: Far) -> None:
    far.serve_sshd("PasswordAuthentication yes", "KbdInteractiveAuthentication yes")
    with pytest.raises(Misconfigured, match="does not let") as error:
        await start(Ssh(replace(far.door, key=far.folder / "other_key")), "true")
    public = (far.folder / "other_key.pub").read_text().split()[1]
    assert f"restrict,port-forwarding ssh-ed25519 {public}" in error.value.hint
    assert "method publickey" in far.log
    assert "method password" not in far.log
    assert "method keyboard-interactive" not in far.log


def no_known_hosts(far: Far) -> Door:
    far.door.known_hosts.unlink()
    return far.door


def unknown(far: Far) -> Door:
    far.door.known_hosts.write_text("")
    return far.door


def junk(far: Far) -> Door:
    far.door.known_hosts.write_text("|1|x\n")
    return far.door


def changed(far: Far) -> Door:
    far.trust("other_key")
    return far.door


def forbidden(far: Far) -> Door:
    far.serve_sshd("AllowStreamLocalForwarding no")
    return far.door


def restricted(far: Far) -> Door:
    text = (far.folder / "key.pub").read_text()
    (far.folder / "authorized_keys").write_text(f"restrict {text}")
    return far.door


def stopped(far: Far) -> Door:
    far.stop()
    return far.door


def no_socket(far: Far) -> Door:
    return replace(far.door, socket=far.folder / "none.sock")


def no_key(far: Far) -> Door:
    return replace(far.door, key=far.folder / "none")


def locked_key(far: Far) -> Door:
    keygen(far.folder / "locked", "passphrase")
    return replace(far.door, key=far.folder / "locked")


def no_name(far: Far) -> Door:
    return replace(far.door, host="pve1.invalid")


@pytest.mark.parametrize(
    ("spoil", "kind", "what"),
    [
        (no_known_hosts, Misconfigured, "ssh-keyscan -p"),
        (unknown, Misconfigured, "ssh-keyscan -p"),
        (junk, Misconfigured, "cannot be used"),
        (changed, Misconfigured, "ssh-keygen -R '[127.0.0.1]:"),
        (forbidden, Misconfigured, "AllowStreamLocalForwarding"),
        (restricted, Misconfigured, "port-forwarding"),
        (no_socket, Misconfigured, "systemctl status pvemcp-helper.socket"),
        (stopped, Unavailable, "cannot be reached by SSH"),
        (no_key, Misconfigured, "No such file"),
        (locked_key, Misconfigured, "without a passphrase"),
        (no_name, Unavailable, "pve1.invalid cannot be reached by SSH"),
    ],
)
async def test_what_is_wrong_is_said_with_its_repair(
    far: Far, spoil: object, kind: type[Fault], what: str
) -> None:
    assert callable(spoil)
    ssh = Ssh(spoil(far))
    async with serving(far.door.socket), asyncio.timeout(20):
        with pytest.raises(kind) as error:
            await start(ssh, "true")
        assert error.value.hint
        assert what in str(error.value)
        await ssh.close()
