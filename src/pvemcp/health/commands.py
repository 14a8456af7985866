"""The check of commands on the host: does one run, and where."""

from __future__ import annotations

from pvemcp.errors import Fault
from pvemcp.health.check import Check, bad, good, warning
from pvemcp.host.ended import ended_of
from pvemcp.host.executor import Nowhere
from pvemcp.host.transcript import Transcript, Unmasked
from pvemcp.running import executor
from pvemcp.settings import Settings

NAME = "commands"


async def check_commands(settings: Settings) -> Check:
    """Run `true` as a client that may only read would."""
    chosen = executor(settings)
    request = {"do": "run", "profile": "read", "shell": "true", "timeout": 10, "owner": "doctor"}
    try:
        await chosen.ready()
        link = await chosen.open(request)
        try:
            await link.send_input(b"", last=True)
            while (frame := await link.receive()) and frame.kind != "X":
                pass
        finally:
            link.close()
    except Fault as fault:
        judge = warning if isinstance(chosen, Nowhere) else bad
        return judge(NAME, fault.message, fault.hint)
    finally:
        await chosen.close()
    if frame is None or ended_of(frame.payload, Transcript(Unmasked)).code != 0:
        hint = "On the host: journalctl -u pvemcp-helper, and see exec.toml."
        return bad(NAME, f"`true` did not run on {chosen.place}", hint)
    return good(NAME, f"run on {chosen.place}")
