"""The machines on which the service is tested: they are real, and they leave nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import cgroups, claims, network
from tests.host.images import HostFault, Suite
from tests.host.machine import Machine
from tests.host.waiting import until

ROOT = Path(__file__).parents[2]
CRASHES = """
import sys
from pathlib import Path
from tests.host.machine import Machine

machine = Machine.create(sys.argv[1], Path(sys.argv[2]))
machine.boot()
sleeper = machine.popen(["sleep", "1000"])
print(machine.name, flush=True)
sleeper.wait()
"""
UNIT = b"""
[Service]
Type=oneshot
DynamicUser=yes
ProtectSystem=strict
ExecStart=/bin/sh -c 'id -un; touch /usr/x || echo it is protected'
"""

RULES = b"""
table inet t { chain c { type filter hook input priority 0; icmp type echo-request drop; }; }
"""


def traces(name: str, folder: Path) -> list[str]:
    """Return everything on this computer that tells of a machine."""
    found = [f"link {link}" for link in network.links() if link == name]
    found += [f"claim {claim}" for claim in claims.names() if claim == name]
    found += [f"cgroup {path}" for path in cgroups.folders(name) if path.exists()]
    found += [f"folder {folder}"] if folder.exists() else []
    run = Path("/run")
    found += [f"file {path}" for path in run.glob(f"systemd/nspawn/*/*{name}*")]
    found += [f"file {path}" for path in run.glob(f"netns/*{name}*")]
    return found + processes(name, folder)


def processes(name: str, folder: Path) -> list[str]:
    """Return the processes of a machine, and those that see a mount of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv, cgroup, mounts = (
                (process / file).read_text("latin-1") for file in ("cmdline", "cgroup", "mountinfo")
            )
        except OSError:  # it has ended
            continue
        if name in cgroup or str(folder) in mounts:
            found.append(f"{process.name}: {argv}")
    return found


def test_a_machine_is_the_debian_that_was_asked_for(machine: Machine, suite: Suite) -> None:
    version = {"bookworm": ("252", "3.11"), "trixie": ("257", "3.13")}[suite]
    assert machine.run(["systemctl", "--version"]).stdout.startswith(f"systemd {version[0]} ")
    assert f"Python {version[1]}." in machine.run(["python3", "--version"]).stdout
    assert f"VERSION_CODENAME={suite}" in machine.run(["cat", "/etc/os-release"]).stdout
    assert machine.run(["stat", "-fc", "%T", "/sys/fs/cgroup"]).stdout == "cgroup2fs\n"
    assert machine.run(["cat", "/proc/1/comm"]).stdout == "systemd\n"


def test_what_a_command_says_and_how_it_ends_passes_through(machine: Machine) -> None:
    script = 'cat; echo "$1 $A" >&2; exit 7'
    words = ["sh", "-c", script, "sh", "two  words"]
    done = machine.run(words, stdin=b"in\xff\n", env={"A": "set = here"}, check=False)
    assert done.code == 7
    assert done.stdout.encode(errors="surrogateescape") == b"in\xff\n"
    assert done.stderr == "two  words set = here\n"
    with pytest.raises(HostFault, match="code=7"):
        machine.run(words)
    assert machine.run(["sh", "-c", "kill -KILL $$"], check=False).code == -signal.SIGKILL


def test_a_command_runs_as_the_user_with_an_environment_of_its_own(machine: Machine) -> None:
    assert machine.run(["id", "-un"]).stdout == "root\n"
    assert machine.run(["id"], user="daemon").stdout == (
        "uid=1(daemon) gid=1(daemon) groups=1(daemon)\n"
    )
    assert (
        "CapEff:\t0000000000000000"
        in machine.run(["cat", "/proc/self/status"], user="daemon").stdout
    )
    names = {line.split("=")[0] for line in machine.run(["env"]).stdout.splitlines()}
    assert names == {"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"}
    with pytest.raises(HostFault, match="no nosuchuser"):
        machine.run(["id"], user="nosuchuser")


def test_a_command_that_takes_too_long_is_ended_in_the_machine_too(machine: Machine) -> None:
    def running() -> str:
        return machine.run(["pgrep", "-r", "R,S,D", "-f", "^sleep 100[12]$"], check=False).stdout

    with machine.popen(["sleep", "1001"], user="daemon") as process:
        until(running, "the start of sleep")
        process.kill()
    until(lambda: not running(), "the end of sleep")
    with pytest.raises(HostFault, match="not done after"):
        machine.run(["sleep", "1002"], timeout=0.3)
    until(lambda: not running(), "the end of sleep")


