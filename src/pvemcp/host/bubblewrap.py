"""Commands that only read, where there is no systemd: in a sandbox by bubblewrap."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pvemcp.errors import Unavailable
from pvemcp.host import helper
from pvemcp.host.frames import HEADER, Link, fault_of

PROFILE = "read"
HINT = "Install the package on the PVE host, whose root helper can do it."
PYTHON = "/usr/bin/python3"
NOBODY = 65534
_WRITABLE = ("/tmp", "/var/tmp", "/run")  # noqa: S108 - of the sandbox's own
TMP = str(64 << 20)
_FOLDERS = (
    "/home", "/root", "/etc/ssh", "/etc/pve", "/etc/pvemcp", "/etc/ssl/private", "/var/lib/pvemcp",
    "/var/lib/pvemcp-run", "/var/lib/pvemcp-helper", "/var/spool", "/var/log",
)  # fmt: skip
_FILES = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-")
_LIMITS = ("--nproc=256", "--as=4294967296", "--fsize=67108864", "--nofile=1024", "--core=0")


class Bubblewrap:
    """Runs the `read` profile in namespaces of its own: no network, nothing writable but /tmp.

    Not as strict as a unit: no filter of system calls, and limits for each process alone.
    """

    def __init__(self, hidden: Sequence[Path] = ()) -> None:
        """`hidden` are folders that commands must not see, such as the service's state."""
        name = socket.gethostname()
        self.node = name.partition(".")[0]
        self.place = f"{name}, in bubblewrap"
        self._hidden = [str(path) for path in hidden]
        self._running: set[asyncio.Task[int]] = set()

    def unfit(self) -> str:
        """Return why it does not work here, or "". Takes some milliseconds."""
        for program in ("bwrap", "setpriv", "prlimit", PYTHON):
            if shutil.which(program) is None:
                return f"{program} is not installed"
        inside = os.open(_inside(), os.O_RDONLY)
        try:
            argv = self._command(inside, tty=False)
            done = subprocess.run(  # noqa: S603 - fixed words
                argv, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=(inside,), timeout=10,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap does not start: {error}"
        finally:
            os.close(inside)
        said = done.stderr.decode("utf-8", "replace").strip()
        return "" if done.returncode == 0 else f"bubblewrap does not work here: {said[:200]}"

    async def open(self, request: Mapping[str, Any]) -> Link:
        """Start a command. Raises Unavailable for what needs the root helper."""
        spec = self._spec(dict(request))
        inside = os.open(_inside(), os.O_RDONLY)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(inside, tty="tty" in spec),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(inside,),
            )
        finally:
            os.close(inside)
        ending = asyncio.create_task(process.wait())
        self._running.add(ending)
        ending.add_done_callback(self._running.discard)
        if process.stdin is None or process.stdout is None:
            raise TypeError("a process without pipes")
        link = Link(process.stdout, process.stdin)
        await link.send("R", json.dumps(spec).encode())
        return link

    async def allowed(self) -> str:
        """Return what the package brings, less what only root can do."""
        return _rules()

    async def close(self) -> None:
        """Wait for the commands, whose connections are closed by now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(*self._running)

    def _spec(self, request: dict[str, Any]) -> dict[str, Any]:
        config = helper.parsed(_rules())
        try:
            argv = None
            if request["do"] == "operation":
                found = config["operations"].get(str(request["name"]), {})
                helper.need(found, "there is no such operation")
                request["profile"] = found["profile"]
                argv = helper.command_of(found, request.get("params") or {})
            if request["do"] == "job" or request["profile"] != PROFILE:
                what = "a job" if request["do"] == "job" else f"the profile {request['profile']}"
                raise Unavailable(f"{what} needs the root helper, which is not here", hint=HINT)
            return helper.spec_of(request, helper.profile_of(config, PROFILE), argv)
        except helper.Refused as refused:
            raise fault_of(refused.frame[HEADER.size :]) from None

    def _command(self, inside: int, *, tty: bool) -> list[str]:
        # As root it would still own root's files outside, whatever it is called inside.
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
        folders = [place for place in (*_FOLDERS, *self._hidden) if Path(place).is_dir()]
        home = str(Path.home())
        if home != "/" and not any(_within(home, place) for place in folders):
            folders.append(home)
        covered = [word for place in folders for word in ("--tmpfs", place)]
        covered += [w for f in _FILES if Path(f).exists() for w in ("--ro-bind", "/dev/null", f)]
        return [
            *(drop if os.geteuid() == 0 else ()),
            *("prlimit", *_LIMITS, "--"),
            *("bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"),
            *(() if tty else ("--new-session",)),
            *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
            *(w for place in _WRITABLE for w in ("--size", TMP, "--tmpfs", place)),
            *covered,
            *("--remount-ro", "/run"),
            *(w for place in folders for w in ("--remount-ro", place)),
            *("--file", str(inside), "/tmp/.inside.py"),  # noqa: S108 - a /tmp of its own
            *("--setenv", "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            *("--chdir", "/tmp", "--", PYTHON, "-I", "-S", "/tmp/.inside.py"),  # noqa: S108
        ]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _inside() -> Path:
    return Path(helper.__file__).with_name("inside.py")


def _rules() -> str:
    return files("pvemcp.host").joinpath("exec.toml").read_text("utf-8")
