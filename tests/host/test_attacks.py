"""Attacks in the sandbox that only reads, through every way in: what is there afterwards counts."""

from __future__ import annotations

import asyncio
import shlex
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from tests.host import needs
from tests.host.attacks import PREPARE, SECRET, TABLE, Attack
from tests.host.images import HostFault, Suite
from tests.host.machine import Machine
from tests.host.served import Served
from tests.host.waiting import until
from tests.scenarios.rig import Caller, ToolFault

AT_ONCE = {"run": 10, "shell": 5, "job": 8}
"""A grant may have 5 shells and 10 jobs."""
_MANIFEST = """\
find / -xdev -type f -not -path '/var/log/*' -not -path '/tmp/*' -not -path '/var/tmp/*' \
-not -path '/var/lib/pvemcp*' -not -path '/var/lib/systemd/*' -not -path '/run/*' \
-printf '%p %s %m %U %C@\\n' | sort"""
_LEFT = (
    "ps -eo uid,args | awk '$1 >= 61184 && $1 <= 65519' | grep -v -e inside.py -e simulate || true"
)

Way = Callable[[Caller, Attack], Awaitable[str]]


async def _by_run(client: Caller, attack: Attack) -> str:
    return await client.call("host_run", command=attack.command, timeout=8)


async def _by_shell(client: Caller, attack: Attack) -> str:
    shell = (await client.call("shell_open")).split()[0]
    try:
        text = await client.call("shell_send", shell=shell, text=f"{attack.command}\nexit", wait=10)
        for _ in range(3):
            if f"{shell} ended" in text:
                break
            text += await client.call("shell_read", shell=shell, wait=5)
        return text + await client.call("shell_read", shell=shell, cursor=0)
    except ToolFault as fault:  # it has ended meanwhile
        return str(fault) + await client.call("shell_read", shell=shell, cursor=0)
    finally:
        await client.call("shell_close", shell=shell)


async def _by_job(client: Caller, attack: Attack) -> str:
    job = (await client.call("job_start", command=attack.command, timeout=8)).split()[0]
    text = await client.call("job_read", job=job, wait=40)
    while "ended" not in text.rsplit("\n", 1)[-1]:
        cursor = text.rsplit('cursor="', 1)[1].split('"')[0]
        text += "\n" + await client.call("job_read", job=job, cursor=cursor, wait=40)
    return text


