"""Commands and files inside a VM, through the QEMU guest agent.

What a real PVE does (seen on 9.2 with qemu-ga 10): characters beyond ASCII in a command or a path
can wedge the agent for good, so none are sent; input and output are bytes shown as Latin-1
characters; the answer that says "exited" takes the result with it; no output comes before the end.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pvemcp.errors import Fault, Invalid
from pvemcp.host.ended import Ended
from pvemcp.host.runner import Host
from pvemcp.host.transcript import Transcript, Unmasked
from pvemcp.pve.client import Pve
from pvemcp.tools.guests import Guest

INPUT_LIMIT = 65536
"""Bytes of input that PVE takes."""
SCRIPT_LIMIT = 90_000
"""Bytes of a script: one word of a command has 128 KiB at most."""
KILL_SECONDS = 10.0
_FIRST_POLL, _LAST_POLL = 0.05, 1.0
_killing: set[asyncio.Task[bool]] = set()


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM whose agent is spoken to, for one call."""

    pve: Pve
    host: Host
    guest: Guest
    raw: bool = False
    """Its output is not text: it is not masked here."""

    async def is_windows(self) -> bool:
        """Ask the agent which system it runs on."""
        found = await self.pve.get(f"{self.guest.path}/agent/get-osinfo")
        return str((found.get("result") or {}).get("id", "")).lower() == "mswindows"

    async def run(self, argv: list[str], *, stdin: bytes = b"", timeout: float) -> Ended:
        """Run a command to its end; at the time limit or when cancelled its tree is killed.

        The command must carry the call's marker in its environment (`marked`).
        """
        if len(stdin) > INPUT_LIMIT:
            raise Invalid(
                f"stdin has {len(stdin)} bytes; the guest agent takes {INPUT_LIMIT}",
                hint="Write it to a file first (guest_file_write) and read it from there.",
            )
        given = {"input-data": stdin.decode("latin-1")} if stdin else {}
        path = f"{self.guest.path}/agent/exec"
        started = time.monotonic()
        pid = int((await self.pve.request("POST", path, {"command": argv, **given})).data["pid"])
        try:
            return await self._follow(pid, started, timeout)
        except asyncio.CancelledError:
            # Not awaited: whatever waits in a cancelled call is cancelled too.
            task = asyncio.create_task(self._kill(pid))
            _killing.add(task)
            task.add_done_callback(_killing.discard)
            raise

    async def _follow(self, pid: int, started: float, timeout: float) -> Ended:
        pause, told = _FIRST_POLL, 0.0
        while True:
            status = await self.pve.poll(f"{self.guest.path}/agent/exec-status", pid=pid)
            elapsed = time.monotonic() - started
            if status.get("exited"):
                return self._ended(status, elapsed)
            if elapsed >= timeout:
                return await self._at_limit(pid, started)
            if elapsed - told >= 1:
                told = elapsed
                await self.pve.call.progress(elapsed, timeout, f"runs in {self.guest}")
            await asyncio.sleep(min(pause, timeout - elapsed + 0.01))
            pause = min(pause * 1.5, _LAST_POLL)

    def _ended(self, status: Mapping[str, object], seconds: float, why: str = "") -> Ended:
        transcript = Transcript(Unmasked if self.raw else self.host.runner.mask)
        for name, stream in (("out", "stdout"), ("err", "stderr")):
            transcript.add(stream, raw(status.get(f"{name}-data")))
        transcript.settle()
        cut = any(status.get(f"{name}-truncated") for name in ("out", "err"))
        code, signal = status.get("exitcode"), status.get("signal")
        return Ended(
            transcript,
            code=int(str(code)) if code is not None else None,
            signal=f"signal {signal}" if signal else "",
            why=why or ("agent" if cut else ""),
            seconds=seconds,
        )

    async def _at_limit(self, pid: int, started: float) -> Ended:
        sure = await self._kill(pid)
        path, seconds = f"{self.guest.path}/agent/exec-status", time.monotonic() - started
        status: Mapping[str, object] = {}
        for _ in range(10):
            try:
                status = await self.pve.poll(path, pid=pid)
            except Fault:
                break
            if status.get("exited"):
                break
            await asyncio.sleep(_FIRST_POLL * 4)
        return self._ended(status, seconds, "timeout" if sure else "unsure")

    async def _kill(self, pid: int) -> bool:
        """Kill what carries the call's marker; tell whether the guest has confirmed it."""
        path = f"{self.guest.path}/agent"
        argv = ["/bin/sh", "-c", killer(self.pve.call.id, pid)]
        try:
            async with asyncio.timeout(KILL_SECONDS):
                started = await self.pve.post(f"{path}/exec", command=argv)
                while True:
                    status = await self.pve.poll(f"{path}/exec-status", pid=started["pid"])
                    if status.get("exited"):
                        return bool(status.get("exitcode") == 0)
                    await asyncio.sleep(_FIRST_POLL)
        except (Fault, TimeoutError):
            return False


def raw(text: object) -> bytes:
    """Return the bytes that PVE shows as Latin-1 characters."""
    return str(text or "").encode("latin-1", "replace")


def ascii_only(script: str) -> str:
    """Return a shell script without characters beyond ASCII that does the same."""
    if script.isascii():
        return script
    octal = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'%" else f"\\0{byte:03o}"
        for byte in script.encode("utf-8", "surrogateescape")
    )
    return f"eval \"$(printf '%b' '{octal}')\""


def marked(script: str, call: str, *words: str) -> list[str]:
    """Return the command that runs a script with the call's marker in its environment.

    `words` are the script's own $1, $2 …; they must be ASCII.
    """
    if len(script) > SCRIPT_LIMIT:
        raise Invalid(
            f"the command has {len(script)} characters; {SCRIPT_LIMIT} at most",
            hint="Write it to a file (guest_file_write) and run that.",
        )
    start = f'export PVEMCP_CALL={call}; s="$1"; shift; exec /bin/sh -c "$s" sh "$@"'
    return ["/bin/sh", "-c", start, "sh", ascii_only(script), *words]


def prepared(command: str, cwd: str, env: Mapping[str, str]) -> str:
    """Return a script that sets the environment and folder, and then is the command."""
    lines = []
    for name, value in env.items():
        if not name.isidentifier() or not name.isascii():
            raise Invalid(f"env: {name[:80]!r} cannot name a variable", hint="Use A-Z, 0-9 and _.")
        lines.append(f"export {name}={shlex.quote(value)}")
    if cwd:
        lines.append(f"cd {shlex.quote(cwd)} || exit 126")
    script = "\n".join([*lines, command])
    if "\0" in script:
        raise Invalid("a command cannot hold a NUL", hint="Take it out.")
    return script


def killer(call: str, pid: int = 0) -> str:
    """Return a script that kills everything with the call's marker, and the process itself.

    Ends with 0 when nothing of it is left. It works with busybox, too.
    """
    first = f"kill -9 {pid} 2>/dev/null; " if pid else ""
    return (
        f"m=PVEMCP_; m=${{m}}CALL={call}; {first}"
        'found() { for p in /proc/[0-9]*; do n=${p#/proc/}; [ "$n" = $$ ] || '
        "{ tr '\\0' '\\n' < $p/environ 2>/dev/null | grep -qx \"$m\" && echo $n; }; done; }; "
        'for i in 1 2 3 4 5; do l=$(found); [ -n "$l" ] || exit 0; kill -9 $l 2>/dev/null; done; '
        '[ -z "$(found)" ]'
    )
