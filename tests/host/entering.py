"""Running commands in a machine, and sending files into it."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.host import cgroups
from tests.host.images import SYSTEM_PATH, HostFault

HOST_FILES = (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))
"""What a command needs of this computer to use its network."""
OFFERED = "/run/pvemcp-host"
"""Where they are in the machine."""
UNPACK = 'mkdir -p "$1"; exec tar -x --keep-directory-symlink -f - -C "$1"'

_ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
_AS_HERE = f"""
cd {OFFERED}
find . -type f | while read -r file; do mount --bind "$file" "/$file"; done
cd /
exec "$@"
"""
"""Mounts this computer's files over the machine's, in the command's own mount namespace."""


@dataclass(frozen=True)
class Result:
    """How a command ended. Bytes that are no UTF-8 are kept as surrogate escapes."""

    code: int
    """Exit status, or minus the signal that ended it."""
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Ids:
    """A user and a group of a machine, by number."""

    uid: int
    gid: int


def ids(root: Path, owner: str) -> Ids:
    """Look up USER (and its group) or USER:GROUP in a machine's own files."""
    user, _, group = owner.partition(":")
    entry = _entry(root / "etc/passwd", user)
    gid = int(_entry(root / "etc/group", group)[2]) if group else int(entry[3])
    return Ids(int(entry[2]), gid)


def _entry(file: Path, name: str) -> list[str]:
    for line in file.read_text().splitlines():
        if (fields := line.split(":"))[0] == name:
            return fields
    raise HostFault(f"the machine's {file.name} has no {name}")


def children(pid: int) -> list[int]:
    """Return the processes that a process of one thread has started and that have not ended."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended itself
        return []
    return [int(child) for child in found if _status(child).get("State", "Z")[0] != "Z"]


def init_of(nspawn: int) -> int | None:
    """Return the machine's PID 1, as numbered here, when it is there."""
    for child in children(nspawn):
        status = _status(child)
        if status.get("Name") == "systemd" and status["NSpid"].split()[-1] == "1":
            return child
    return None


def _status(pid: int | str) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    return dict(line.split(":\t", 1) for line in lines)


def in_cgroups(cgroups: Iterable[Path]) -> tuple[str, ...]:
    """Return what goes before a command of this computer to run it in these cgroups."""
    return ("sh", "-ec", _ENTER, "sh", *map(str, cgroups), "--")


def command(
    leader: int, argv: Sequence[str], *, ids: Ids, env: Mapping[str, str], host_net: bool
) -> list[str]:
    """Return the command of this computer that runs `argv` beside a machine's PID 1.

    It is in the same cgroups: systemd and journald shall see a process of the machine.
    """
    spaces = ("--mount", "--uts", "--ipc", "--pid", "--cgroup", *(() if host_net else ("--net",)))
    return [
        *in_cgroups(cgroups.of(leader)),
        *("nsenter", f"--target={leader}", *spaces, "--", "env", "-i", f"PATH={SYSTEM_PATH}"),
        *(("unshare", "--mount", "sh", "-ec", _AS_HERE, "sh") if host_net else ()),
        # nsenter waits for its child outside the machine: when it is killed the child must follow.
        *("setpriv", "--pdeathsig=KILL", "--reset-env", f"--reuid={ids.uid}"),
        *(f"--regid={ids.gid}", "--init-groups"),
        *("env", f"PATH={SYSTEM_PATH}", "LANG=C.UTF-8"),
        *(f"{name}={value}" for name, value in env.items()),
        *argv,
    ]


def complete(argv: Sequence[str], *, stdin: bytes, timeout: float) -> Result:
    """Run a command of this computer to its end."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"") + (late.stderr or b"")
        raise HostFault(f"not done after {timeout:g} s: {argv[-1]}; {said!r}") from None
    return Result(done.returncode, _text(done.stdout), _text(done.stderr))


def _text(said: bytes) -> str:
    return said.decode(errors="surrogateescape")


def pack(src: Path | bytes, name: str, into: IO[bytes], *, mode: int | None, owner: Ids) -> None:
    """Write a tar stream of a file or a tree, under another name and owner."""

    def settle(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid, info.uname, info.gname = owner.uid, owner.gid, "", ""
        executable = info.isdir() or info.mode & 0o100
        info.mode = 0o755 if executable else 0o644
        if mode is not None and info.isfile():
            info.mode = mode
        return info

    with tarfile.open(fileobj=into, mode="w|") as tar:
        if isinstance(src, Path):
            tar.add(src, arcname=name, filter=lambda info: None if _cached(info) else settle(info))
        else:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(src), int(time.time())
            tar.addfile(settle(info), io.BytesIO(src))


def _cached(info: tarfile.TarInfo) -> bool:
    return info.name.endswith("/__pycache__")
