"""Commands inside a VM, through the QEMU guest agent.

What a real PVE does (seen on 9.2 with qemu-ga 10): characters beyond ASCII in a command or a path
can wedge the agent for good, so none are sent; input and output are bytes shown as Latin-1
characters; the answer that says "exited" takes the result with it; no output comes before the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Denied, Fault, Invalid, Unavailable, Uncertain
from pvemcp.host.ended import Ended
from pvemcp.host.runner import Host
from pvemcp.host.transcript import Transcript, Unmasked
from pvemcp.pve.client import Pve
from pvemcp.tools import posix, windows
from pvemcp.tools.guests import Guest

logger = logging.getLogger(__name__)

INPUT_LIMIT = 65536
"""Bytes of input that PVE takes."""
KILL_SECONDS = 15.0
SILENCE = 30.0
"""Seconds without an answer from the agent before a command is given up."""
_LATE = 20
"""Looks for the output of a command that was killed."""
_FIRST_POLL, _LAST_POLL = 0.05, 1.0
_CHUNK = 1 << 18
background: dict[asyncio.Task[Any], str] = {}
"""What goes on after its call was cancelled, each with the call's id."""


def in_background(work: Coroutine[Any, Any, Any], call: str) -> None:
    """Do something that outlives its call: whatever waits in a cancelled call is cancelled too.

    What was begun earlier for the same call is waited for.
    """
    task = asyncio.create_task(
        _after([each for each in background if background[each] == call], work)
    )
    background[task] = call
    task.add_done_callback(background.pop)


