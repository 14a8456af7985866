"""The process in a sandbox that starts the command: whom it signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

EARLY = """
import os, signal, sys
from pvemcp.host.inside import Command

made = Command.__new__(Command)
made.tty = sys.argv[1] == "tty"
made.stdin, slave = os.openpty()  # nobody has it for a terminal yet
made.pid = os.fork()
if made.pid == 0:
    signal.pause()
made.pidfd = os.pidfd_open(made.pid)
made.signal(signal.SIGKILL)
print(os.WTERMSIG(os.waitpid(made.pid, 0)[1]))
"""


@pytest.mark.parametrize("how", ["tty", "pipes"])
def test_a_command_that_was_only_just_forked_is_signalled_alone(how: str) -> None:
    """Its terminal has no group in the foreground then, and it leads none itself."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY, how], capture_output=True, text=True, timeout=20,
        start_new_session=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{signal.SIGKILL:d}\n", "")
