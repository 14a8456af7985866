"""What each machine holds of this computer, written down so that a crash leaves nothing behind.

A claim is a file, locked as long as the process lives that made it: the kernel drops the lock when
that process is killed, and the next one to make a machine clears up what the file names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import IO

from tests.host import cgroups, network

FOLDER = Path("/run/pvemcp-hosts")


@dataclass(frozen=True)
class Held:
    """What one machine holds: its name, network, folder and cgroups."""

    name: str
    """Also that of its veth: at most 15 characters."""
    net: IPv4Network
    folder: Path
    cgroups: tuple[Path, ...]

    @property
    def file(self) -> Path:
        """Where this is written down."""
        return FOLDER / f"{self.name}.json"

    def encode(self) -> str:
        """Return the content of the file."""
        paths = [str(path) for path in self.cgroups]
        return json.dumps({"net": str(self.net), "folder": str(self.folder), "cgroups": paths})

    @classmethod
    def read(cls, file: Path) -> Held:
        """Read a file. Raises ValueError when its writer was killed while it began."""
        told = json.loads(file.read_text())
        paths = tuple(Path(path) for path in told["cgroups"])
        return cls(file.stem, IPv4Network(told["net"]), Path(told["folder"]), paths)

    def clear(self) -> None:
        """Kill the machine and remove everything that it holds; again does no harm."""
        cgroups.remove(self.cgroups)
        network.disconnect(self.name)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Claim:
    """What a machine of this process holds, for as long as the process lives."""

    held: Held
    lock: IO[str]

    @classmethod
    def make(cls, folder: Path) -> Claim:
        """Clear up after dead processes, and claim a name and a network for a machine."""
        name = f"pvh{secrets.token_hex(4)}"
        with _alone():
            _sweep()
            net = network.choose({held.net for held in _written()})
            held = Held(name, net, folder.absolute(), cgroups.folders(name))
            lock = held.file.open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(held.encode())
            lock.flush()
        return cls(held, lock)

    def release(self) -> None:
        """Remove everything that is held."""
        self.held.clear()
        self.lock.close()


def sweep() -> None:
    """Clear up what killed processes have left behind."""
    with _alone():
        _sweep()


def names() -> set[str]:
    """Return the names of all machines on this computer, also those of other processes."""
    return {held.name for held in _written()}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _written() -> list[Held]:
    found = []
    for file in _files():
        with contextlib.suppress(FileNotFoundError, ValueError):
            found.append(Held.read(file))
    return found


def _files() -> list[Path]:
    return sorted(FOLDER.glob("pvh*.json"))


def _sweep() -> None:
    for file in _files():
        with contextlib.suppress(FileNotFoundError, BlockingIOError), file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                Held.read(file).clear()
            except ValueError:
                file.unlink()
