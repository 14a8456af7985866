"""Which containers the root side enters: none whose root is the host's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pvemcp.host import guest

Enter = Callable[..., subprocess.CompletedProcess[str]]
FOLDER = Path(guest.__file__).parent
SNAPSHOT = "\n[before]\nunprivileged: 1\n"


@pytest.fixture
def enter(tmp_path: Path) -> Enter:
    """Return what enters container 101 with a configuration, where `pct` only says its words."""
    tools = {"pct": 'echo "$@"', "lxc-info": 'cat "$(dirname "$0")/pid"'}
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv.pop(1)); import guest; "
        f"guest.main(sys.argv[1:], Path({str(tmp_path)!r}))"
    )

    def entered(config: str, *options: str, pid: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "101.conf").write_bytes(config.encode())
        (tmp_path / "pid").write_text(pid)
        argv = [sys.executable, "-c", script, str(FOLDER), *options, "101", "id", "--", "-u"]
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=30, check=False
        )

    return entered


@pytest.mark.parametrize("config", ["arch: amd64\nunprivileged: 1\n", "unprivileged: 1"])
def test_an_unprivileged_container_is_entered(enter: Enter, config: str) -> None:
    done = enter(config)
    assert (done.returncode, done.stdout) == (0, "exec 101 -- id -- -u\n")


@pytest.mark.parametrize(
    "config",
    [
        "",
        "arch: amd64\n",
        "unprivileged: 0\n",
        "#unprivileged: 1\n",
        "hostname: x unprivileged: 1\n",
        f"arch: amd64{SNAPSHOT}",
        SNAPSHOT.lstrip(),
        *(
            f"entrypoint: /sbin/init{end}unprivileged: 1{end}\nunprivileged: 0\n"
            for end in ("\x0b", "\x0c", "\r", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
        ),
    ],
)
def test_what_is_privileged_is_refused_whatever_its_values_hold(enter: Enter, config: str) -> None:
    done = enter(config)
    assert (done.returncode, done.stdout) == (guest.REFUSED, "")
    assert "root of the host" in done.stderr
    assert enter(config, "--privileged").stdout == "exec 101 -- id -- -u\n"


def test_what_runs_with_the_hosts_users_is_refused_whatever_its_configuration_says(
    enter: Enter,
) -> None:
    done = enter("unprivileged: 1\n", pid=f"{os.getpid()}\n")
    assert (done.returncode, done.stdout) == (guest.REFUSED, "")


def test_a_container_of_another_node_is_refused(enter: Enter) -> None:
    done = enter("unprivileged: 1\n", "../nodes/pve2/lxc/101")
    assert done.returncode == guest.REFUSED
    assert "not on this node" in done.stderr
