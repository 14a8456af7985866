"""What a process may do from inside a unit: copied into a machine and run there.

It takes paths to read and paths to write, as JSON, and prints which of them it could, and which
system calls of an intruder succeeded.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable


def able(attempt: Callable[[], object]) -> bool:
    """Whether an attempt succeeds."""
    try:
        attempt()
    except OSError:
        return False
    return True


def read(path: str) -> None:
    """Read a file, or list a folder."""
    if os.path.isdir(path):  # noqa: PTH112
        os.listdir(path)  # noqa: PTH208
        return
    with open(path, "rb") as file:  # noqa: PTH123
        file.read(1)


def write(folder: str) -> None:
    """Make a file in a folder."""
    path = f"{folder}/pvemcp-probe"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.unlink(path)  # noqa: PTH108


def call(name: str, *arguments: int) -> Callable[[], None]:
    """Return an attempt at a function of the C library."""

    def attempt() -> None:
        library = ctypes.CDLL(None, use_errno=True)
        if getattr(library, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    return attempt


def write_and_execute() -> None:
    """Ask for memory that may be written and executed."""
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        pass


ATTEMPTS: dict[str, Callable[[], object]] = {
    "a TCP socket": lambda: socket.socket(socket.AF_INET),
    "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "a user namespace": call("unshare", 0x10000000),
    "a mount namespace": call("unshare", 0x20000),
    "become root": lambda: os.setuid(0),
    "the host name": lambda: socket.sethostname("intruder"),
    "trace PID 1": call("ptrace", 16, 1, 0, 0),
    "write and execute memory": write_and_execute,
}


def main() -> None:
    """Try everything."""
    asked = json.loads(sys.argv[1])
    found = {
        "reads": [path for path in asked["read"] if able(lambda path=path: read(path))],  # type: ignore[misc]
        "writes": [path for path in asked["write"] if able(lambda path=path: write(path))],  # type: ignore[misc]
        "may": [name for name, attempt in ATTEMPTS.items() if able(attempt)],
    }
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
