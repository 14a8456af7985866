"""Commands inside a container of this node, through the root helper."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Denied, Fault
from pvemcp.host.ended import Ended
from pvemcp.host.runner import Host
from pvemcp.pve.client import Pve
from pvemcp.tools.agent import KILL_SECONDS, killer
from pvemcp.tools.guests import Guest

REFUSED = 125
"""Exit code of guest.py when it refuses."""
EVERYTHING = ("VM.GuestAgent.Unrestricted", "VM.Monitor")
"""What PVE asks for commands in a VM, on PVE 9 and on PVE 8; it has no commands in containers."""
READING = (*EVERYTHING, "VM.GuestAgent.FileRead")
_killing: set[asyncio.Task[None]] = set()


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
        """Run a command to its end; at the time limit or when cancelled its tree is killed."""
        try:
            ended = await self._enter(argv, stdin=stdin, timeout=timeout, effect=effect, raw=raw)
        except asyncio.CancelledError:
            task = asyncio.create_task(self._end())
            _killing.add(task)
            task.add_done_callback(_killing.discard)
            raise
        if ended.why == "timeout":
            await self._end()
        if ended.code == REFUSED:
            pieces = ended.transcript.since(0, 2000)
            said = b"".join(p.data for p in pieces if p.stream == "stderr").decode(
                "utf-8", "replace"
            )
            if said.startswith("pvemcp: "):
                raise Denied(said.removeprefix("pvemcp: ").strip(), hint="Nothing was done.")
        return ended

    async def _enter(
        self, argv: list[str], *, stdin: bytes, timeout: float, effect: Effect, raw: bool
    ) -> Ended:
        params = {"vmid": self.guest.vmid, "argv": argv}
        request = {"do": "operation", "name": "guest-exec", "params": params, "timeout": timeout}
        label = f"lxc/{self.guest.vmid}"
        return await self.host.run(
            request, effect=effect, label=label, stdin=stdin, guarded=False, raw=raw
        )

    async def _end(self) -> None:
        """Kill what carries the call's marker: ending `pct exec` does not end it."""
        argv = ["/bin/sh", "-c", killer(self.pve.call.id)]
        try:
            await self._enter(argv, stdin=b"", timeout=KILL_SECONDS, effect=Effect.READ, raw=True)
        except Fault:
            return
