"""Commands inside a container of this node, through the root helper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pvemcp.call import Effect
from pvemcp.errors import Denied, Fault, Unavailable
from pvemcp.host.ended import Ended
from pvemcp.host.runner import Host, Stopped
from pvemcp.pve.client import Pve
from pvemcp.tools import posix
from pvemcp.tools.agent import KILL_SECONDS, in_background
from pvemcp.tools.guests import Guest

logger = logging.getLogger(__name__)

REFUSED = 125
"""Exit code of guest.py when it refuses."""
EVERYTHING = ("VM.GuestAgent.Unrestricted", "VM.Monitor")
"""What PVE asks for commands in a VM, on PVE 9 and on PVE 8; it has no commands in containers."""
READING = (*EVERYTHING, "VM.GuestAgent.FileRead")
WRITING = (*EVERYTHING, "VM.GuestAgent.FileWrite")
LONGEST = 300.0
"""Seconds that the helper gives a command in a container."""
_SLACK = 10.0
"""Seconds that the helper waits longer than we do, before it ends the command from outside."""
_ROUNDS = 5
"""Looks for what is to be killed, 0.2 s apart: `pct exec` may be about to start it."""


GUEST = "guest-exec"
"""The operation that enters a container."""
Reads = tuple[str, int, int]
"""Path, offset and limit."""
_CALL = re.compile(r"[0-9a-f]{16}")


async def require(pve: Pve, vmid: int, privileges: Sequence[str]) -> None:
    """Raise Denied unless PVE gives the token one of the privileges on the container.

    PVE itself is not asked again: the root helper enters containers as root.
    """
    path = f"/vms/{vmid}"
    held = (await pve.permissions(path)).get(path, {})
    if not any(name in held for name in privileges):
        raise Denied(
            f"this needs {privileges[0]} on {path}, which the PVE token "
            f"{pve.call.principal.token.id} lacks",
            hint="An administrator can give it a role with that privilege.",
        )


def effect_of(request: Mapping[str, Any]) -> Effect:
    """Return the effect of a request of `Container`, by what would run, not by who sends it.

    Only what posix.py makes for reading a part of a file, or for ending a call, counts as reading.
    """
    call, params, reads = request.get("call"), request.get("params"), request.get("reads")
    if not isinstance(call, str) or not _CALL.fullmatch(call) or not isinstance(params, dict):
        return Effect.DESTROY
    harmless = [posix.kill(call, rounds=_ROUNDS)]
    match reads:
        case [str(path), int(offset), int(limit)]:
            harmless.append(posix.read(path, offset, limit, call=call))
        case _:
            pass
    return Effect.READ if params.get("argv") in harmless else Effect.DESTROY


@dataclass(frozen=True, slots=True)
class Container:
    """A container of this node, for one call."""

    pve: Pve
    host: Host
    guest: Guest

    async def require(self, privileges: Sequence[str]) -> None:
        """Raise Denied unless the token has one of the privileges on the container."""
        await require(self.pve, self.guest.vmid, privileges)

    async def run(
        self,
        argv: list[str],
        *,
        stdin: bytes = b"",
        timeout: float,
        effect: Effect,
        raw: bool,
        reads: Reads | None = None,
    ) -> Ended:
        """Run a command of posix.py to its end; `reads` says what one of its `read` was made of.

        At the time limit, when cancelled or when its client is frozen, it is killed with all that
        it has started.
        """
        seconds = min(timeout + _SLACK, LONGEST)
        work = self._enter(argv, stdin=stdin, timeout=seconds, effect=effect, raw=raw, reads=reads)
        entering = asyncio.create_task(work)
        try:
            ended = await self._until(entering, timeout, effect)
        except asyncio.CancelledError:
            entering.cancel()
            in_background(self._give_up(effect), self.pve.call.id)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((entering,), timeout=1)  # its step belongs to the call
            raise
        except Stopped:
            in_background(self._give_up(effect), self.pve.call.id)
            raise
        except Unavailable:
            await self._automatic().kill(effect)
            raise
        if ended.code == REFUSED and (said := _refusal(ended)):
            raise Denied(said, hint="If the command did not say so itself, nothing was done.")
        return ended

    async def _until(self, entering: asyncio.Task[Ended], timeout: float, effect: Effect) -> Ended:
        """Wait for the end; at the time limit kill inside first, so that it comes in good order."""
        await asyncio.wait((entering,), timeout=timeout)
        if entering.done() and not entering.result().why:
            return entering.result()
        sure = await self._automatic().kill(effect)
        ended = await entering
        if ended.why not in {"", "timeout"}:
            return ended
        return replace(ended, why="timeout" if sure else "unsure")

    async def _enter(
        self,
        argv: list[str],
        *,
        stdin: bytes,
        timeout: float,
        effect: Effect,
        raw: bool,
        reads: Reads | None = None,
    ) -> Ended:
        params = {"vmid": self.guest.vmid, "argv": argv}
        request: dict[str, Any] = {"do": "operation", "name": GUEST, "params": params}
        request |= {"timeout": timeout, **({"reads": list(reads)} if reads else {})}
        label = f"lxc/{self.guest.vmid}"
        return await self.host.run(
            request, effect=effect, label=label, stdin=stdin, guarded=False, raw=raw
        )

    async def _give_up(self, effect: Effect) -> None:
        if not await self._automatic().kill(effect):
            logger.warning(
                "call %s was cancelled, and %s has not confirmed the end of its command",
                self.pve.call.id, self.guest,
            )  # fmt: skip

    def _automatic(self) -> Container:
        """Return it for what the service must end itself: no freeze stands in its way."""
        return replace(self, host=self.host.automatic())

    async def kill(self, effect: Effect) -> bool:
        """Kill the call's command and what it has started: ending `pct exec` does not do it.

        Tells whether the container confirms it.
        """
        argv = posix.kill(self.pve.call.id, rounds=_ROUNDS)
        try:
            ended = await self._enter(
                argv, stdin=b"", timeout=KILL_SECONDS, effect=effect, raw=True
            )
        except Fault:
            return False
        return ended.ok


def _refusal(ended: Ended) -> str:
    """Return why guest.py refused, or "" when the command itself ended with that code."""
    pieces = ended.transcript.since(0, 2000)
    said = b"".join(piece.data for piece in pieces if piece.stream == "stderr")
    text = said.decode("utf-8", "replace")
    return text.removeprefix("pvemcp: ").strip() if text.startswith("pvemcp: ") else ""
