"""The check of commands on the host: does one run, and where."""

from __future__ import annotations

import asyncio
import time
import tomllib
from pathlib import Path

from pvemcp import host
from pvemcp.errors import Fault
from pvemcp.health.check import Check, bad, good, warning
from pvemcp.host.ended import Ended, ended_of
from pvemcp.host.executor import Executor, Nowhere
from pvemcp.host.transcript import Transcript, Unmasked
from pvemcp.running import executor
from pvemcp.settings import Settings

NAME = "commands"
SECONDS = 20
TRUE = {"do": "run", "profile": "read", "shell": "true", "timeout": 10, "owner": "doctor"}
PACKAGED = Path(host.__file__).with_name("exec.toml")
NEEDED = ("commit-begin", "commit-confirm", "commit-state", "root-run")
"""Operations of the service's own, which nobody has a reason to change."""
REPAIR = "On the host: journalctl -u pvemcp-helper, and see exec.toml."


async def check_commands(settings: Settings) -> Check:
    """Run `true` as a client that may only read would; judge whether it ran, and how long it took.

    Without any way to run commands it is a warning: all else works. Takes at most about 40 s, when
    the other host does not answer.
    """
    chosen = executor(settings)
    try:
        await chosen.ready()
        started = time.perf_counter()
        async with asyncio.timeout(SECONDS):
            ended = await _try(chosen)
    except TimeoutError:
        return bad(NAME, f"no answer from {chosen.place} within {SECONDS} s", REPAIR)
    except Fault as fault:
        judge = warning if isinstance(chosen, Nowhere) else bad
        return judge(NAME, fault.message, fault.hint)
    finally:
        await chosen.close()
    if not ended.ok:
        return bad(NAME, f"`true` did not run on {chosen.place}: {ended.note}", REPAIR)
    ms = (time.perf_counter() - started) * 1000
    if strange := await _strange(settings):
        return warning(
            NAME,
            f"exec.toml of {chosen.place} has no, or another, {', '.join(strange)} than this "
            "version: changes that can lock people out, or commands as root, are refused",
            f"Take these operations over from {PACKAGED}, then: systemctl restart pvemcp-helper",
        )
    return good(NAME, f"run on {chosen.place}: `true` took {ms:.0f} ms")


async def _strange(settings: Settings) -> list[str]:
    """Return the operations that this version needs as it brings them, and that are others."""
    chosen = executor(settings)
    try:
        there = tomllib.loads(await chosen.allowed()).get("operations", {})
    except (Fault, ValueError):
        return []  # whoever runs commands says so itself
    finally:
        await chosen.close()
    ours = tomllib.loads(PACKAGED.read_text("utf-8"))["operations"]
    return [name for name in NEEDED if there.get(name) != ours[name]]


async def _try(chosen: Executor) -> Ended:
    transcript = Transcript(Unmasked)
    link = await chosen.open(TRUE)
    try:
        await link.send_all(b"")
        while frame := await link.receive():
            if frame.kind == "X":
                return ended_of(frame.payload, transcript)
        return Ended(transcript, why="vanished")
    finally:
        link.close()
