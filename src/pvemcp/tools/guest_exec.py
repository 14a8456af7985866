"""Commands inside guests: VMs through the guest agent, containers through the root helper."""

from __future__ import annotations

import base64

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Invalid
from pvemcp.host.ended import Ended
from pvemcp.host.runner import Host
from pvemcp.pve.client import Pve
from pvemcp.tools.agent import Vm, marked, prepared
from pvemcp.tools.container import EVERYTHING, Container
from pvemcp.tools.guests import Guest, GuestName, locate
from pvemcp.tools.host import Env, Seconds, answer
from pvemcp.tools.tool import tool

_UTF8 = "[Console]::OutputEncoding=[Text.Encoding]::UTF8;$ProgressPreference='SilentlyContinue';"


@tool(effect=Effect.DESTROY)
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
    found = await running(pve, guest)
    data = stdin.encode("utf-8", "surrogatepass")
    if found.type == "lxc":
        container = Container(pve, host, found)
        await container.require(EVERYTHING)
        argv = marked(prepared(command, cwd, env or {}), pve.call.id)
        ended = await container.run(
            argv, stdin=data, timeout=timeout, effect=Effect.DESTROY, raw=False
        )
    else:
        ended = await _in_vm(Vm(pve, host, found), command, data, cwd, env or {}, timeout)
    return answer(host, ended, head=str(found))


async def running(pve: Pve, guest: int | str) -> Guest:
    """Find a guest that runs. Raises Conflict for one that does not."""
    found = await locate(pve, guest)
    status = await pve.get(f"{found.path}/status/current")
    if status.get("template"):
        raise Conflict(f"{found} is a template: nothing runs in it", hint="Clone it first.")
    if status.get("status") != "running":
        raise Conflict(f"{found} is {status.get('status')}", hint="Start it first: guest_power.")
    return found


async def _in_vm(
    vm: Vm, command: str, stdin: bytes, cwd: str, env: dict[str, str], timeout: float
) -> Ended:
    if not await vm.is_windows():
        argv = marked(prepared(command, cwd, env), vm.pve.call.id)
        return await vm.run(argv, stdin=stdin, timeout=timeout)
    if "\0" in command:
        raise Invalid("a command cannot hold a NUL", hint="Take it out.")
    lines = [f"$env:{name}={_powershell(value)}" for name, value in env.items()]
    lines += [f"Set-Location -LiteralPath {_powershell(cwd)}"] if cwd else []
    script = "\n".join([_UTF8, *lines, command]).encode("utf-16-le")
    encoded = base64.b64encode(script).decode()
    argv = ["powershell.exe", "-NoProfile", "-NonInteractive", "-EncodedCommand", encoded]
    return await vm.run(argv, stdin=stdin, timeout=timeout)


def _powershell(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