async def _after(earlier: list[asyncio.Task[Any]], work: Coroutine[Any, Any, Any]) -> None:
    if earlier:
        await asyncio.wait(earlier)
    await work


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM whose agent is spoken to, for one call."""

    pve: Pve
    host: Host
    guest: Guest
    raw: bool = False
    """Its output is not text: it is not masked here."""

    @property
    def path(self) -> str:
        """The agent's API path."""
        return f"{self.guest.path}/agent"

    async def speaks(self) -> ModuleType:
        """Ask the agent for its system; return the module that writes commands for it."""
        found = await self.pve.get(f"{self.path}/get-osinfo")
        id_ = str((found.get("result") or {}).get("id", "")).lower()
        return windows if id_ == "mswindows" else posix

    async def run(
        self, argv: list[str], *, stdin: bytes = b"", timeout: float, speaks: ModuleType = posix
    ) -> Ended:
        """Run a command of `speaks` to its end.

        At the time limit, when cancelled or when its client is frozen, it is killed with all that
        it has started.
        """
        if len(stdin) > INPUT_LIMIT:
            raise Invalid(
                f"stdin has {len(stdin)} bytes; the guest agent takes {INPUT_LIMIT}",
                hint="Write it to a file first (guest_file_write) and read it from there.",
            )
        started = time.monotonic()
        # A task of its own: when the call is cancelled now, there may be something to kill.
        starting = asyncio.create_task(self._start(argv, stdin))
        try:
            with self.host.stoppable(Effect.DESTROY):
                pid = await asyncio.shield(starting)
                return await self._follow(pid, started, timeout, speaks)
        except (asyncio.CancelledError, Denied):
            refused = starting.done() and (starting.cancelled() or starting.exception())
            if not refused:
                in_background(self._give_up(starting, speaks), self.pve.call.id)
            raise

    async def _start(self, argv: list[str], stdin: bytes) -> int:
        given = {"input-data": stdin.decode("latin-1")} if stdin else {}
        params = {"command": argv, **given}
        return int((await self.pve.request("POST", f"{self.path}/exec", params)).data["pid"])

    async def _follow(self, pid: int, started: float, timeout: float, speaks: ModuleType) -> Ended:
        pause, told, seen = _FIRST_POLL, 0.0, started
        while True:
            status = await self._status(pid)
            now = time.monotonic()
            elapsed, seen = now - started, seen if status is None else now
            if status and status.get("exited"):
                return await self._ended(status, elapsed)
            if elapsed >= timeout:
                return await self._at_limit(pid, elapsed, speaks)
            if now - seen > SILENCE:
                raise Uncertain(
                    f"{self.guest} has not answered for {SILENCE:.0f} s; what becomes of the "
                    "command is not known",
                    hint="Look at the guest (guest_get), then inside it, before you repeat it.",
                )
            if elapsed - told >= 1:
                told = elapsed
                await self.pve.call.progress(elapsed, timeout, f"runs in {self.guest}")
            await asyncio.sleep(min(pause, timeout - elapsed + 0.01))
            pause = min(pause * 1.5, _LAST_POLL)

    async def _status(self, pid: int) -> Mapping[str, Any] | None:
        """Return what the agent knows of a command; None when there is no answer for now."""
        try:
            status: Mapping[str, Any] = await self.pve.poll(f"{self.path}/exec-status", pid=pid)
        except Unavailable as fault:
            if "is larger than" in fault.message:
                raise Uncertain(
                    f"the command has ended in {self.guest}, and wrote more than an answer of PVE "
                    "may hold: its output and its exit code are lost",
                    hint="Let it write to a file; read that with guest_file_read.",
                ) from None
            return None
        except Conflict:  # the node or the agent is busy, or restarts
            return None
        except Fault as fault:
            if "PID" in fault.message or "'pid'" in fault.message:
                raise Uncertain(
                    f"the command has been started in {self.guest}, and the agent does not know "
                    "it any more",
                    hint="The agent or the guest was restarted, or the only answer with the "
                    "result was lost. Look inside the guest before you repeat it.",
                ) from None
            raise
        return status

    async def _ended(self, status: Mapping[str, Any], seconds: float, why: str = "") -> Ended:
        transcript = Transcript(Unmasked if self.raw else self.host.runner.mask)
        for name, stream in (("out", "stdout"), ("err", "stderr")):
            data = latin(status.get(f"{name}-data"))
            for start in range(0, len(data), _CHUNK):
                transcript.add(stream, data[start : start + _CHUNK])
                await asyncio.sleep(0)  # up to 16 MiB: others wait
        transcript.settle()
        cut = any(status.get(f"{name}-truncated") for name in ("out", "err"))
        code = status.get("exitcode")
        return Ended(
            transcript,
            code=int(code) if code is not None else None,
            signal=_signal(status.get("signal")),
            why=why or ("agent" if cut else ""),
            seconds=seconds,
        )

    async def _at_limit(self, pid: int, seconds: float, speaks: ModuleType) -> Ended:
        sure = await self._automatic().kill(speaks, pid)
        status: Mapping[str, Any] | None = None
        with contextlib.suppress(Fault):
            for _ in range(_LATE):
                status = await self._status(pid)
                if status and status.get("exited"):
                    break
                await asyncio.sleep(_FIRST_POLL * 2)
        return await self._ended(status or {}, seconds, "timeout" if sure else "unsure")

    async def _give_up(self, starting: asyncio.Task[int], speaks: ModuleType) -> None:
        pid = 0
        with contextlib.suppress(Fault):
            pid = await starting
        if not await self._automatic().kill(speaks, pid):
            logger.warning(
                "call %s was cancelled, and %s has not confirmed the end of its command (pid %d)",
                self.pve.call.id, self.guest, pid,
            )  # fmt: skip

    def _automatic(self) -> Vm:
        """Return this VM for what the service must end itself: no freeze stands in its way."""
        return replace(self, pve=self.pve.of(self.host.automatic().call))

    async def kill(self, speaks: ModuleType, pid: int) -> bool:
        """Kill the call's command and what it has started; tell whether the guest confirms it."""
        argv = speaks.kill(self.pve.call.id, pid)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                killer = await self._start(argv, b"")
                while True:
                    status = await self._status(killer)
                    if status and status.get("exited"):
                        return bool(status.get("exitcode") == 0)
                    await asyncio.sleep(_FIRST_POLL * 2)
        except (Fault, TimeoutError):
            return False


def latin(text: object) -> bytes:
    """Return the bytes that PVE shows as Latin-1 characters."""
    return str(text or "").encode("latin-1", "replace")


def _signal(number: object) -> str:
    try:
        return signal.Signals(int(str(number))).name if number else ""
    except ValueError:  # an exception code of Windows
        return f"signal {number}"
