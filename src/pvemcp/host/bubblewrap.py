"""Runs what only reads in a sandbox of bubblewrap: on a workstation and in the demo.

Everything that the root helper is needed for is refused. What systemd bounds there and nothing
bounds here: the memory of all processes of a command together, and the number of files in /tmp.
A FIFO that the service's user may write, outside the hidden folders, can be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import glob
import math
import os
import platform
import pwd
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pvemcp.errors import Unavailable
from pvemcp.host import helper
from pvemcp.host.frames import HEADER, Link, Writer, fault_of
from pvemcp.host.seccomp import program

PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108 - the sandbox's own
TOOLS = {
    "bwrap": "bubblewrap",
    "prlimit": "util-linux",
    "choom": "util-linux",
    "setpriv": "util-linux",
    "python3": "python3",
}
"""Programs that are needed, and the packages that have them."""
NOBODY = 65534
INSIDE = "/run/pvemcp-inside.py"
SCRATCH = {"/tmp": 128 << 20, "/var/tmp": 32 << 20, "/run": 1 << 20}  # noqa: S108 - as above
SHARED_MEMORY = 16 << 20
"""Bytes that fit into a command's own folders; they are memory."""
LIMITS = {"nproc": 128, "as": 4 << 30, "fsize": 64 << 20, "nofile": 1024, "core": 0}
SLACK = 60
"""Seconds of processor time beyond a command's own time."""
HIDDEN = (
    "/home /root /etc/ssh /etc/ssl/private /etc/shadow* /etc/gshadow* /etc/pvemcp /etc/pve/priv "
    "/etc/pve/nodes /var/lib/pvemcp* /var/lib/pve-cluster /var/lib/systemd /var/spool "
    "/var/log/journal"
).split()
NEEDED = ("/usr/bin", "/usr/sbin", "/usr/lib", "/etc", "/var/lib", "/dev", "/proc", "/sys", "/run")
"""What is never hidden, nor anything above it: some users have such a home."""
SWITCHES = {
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}
"""Settings of the kernel with which nobody but root may make a sandbox."""
PROBE_SECONDS = 5
NEEDS_HELPER = "Install the package on the PVE host."


def find(*hidden: Path) -> Bubblewrap | str:
    """Return the executor, or why there is none. Waits for a sandbox that runs `true`.

    `hidden` are files and folders of the service that no command may see.
    """
    for tool, package in TOOLS.items():
        if shutil.which(tool, path=PATH) is None:
            return f"{tool} is missing (package {package})"
    try:
        found = Bubblewrap(*hidden)
        found.probe()
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip()
        off = f" ({switch} forbids it)" if (switch := _switch()) else ""
        return f"bubblewrap cannot make a sandbox{off}: {said[-500:] or error.returncode}"
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        return f"bubblewrap cannot make a sandbox: {error}"
    return found


def _switch() -> str:
    """Return the kernel's setting that forbids sandboxes, as sysctl names it; or nothing."""
    for name, off in SWITCHES.items():
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text("ascii").strip() == off:
                return f"sysctl {name.replace('/', '.')} = {off}"
    return ""


