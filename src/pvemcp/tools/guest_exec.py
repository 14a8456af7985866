"""Commands inside guests: VMs through the guest agent, containers through the root helper."""

from __future__ import annotations

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Invalid
from pvemcp.host.runner import Host
from pvemcp.pve.client import Pve
from pvemcp.tools import posix
from pvemcp.tools.agent import Vm
from pvemcp.tools.container import EVERYTHING, Container
from pvemcp.tools.guests import Guest, GuestName, locate
from pvemcp.tools.host import Env, Seconds, answer
from pvemcp.tools.tool import tool

_PAUSED = frozenset({"paused", "suspended", "prelaunch", "io-error", "inmigrate"})


@tool(effect=Effect.DESTROY, privileges=EVERYTHING)
async def guest_exec(
    pve: Pve,
    host: Host,
    guest: GuestName,
    command: str,
    stdin: str = "",
    cwd: str = "",
    env: Env = None,
    timeout: Seconds = 60,
) -> str:
    """Run a shell command inside a VM (guest agent; PowerShell on Windows) or a container."""
    _check(env or {})
    found = await running(pve, guest)
    data = stdin.encode("utf-8", "surrogatepass")
    if found.type == "lxc":
        container = Container(pve, await host.at(found.node), found)
        await container.require(EVERYTHING)
        argv = posix.command(command, cwd=cwd, env=env or {}, call=pve.call.id)
        ended = await container.run(
            argv, stdin=data, timeout=timeout, effect=Effect.DESTROY, raw=False
        )
    else:
        vm = Vm(pve, host, found)
        speaks = await vm.speaks()
        argv = speaks.command(command, cwd=cwd, env=env or {}, call=pve.call.id)
        ended = await vm.run(argv, stdin=data, timeout=timeout, speaks=speaks)
    return answer(host, ended, head=str(found), wrote=f"{found.type}/{found.vmid} command")


async def running(pve: Pve, guest: int | str) -> Guest:
    """Find a guest that runs. Raises Conflict for one that does not."""
    found = await locate(pve, guest)
    status = await pve.get(f"{found.path}/status/current")
    if status.get("template"):
        raise Conflict(f"{found} is a template: nothing runs in it", hint="Clone it first.")
    if status.get("status") != "running":
        raise Conflict(f"{found} is {status.get('status')}", hint="Start it first: guest_power.")
    if (state := status.get("qmpstatus")) in _PAUSED:
        raise Conflict(f"{found} is {state}: nothing runs in it", hint="guest_power resumes it.")
    return found


def _check(env: dict[str, str]) -> None:
    for name in env:
        if not name.isidentifier() or not name.isascii():
            raise Invalid(f"env: {name[:80]!r} cannot name a variable", hint="Use A-Z, 0-9 and _.")