WAYS: dict[str, Way] = {"run": _by_run, "shell": _by_shell, "job": _by_job}
ONE_DEBIAN: dict[str, Suite] = {"shell": "bookworm", "job": "trixie"}
"""Each way leads into the same unit: what systemd makes of that, `run` shows on both."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
async def test_no_attack_succeeds(host: Served, way: str) -> None:
    machine = host.machine
    if reason := needs.once(machine.suite, ONE_DEBIAN.get(way, machine.suite)):
        pytest.skip(reason)
    machine.run(["bash", "-c", PREPARE])
    before = _manifest(machine)
    slots = asyncio.Semaphore(AT_ONCE[way])
    async with host.client(host.grant(f"attacker-{way}", ceiling="read")) as client:

        async def attempt(attack: Attack) -> str:
            async with slots:
                try:
                    return await WAYS[way](client, attack)
                except ToolFault as fault:
                    return str(fault)

        attacks = sorted(TABLE, key=lambda attack: attack.bomb)
        bombs = [attack for attack in attacks if attack.bomb]
        answers = await asyncio.gather(*map(attempt, attacks[: -len(bombs)]))
        answers += [await attempt(bomb) for bomb in bombs]
        assert "exit 0" in await client.call("host_run", command="true")
    leaked = [a.name for a, text in zip(attacks, answers, strict=True) if SECRET in text]
    assert leaked == []
    assert noticed(machine) == []
    assert set(_manifest(machine)) ^ set(before) == set()
    until(lambda: not machine.run(["bash", "-c", _LEFT]).stdout, "the end of all processes")


def _manifest(machine: Machine) -> list[str]:
    return machine.run(["bash", "-c", _MANIFEST], timeout=60).stdout.splitlines()


def noticed(machine: Machine) -> list[str]:
    """Return the names of the attacks whose proof says that they succeeded."""
    tests = [
        f"( {attack.proof} ) > /dev/null 2>&1 || echo {shlex.quote(attack.name)}"
        for attack in TABLE
        if attack.proof
    ]
    return machine.run(["bash"], stdin="\n".join(tests).encode(), timeout=60).stdout.splitlines()


def _succeeded(machine: Machine, proof: str) -> bool:
    return machine.run(["bash", "-c", proof], check=False).code != 0


HARMLESS_TO_US = (
    "write in ", "rm ", "find ", "perl", "python", "mv", "truncate", "redirect", "append", "dd",
    "sed", "tee", "cp", "ln", "hard link", "chmod", "chown", "touch", "mkfifo", "hostname",
    "systemctl", "systemd-run", "busctl", "journal", "setpriv", "setuid", "nsenter", "background",
    "setsid", "nohup", "double fork",
)  # fmt: skip


NOT_EVEN_ROOT = ("write in /sys", "write in /proc", "write in /sys/fs/cgroup")


@pytest.mark.timeout(300)
def test_the_proofs_notice_the_same_attacks_without_a_sandbox(host: Served, other: Machine) -> None:
    """Root, outside of any sandbox, does what the clients tried: every proof must see it."""
    if host.machine.suite == "bookworm":
        pytest.skip("the proofs are the same on both: once is enough")
    other.boot()
    other.run(
        ["bash", "-c", "mkdir -p /etc/cron.d /etc/pvemcp /var/lib/pvemcp /var/lib/pvemcp-run"]
    )
    blind = []
    for attack in TABLE:
        unfit = not attack.proof or attack.name in NOT_EVEN_ROOT
        if unfit or not attack.name.startswith(HARMLESS_TO_US):
            continue
        other.run(["bash", "-c", PREPARE])
        alone = ["setsid", "bash", "-c", f"( {attack.command}\n) > /dev/null 2>&1 < /dev/null"]
        other.run(alone, check=False, timeout=20)
        try:  # what systemd was asked for may take its time
            until(partial(_succeeded, other, attack.proof), attack.name, seconds=5)
        except HostFault:
            blind.append(attack.name)
        other.run(["bash", "-c", _CLEAN], check=False)
    assert blind == []


_CLEAN = """\
find / -xdev -name pwned-by-test -delete; find /run /dev /tmp -name pwned-by-test -delete
hostname other; echo other > /etc/hostname; pkill -f '^sleep 3133'; rm -f /etc/pwned-by-test
journalctl --rotate -q; journalctl --vacuum-time=1us -q"""


_OUTWARD = """\
timeout 2 bash -c 'exec 3<>/dev/tcp/{outside}/{tcp}; echo x >&3'
timeout 2 bash -c 'echo x > /dev/udp/{outside}/{udp}'
timeout 2 curl -s http://{outside}:{tcp}/
timeout 2 python3 -c 'import socket; socket.create_connection(("{outside}", {tcp}))'
timeout 2 python3 -c 'import socket; s = socket.socket(2, 2); s.setsockopt(1, 6, 1)
s.sendto(b"x", ("255.255.255.255", {udp}))'
timeout 2 python3 -c 'import socket; socket.socket(2, 3, 1).sendto(b"x", ("{outside}", 0))'
timeout 2 python3 -c 'import socket; socket.socket(17, 3, 3).bind(("host0", 0))'
timeout 2 ping -c 1 {outside}
"""


async def test_nothing_but_this_host_is_reached(host: Served) -> None:
    """A listener on this side of the machine's network sees no connection and no packet."""
    outside = _gateway(host.machine)
    stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    with stream, datagram:
        for one in (stream, datagram):
            one.bind((outside, 0))
            one.setblocking(False)
        stream.listen()
        tcp, udp = stream.getsockname()[1], datagram.getsockname()[1]
        attempts = _OUTWARD.format(outside=outside, tcp=tcp, udp=udp)
        async with host.client(host.grant("outward", ceiling="change")) as client:
            text = await client.call("host_run", command=attempts, timeout=60)
            assert "exit" in text
            with pytest.raises(BlockingIOError):
                stream.accept()
            with pytest.raises(BlockingIOError):
                datagram.recv(10)
            # The same from the profile that may: the listeners do work.
            await client.call("host_run", command=attempts, effect="change", timeout=60)
            stream.accept()[0].close()
            assert datagram.recv(10) == b"x\n"


def _gateway(machine: Machine) -> str:
    route = machine.run(["ip", "route", "show", "default"]).stdout.split()
    return route[route.index("via") + 1]


async def test_this_host_itself_is_reached(host: Served) -> None:
    address = host.machine.address
    async with host.client(host.grant("inward", ceiling="read")) as client:
        text = await client.call("host_run", command=f"curl -sk https://{address}:8443/mcp")
        assert "unauthenticated" in text


async def test_another_sessions_terminal_is_out_of_reach(host: Served) -> None:
    async with host.client(host.grant("typist", ceiling="read")) as client:
        shell = (await client.call("shell_open")).split()[0]
        await client.call("shell_send", shell=shell, text="stty -echo")
        attack = (
            "for t in /dev/pts/*; do echo pwned > $t; cat < $t & done; "
            'python3 -c \'import fcntl, glob\nfor t in glob.glob("/dev/pts/*"):\n try:\n'
            '  fcntl.ioctl(open(t, "rb+", 0), 0x5412, b"p")\n except OSError: pass\''
        )
        await client.call("host_run", command=attack, timeout=5)
        text = await client.call("shell_send", shell=shell, text="printf al; echo one")
        assert "pwned" not in text
        assert "\nalone\n" in f"\n{text}"
        await client.call("shell_close", shell=shell)
