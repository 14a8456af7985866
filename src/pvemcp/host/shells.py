"""Persistent shells: a terminal in a sandbox of its own, held by this process."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pvemcp.call import Effect, Principal
from pvemcp.errors import Conflict, Fault, Missing, Unavailable
from pvemcp.host.ended import PROFILES, Ended, ended_of
from pvemcp.host.frames import Link
from pvemcp.host.transcript import Transcript
from pvemcp.recordings import Recording

if TYPE_CHECKING:
    from pvemcp.host.runner import Host

MOST_EACH, MOST = 5, 40
"""Open shells of one grant, and in all."""
Record = Callable[["Host", str, str, Mapping[str, int]], Recording | None]
"""`(host, name, profile, size)`: begins the recording that the policy wants of a shell, or None.
Raises Unavailable when it cannot be written."""
IDLE = 1800.0
"""Seconds without input or a read after which a shell is closed."""
LONGEST = 43200
"""Seconds that a shell may live."""
KEPT_ENDED = 600.0
"""Seconds that the output of an ended shell can still be read."""
OUTPUT = 1 << 20
QUIET = 0.25
"""Seconds without output after which a command is taken to have said what it has to say."""
PROMPT = {
    "PS1": r"\w\$ ",
    "TERM": "dumb",
    "PAGER": "cat",
    "SYSTEMD_PAGER": "cat",
    # bash may take an interrupt that comes just as it begins to read for the end of its input.
    "IGNOREEOF": "2",
}


@dataclass(eq=False)
class Shell:
    """One shell. `ended` is None while it is open."""

    name: str
    owner: str
    who: Principal
    effect: Effect
    profile: str
    link: Link
    transcript: Transcript
    opened: float = field(default_factory=time.time)
    used: float = field(default_factory=time.monotonic)
    read_to: int = 0
    ended: Ended | None = None
    why: str = ""
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    reading: asyncio.Task[None] | None = None
    recording: Recording | None = None

    async def type(self, data: bytes) -> None:
        """Send input. Raises Unavailable when it must be recorded and cannot be."""
        if self.recording is not None and data:
            self.record(lambda to: to.typed(data))
            if self.why:
                raise Unavailable(self.why)
        await self.link.send_input(data, last=False)

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal."""
        self.record(lambda to: to.resized(columns, rows))
        await self.link.send_object("W", {"rows": rows, "columns": columns})

    def record(self, what: Callable[[Recording], None]) -> None:
        """Write to the recording, if there is one; the shell ends when that is impossible."""
        if self.recording is None:
            return
        try:
            what(self.recording)
        except Fault as fault:
            self.why = self.why or fault.message
            self.link.close()

    async def follow(self) -> None:
        """Take what the shell writes until it ends."""
        ended = Ended(self.transcript, why="vanished")
        try:
            while frame := await self.link.receive():
                if frame.kind == "X":
                    ended = ended_of(frame.payload, self.transcript)
                    break
                if frame.kind == "O":
                    self.transcript.add("stdout", frame.payload)
                    await self._tell()
        except Fault as fault:
            self.why = self.why or fault.message
        finally:
            self.transcript.settle()
            self.ended = ended
            self.used = time.monotonic()
            self.link.close()
            if self.recording is not None:
                self.recording.close(self.why or ended.note)
            await asyncio.shield(self._tell())

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    async def quiet(self, cursor: int, wait: float) -> None:
        """Wait at most `wait` seconds for output beyond the cursor, and until it pauses."""
        deadline = time.monotonic() + wait
        seen = self.transcript.end
        while self.ended is None and (left := deadline - time.monotonic()) > 0:
            self.transcript.settle()
            pause = min(left, QUIET) if self.transcript.end > cursor else left
            try:
                async with asyncio.timeout(pause), self.news:
                    await self.news.wait()
            except TimeoutError:
                if self.transcript.end > cursor and self.transcript.end == seen:
                    break
            seen = self.transcript.end
        self.transcript.settle()
        self.record(Recording.seal)