class Bubblewrap:
    """The profile `read`, each command in namespaces of its own, as the service's user.

    A service that is root has its commands run as nobody.
    """

    def __init__(self, *hidden: Path) -> None:
        package = resources.files("pvemcp.host")
        self.node = socket.gethostname().partition(".")[0]
        self.place = f"{socket.gethostname()}, in bubblewrap"
        self._inside = package.joinpath("inside.py").read_bytes()
        self._exec = package.joinpath("exec.toml").read_text("utf-8")
        self._filter = program(platform.machine())
        self._hidden = {*_own(hidden), *_homes()}
        self._running: dict[asyncio.Task[None], Sandbox] = {}

    async def ready(self) -> None:
        """Do nothing: the node is this host."""

    async def open(self, request: Mapping[str, Any]) -> Link:
        """Start a sandbox and send it the request. Raises Unavailable for other profiles."""
        spec = self._spec(dict(request))
        limits = LIMITS | {"cpu": math.ceil(spec["timeout"]) + SLACK}
        options = [f"--{name}={value}" for name, value in limits.items()]
        command = ["choom", "-n", "1000", "--", "prlimit", *options, "--"]
        sandbox = await self._start([*command, "python3", "-I", "-S", INSIDE])
        try:
            await sandbox.link.send_object("R", spec)
        except BaseException:
            sandbox.link.close()
            raise
        return sandbox.link

    async def allowed(self) -> str:
        """Return the exec.toml of the package."""
        return self._exec

    async def close(self) -> None:
        """End all commands, and wait until nothing of them is left."""
        for sandbox in self._running.values():
            sandbox.link.close()
        await asyncio.gather(*self._running)

    def probe(self) -> None:
        """Run `true` in a sandbox. Raises what subprocess.run raises."""
        with self._files() as (argv, fds):
            subprocess.run(  # noqa: S603 - no shell, and no word of a caller's
                [*argv, "--", "choom", "-n", "1000", "--", "prlimit", "--core=0", "--", "true"],
                check=True,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=PROBE_SECONDS,
                pass_fds=fds,
                env=ENVIRONMENT,
                cwd="/",
            )

    def _spec(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what inside.py is told. Raises the Fault of a refusal."""
        config, argv = helper.parsed(self._exec), None
        try:
            if request.get("do") == "operation":
                found = config["operations"].get(str(request.get("name")), {})
                helper.need(found, "there is no such operation", "host_diagnose lists them.")
                _only_read(found["profile"], f"the operation {request['name']}")
                argv = helper.command_of(found, request.get("params") or {})
            elif request.get("do") == "run":
                _only_read(request.get("profile"), f"the profile {request.get('profile')}")
            else:
                _only_read(None, f"a {request.get('do')}")
            return helper.spec_of(request, helper.profile_of(config, "read"), argv)
        except helper.Refused as refused:
            raise fault_of(refused.frame[HEADER.size :]) from None

    async def _start(self, command: Sequence[str]) -> Sandbox:
        ours, theirs = socket.socketpair()
        told, tells = socket.socketpair()
        with told, tells:
            try:
                with theirs, self._files(tells.fileno()) as (argv, fds):
                    process = await asyncio.create_subprocess_exec(
                        *argv,
                        "--",
                        *command,
                        stdin=theirs.fileno(),
                        stdout=theirs.fileno(),
                        stderr=asyncio.subprocess.DEVNULL,  # else they reach the service's own
                        pass_fds=fds,
                        env=ENVIRONMENT,  # theirs to read in /proc/1/environ
                        cwd="/",
                    )
                reader, writer = await asyncio.open_unix_connection(sock=ours)
            except BaseException:
                ours.close()
                raise
            tells.close()
            sandbox = Sandbox(process, writer)
            sandbox.link = Link(reader, sandbox)
            task = asyncio.create_task(sandbox.reap())
            self._running[task] = sandbox
            task.add_done_callback(self._running.pop)
            try:
                await sandbox.begin(told)
            except BaseException:
                sandbox.link.close()
                raise
        return sandbox

    @contextlib.contextmanager
    def _files(self, info: int = -1) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """Yield the command line up to the command, and the descriptors that it names."""
        with contextlib.ExitStack() as stack:
            fds = [stack.enter_context(_in_memory(data)) for data in (self._inside, self._filter)]
            argv = self._argv(*fds)
            if info >= 0:
                fds.append(info)
                argv += ["--info-fd", str(info)]
            yield argv, tuple(fds)

    def _argv(self, inside: int, seccomp: int) -> list[str]:
        ids = f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"
        argv = ["setpriv", *ids, "--"] if os.geteuid() == 0 else []
        argv += ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop"]
        # Always a session of its own: a command's terminal is made by inside.py.
        argv += ["ALL", "--die-with-parent", "--new-session", "--clearenv"]
        for name, value in ENVIRONMENT.items():
            argv += ["--setenv", name, value]
        argv += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
        argv += [*_tmpfs("/dev/shm", SHARED_MEMORY), "--remount-ro", "/dev"]  # noqa: S108 - as above
        scratch = {os.path.realpath(path): size for path, size in SCRATCH.items()}
        for path, size in scratch.items():
            argv += _tmpfs(path, size)
        for path in _hide((*HIDDEN, *map(glob.escape, self._hidden)), scratch):
            if Path(path).is_dir():
                argv += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
            else:
                argv += ["--ro-bind", "/dev/null", path]
        argv += ["--ro-bind-data", str(inside), INSIDE, "--seccomp", str(seccomp)]
        return [*argv, "--chdir", "/"]


@dataclass(slots=True)
class Sandbox:
    """A running sandbox: the writer of its link, which kills it at the end."""

    process: asyncio.subprocess.Process
    writer: Writer
    link: Link = field(init=False)
    pidfd: int = -1
    """The first process in its namespace: what ends with it, nobody in there can prevent."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self, told: socket.socket) -> None:
        """Wait until it exists. Raises Unavailable when it does not come to that."""
        loop, said = asyncio.get_running_loop(), b""
        told.settimeout(0)
        try:
            while data := await loop.sock_recv(told, 4096):
                said += data
            found = re.search(rb'"child-pid": (\d+)', said)
            with contextlib.suppress(ProcessLookupError):
                self.pidfd = os.pidfd_open(int(found[1])) if found else -1
        finally:
            self.begun.set()
        if self.pidfd < 0:
            raise Unavailable(
                "the command's sandbox did not start", hint="Run bwrap by hand to see why."
            )

    async def reap(self) -> None:
        """Wait until nothing of it is left."""
        await self.begun.wait()
        await self.process.wait()
        if self.pidfd < 0:
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        self._kill()  # bwrap has ended with the command; what that left behind goes now
        loop.add_reader(self.pidfd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1

    def write(self, data: bytes) -> None:
        """Take bytes to send."""
        self.writer.write(data)

    async def drain(self) -> None:
        """Wait until some of them have gone."""
        await self.writer.drain()

    def close(self) -> None:
        """Kill all that is in it."""
        self.writer.close()
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            elif self.process.returncode is None:
                self.process.kill()


def _only_read(profile: object, what: str) -> None:
    if profile != "read":
        raise Unavailable(f"{what:.100} needs the root helper", hint=NEEDS_HELPER)


def _tmpfs(path: str, size: int) -> list[str]:
    return ["--perms", "1777", "--size", str(size), "--tmpfs", path]


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("pvemcp")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _homes() -> set[str]:
    """Return the homes of people, and of the service's own user."""
    own, users = os.geteuid(), pwd.getpwall()
    people = {
        user.pw_dir
        for user in users
        if user.pw_uid == own or (user.pw_uid >= 1000 and user.pw_uid != NOBODY)
    }
    return {home for home in people | {os.environ.get("HOME", "")} if home.startswith("/")}


def _own(paths: Iterable[Path]) -> Iterator[str]:
    """Return what is the service's own, and the folders of its files.

    A file that takes a hidden one's place would be seen by commands that run already. Raises
    LookupError for what cannot be hidden.
    """
    for path in paths:
        real = Path(os.path.realpath(path))
        if _is_needed(real):
            raise LookupError(f"{path} cannot be hidden: the system is in it")
        yield str(path)
        if real.is_file() and not _is_needed(real.parent):
            yield str(real.parent)


def _is_needed(path: str | Path) -> bool:
    return any(one.is_relative_to(path) for one in _needed())


@functools.cache
def _needed() -> tuple[Path, ...]:
    return tuple(Path(os.path.realpath(one)) for one in NEEDED)


def _hide(patterns: Iterable[str], scratch: Mapping[str, int]) -> list[str]:
    """Return the existing ones as the sandbox can reach them, none of them within another."""
    real = {_reached(path) for pattern in patterns for path in glob.glob(pattern)}  # noqa: PTH207
    kept: list[str] = []
    for path in sorted(real):  # a folder comes before what is in it
        over = [*scratch, *kept]
        covered = any(Path(path).is_relative_to(above) for above in over)
        if not covered and not _is_needed(path):
            kept.append(path)
    return kept


def _reached(path: str) -> str:
    """Return the path without links, or the first folder on the way that lets nobody pass."""
    real = Path(os.path.realpath(path))
    for folder in reversed(real.parents):
        passes = folder.stat().st_mode & 1 if os.geteuid() == 0 else os.access(folder, os.X_OK)
        if not passes:
            return str(folder)
    return str(real)