def test_a_dialogue_with_a_command_streams_both_ways(machine: Machine) -> None:
    with machine.popen(["sh", "-c", "while read -r x; do echo got $x; done; exit 3"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"one", b"two"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"got " + word + b"\n"
        process.stdin.close()
        assert process.wait(10) == 3


def test_files_are_copied_with_mode_and_owner(machine: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "__pycache__").mkdir(parents=True, mode=0o700)
    (tree / "__pycache__/x.pyc").touch()
    (tree / "script").touch(mode=0o700)
    (tree / "text").touch(mode=0o600)
    machine.copy_in(tree, "/opt/copied/tree")
    machine.copy_in(b"secret", "/opt/copied/secret", mode=0o640, owner="root:daemon")
    shown = machine.run(["find", "/opt/copied", "-printf", r"%P %m %u %g\n"]).stdout
    assert sorted(shown.splitlines()) == [
        " 755 root root",
        "secret 640 root daemon",
        "tree 755 root root",
        "tree/script 755 root root",
        "tree/text 644 root root",
    ]
    assert machine.run(["cat", "/opt/copied/secret"]).stdout == "secret"
    machine.run(["rm", "-r", "/opt/copied"])


def test_units_run_with_what_they_ask_for(machine: Machine) -> None:
    machine.copy_in(UNIT, "/run/systemd/system/probe.service")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "probe.service"])
    said = machine.run(["journalctl", "-u", "probe.service", "-o", "cat"]).stdout
    assert "probe\n" in said
    assert "it is protected\n" in said
    ended = machine.run(
        ["systemd-run", "--pipe", "--wait", "--collect", "-q", "sh", "-c", "cat; exit 9"],
        stdin=b"through",
        check=False,
    )
    assert (ended.code, ended.stdout) == (9, "through")


def test_the_network_is_the_machines_own(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        refused = machine.run(["python3", "-c", connect], check=False)
        assert "ConnectionRefusedError" in refused.stderr
        machine.run(["python3", "-c", connect], host_net=True)
    serve = (
        f"import socket; s = socket.create_server(('{machine.address}', 0)); "
        "print(s.getsockname()[1], flush=True); s.accept()[0].sendall(b'hello')"
    )
    with machine.popen(["python3", "-c", serve]) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection((machine.address, port), 5) as there:
            assert there.recv(5) == b"hello"


def test_the_filters_of_packets_and_addresses_are_enforced(machine: Machine) -> None:
    ping = ["ping", "-nqc1", "-W2", machine.address]
    unit = ["systemd-run", "--pipe", "--wait", "--collect", "-q"]
    machine.run([*unit, *ping])
    denied = machine.run([*unit, "-p", "IPAddressDeny=any", *ping], check=False)
    assert denied.code == 1
    machine.run(["nft", "-f", "-"], stdin=RULES)
    assert machine.run(ping, check=False).code == 1
    machine.run(["nft", "delete", "table", "inet", "t"])
    machine.run(ping)


def test_two_machines_at_once_do_not_meet(machine: Machine, other: Machine) -> None:
    other.boot()
    assert other.address != machine.address
    for each in (machine, other):
        each.run(["touch", "/run/mark"])
        assert each.address in each.run(["ip", "-br", "addr"]).stdout
    other.run(["rm", "/run/mark"])
    machine.run(["rm", "/run/mark"])
    assert machine.run(["pgrep", "-cx", "systemd"]).stdout == "1\n"


def test_limits_are_enforced_when_the_machine_is_booted_with_them(other: Machine) -> None:
    other.boot(limits=True)
    unit = ["systemd-run", "--pipe", "--wait", "--collect", "-q"]
    grow = ["python3", "-c", "print(len(b'x' * 200_000_000))"]
    assert other.run([*unit, *grow]).stdout == "200000000\n"
    assert other.run([*unit, "-p", "MemoryMax=50M", *grow], check=False).code != 0
    fork = ["python3", "-c", "import threading\nfor _ in range(9): threading.Timer(1, id).start()"]
    other.run([*unit, *fork])
    said = other.run([*unit, "-p", "TasksMax=3", *fork], check=False).stderr
    assert "can't start new thread" in said


def test_a_machine_is_stopped_and_booted_again(other: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    units = other.root / "etc/systemd/system"
    (units / "bad.service").write_bytes(b"[Service]\nType=oneshot\nExecStart=/bin/false\n")
    wanted = units / "multi-user.target.wants/bad.service"
    wanted.symlink_to("../bad.service")
    with pytest.raises(HostFault, match=r"bad\.service"):
        other.boot()
    wanted.unlink()
    for mark in ("", "it was here\n"):
        other.boot()
        address = other.run(["hostname", "-I"]).stdout
        assert address.strip() == other.address
        assert other.run(["sh", "-c", "cat /var/mark || :"]).stdout == mark
        other.copy_in(b"it was here\n", "/var/mark")
        other.stop()
        assert processes(other.name, folder) == []
        assert traces(other.name, folder) == [f"claim {other.name}", f"folder {folder}"]
        with pytest.raises(HostFault, match="not running"):
            other.run(["true"])
    other.remove()
    assert traces(other.name, folder) == []


def test_a_killed_run_leaves_nothing_that_the_next_one_does_not_clear(
    suite: Suite, tmp_path: Path
) -> None:
    folder = tmp_path / "machine"
    argv = [sys.executable, "-c", CRASHES, suite, str(folder)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        said = owner.stdout.readline().decode()
        name = said.strip()
        assert name in claims.names(), said
        claims.sweep()
        assert len(processes(name, folder)) > 5, "the living are left alone"
        owner.kill()
    until(lambda: not processes(name, folder), "the end of the machine of a killed process")
    claims.sweep()
    assert traces(name, folder) == []