class Shells:
    """The shells of this process."""

    def __init__(self) -> None:
        self.starts_recording: Record = lambda _host, _name, _profile, _size: None
        self._shells: dict[str, Shell] = {}
        self._opening: Counter[str] = Counter()
        """Of each owner, those that have no entry yet."""
        self._started = f"{int(time.time()):x}"
        self._sweeping: asyncio.Task[None] | None = None

    async def open(
        self,
        host: Host,
        effect: Effect,
        *,
        size: Mapping[str, int],
        cwd: str,
        env: Mapping[str, str],
    ) -> Shell:
        """Open a shell.

        Raises Conflict beyond the limits, Unavailable when it must be recorded and cannot be, and
        the Fault of a refusal.
        """
        owner, profile = host.who()["owner"], PROFILES[effect]
        request: dict[str, Any] = {
            "do": "run",
            "profile": profile,
            "tty": dict(size),
            "env": {**PROMPT, **env},
            "cwd": cwd,
            "timeout": LONGEST,
        }
        with self._one_more(owner):
            link = await host.open(request, effect=effect, label=f"host/{profile}/shell")
        name = f"shell-{self._started}-{secrets.token_hex(4)}"
        try:
            recording = self.starts_recording(host, name, profile, size)
        except Fault:
            link.close()
            raise
        transcript = Transcript(
            host.runner.mask, kept=OUTPUT,
            heard=lambda data: shell.record(lambda to: to.wrote(data)),
        )  # fmt: skip
        shell = Shell(
            name, owner, host.call.principal, effect, profile, link, transcript,
            recording=recording,
        )  # fmt: skip
        shell.reading = asyncio.create_task(shell.follow())
        self._shells[name] = shell
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())
        return shell

    @contextlib.contextmanager
    def _one_more(self, owner: str) -> Iterator[None]:
        """Count a shell that is being opened. Raises Conflict beyond the limits."""
        self._refuse_more(owner)
        self._opening[owner] += 1
        try:
            yield
        finally:
            self._opening[owner] -= 1

    async def cut(self, stops: Callable[[Principal, Effect], str]) -> None:
        """Close the shells that may not go on: `stops(who, effect)` says why, or nothing."""
        for shell in list(self._shells.values()):
            if shell.ended is None and (why := stops(shell.who, shell.effect)):
                await self.close(shell, why)

    def find(self, host: Host, name: str) -> Shell:
        """Return a shell of the caller. Raises Missing, saying what became of it if it can."""
        found = self._shells.get(name)
        if found is not None and found.owner == host.who()["owner"]:
            found.used = time.monotonic()
            return found
        mine = ", ".join(one.name for one in self._of(host.who()["owner"]))
        start = name.split("-")[1] if name.count("-") == 2 else ""
        if start and start != self._started:
            raise Missing(
                f"{name} ended: the service was restarted since, and shells end with it",
                hint="Open another: shell_open. What must outlive a restart is a job: job_start.",
            )
        raise Missing(
            f"no shell {name}", hint=f"Open: {mine}." if mine else "Open one with shell_open."
        )

    async def close(self, shell: Shell, why: str) -> None:
        """End a shell with everything that runs in it."""
        shell.why = shell.why or why
        shell.link.close()
        if shell.reading is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(shell.reading), 5)

    async def close_all(self) -> None:
        """End all shells: the service stops."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        open_ones = [one for one in self._shells.values() if one.ended is None]
        await asyncio.gather(*(self.close(one, "the service stopped") for one in open_ones))

    def _of(self, owner: str) -> list[Shell]:
        return [one for one in self._shells.values() if one.owner == owner and one.ended is None]

    def _refuse_more(self, owner: str) -> None:
        mine = self._of(owner)
        if (count := len(mine) + self._opening[owner]) >= MOST_EACH:
            names = ", ".join(one.name for one in mine)
            raise Conflict(
                f"{count} shells are open, and a grant may have {MOST_EACH}",
                hint=f"Close one with shell_close: {names}.",
            )
        live = sum(one.ended is None for one in self._shells.values())
        if live + self._opening.total() >= MOST:
            raise Conflict(f"{MOST} shells are open in all", hint="Try again later.")

    async def _sweep(self) -> None:
        """Close idle shells and forget ended ones, until there are none."""
        while self._shells:
            await asyncio.sleep(5)
            now = time.monotonic()
            for name, one in list(self._shells.items()):
                if one.ended is not None and now - one.used > KEPT_ENDED:
                    del self._shells[name]
                    continue
                one.record(Recording.seal)
                if one.ended is None and now - one.used > IDLE:
                    await self.close(one, f"it was not used for {IDLE / 60:.0f} minutes")
