"""Commands inside a container of this node, through the root helper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Denied, Fault, Unavailable
from pvemcp.host.ended import Ended
from pvemcp.host.runner import Host
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


@dataclass(frozen=True, slots=True)
class Container:
    """A container of this node, for one call."""

    pve: Pve
    host: Host
    guest: Guest

    async def require(self, privileges: Sequence[str]) -> None:
        """Raise Denied unless PVE gives the token one of the privileges on the container.

        PVE itself is not asked again: the root helper enters containers as root.
        """
        path = f"/vms/{self.guest.vmid}"
        held = (await self.pve.permissions(path)).get(path, {})
        if not any(name in held for name in privileges):
            raise Denied(
                f"this needs {privileges[0]} on {path}, which the PVE token "
                f"{self.pve.call.principal.token.id} lacks",
                hint="An administrator can give it a role with that privilege.",
            )
        if self.host.node and self.host.node != self.guest.node:
            raise Conflict(
                f"{self.guest} is on {self.guest.node}, and this pvemcp runs commands on "
                f"{self.host.node}",
                hint=f"Use the pvemcp of {self.guest.node}.",
            )

    async def run(
        self, argv: list[str], *, stdin: bytes = b"", timeout: float, effect: Effect, raw: bool
    ) -> Ended:
        """Run a command of posix.py to its end.

        At the time limit, or when cancelled, it is killed with all that it has started.
        """
        work = self._enter(
            argv, stdin=stdin, timeout=min(timeout + _SLACK, LONGEST), effect=effect, raw=raw
        )
        entering = asyncio.create_task(work)
        try:
            ended = await self._until(entering, timeout, effect)
        except asyncio.CancelledError:
            entering.cancel()
            in_background(self._give_up(effect), self.pve.call.id)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((entering,), timeout=1)  # its step belongs to the call
            raise
        except Unavailable:
            await self.kill(effect)
            raise
        if ended.code == REFUSED and (said := _refusal(ended)):
            raise Denied(said, hint="If the command did not say so itself, nothing was done.")
        return ended

    async def _until(self, entering: asyncio.Task[Ended], timeout: float, effect: Effect) -> Ended:
        """Wait for the end; at the time limit kill inside first, so that it comes in good order."""
        await asyncio.wait((entering,), timeout=timeout)
        if entering.done() and not entering.result().why:
            return entering.result()
        sure = await self.kill(effect)
        ended = await entering
        if ended.why not in {"", "timeout"}:
            return ended
        return replace(ended, why="timeout" if sure else "unsure")

    async def _enter(
        self, argv: list[str], *, stdin: bytes, timeout: float, effect: Effect, raw: bool
    ) -> Ended:
        params = {"vmid": self.guest.vmid, "argv": argv}
        request = {"do": "operation", "name": "guest-exec", "params": params, "timeout": timeout}
        label = f"lxc/{self.guest.vmid}"
        return await self.host.run(
            request, effect=effect, label=label, stdin=stdin, guarded=False, raw=raw
        )

    async def _give_up(self, effect: Effect) -> None:
        if not await self.kill(effect):
            logger.warning(
                "call %s was cancelled, and %s has not confirmed the end of its command",
                self.pve.call.id, self.guest,
            )  # fmt: skip

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
