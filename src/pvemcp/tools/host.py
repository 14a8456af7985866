"""The host: run a command in a sandbox, or one of the named diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from pvemcp.call import Effect
from pvemcp.errors import Denied, Invalid, Missing
from pvemcp.host.ended import PROFILES, Ended
from pvemcp.host.runner import Host
from pvemcp.pve.nearest import nearest_hint
from pvemcp.tools.output import SHOWN, json_of, write_ended
from pvemcp.tools.render import within_budget
from pvemcp.tools.tool import ON_NODES, Format, tool
from pvemcp.tools.untrusted import quoted

Word = Annotated[
    Literal["read", "change", "destroy"],
    Field(description="the sandbox: read cannot write, change has a workspace, destroy is root"),
]
Env = dict[str, str] | None
Node = Annotated[str, Field(description="another node of the cluster")]
Seconds = Annotated[int, Field(ge=1, le=300, description="seconds")]


@tool(reach=Effect.DESTROY, always=True, privileges=ON_NODES)
async def host_run(
    host: Host,
    command: str,
    effect: Word = "read",
    cwd: str = "",
    env: Env = None,
    stdin: str = "",
    timeout: Seconds = 60,
    node: Node = "",
    format: Format = "text",
) -> str:
    """Run a bash command on the PVE host, in a sandbox of the kernel."""
    wanted = Effect.parse(effect)
    host = await host.at(node)
    profile = PROFILES[wanted]
    if wanted is Effect.DESTROY:
        ended = await _as_root(host, command, cwd=cwd, env=env or {}, stdin=stdin, timeout=timeout)
        return answer(host, ended, head=f"{profile}, {host.place}", format=format)
    request: dict[str, Any] = {"do": "run", "profile": profile, "shell": command}
    request |= {"cwd": cwd, "env": env or {}, "timeout": timeout}
    ended = await host.run(
        request,
        effect=wanted,
        label=f"host/{profile}",
        stdin=stdin.encode("utf-8", "surrogatepass"),
    )
    return answer(host, ended, head=f"{profile}, {host.place}", format=format)


async def _as_root(
    host: Host, command: str, *, cwd: str, env: dict[str, str], stdin: str, timeout: int
) -> Ended:
    """Run what a person approves on this host. Raises Denied where that is off."""
    if stdin:
        raise Invalid("a command as root takes no stdin", hint="Write it into the command.")
    if host.is_remote:
        raise Denied(
            f"commands as root on {host.node} are asked for at the pvemcp of that node",
            hint="Use effect=change, or connect to that node.",
        )
    if not (await host.allowed()).get("profiles", {}).get("root", {}).get("enabled", True):
        raise Denied(
            "commands as root are off on this host",
            hint="Use effect=change (a workspace and the network) or the tools for PVE. An "
            "administrator sets enabled = true under [profiles.root] in /etc/pvemcp/exec.toml; "
            "each command then waits for a person.",
        )
    return await host.as_root({"shell": command, "cwd": cwd, "env": env}, timeout=timeout)


def refuse_root(effect: Effect) -> None:
    """Refuse shells and jobs of root: nobody can approve what will be typed. Raises Denied."""
    if effect is Effect.DESTROY:
        raise Denied(
            "root has no shells and no jobs: a person approves each command",
            hint="Use host_run(effect=destroy), or effect=change.",
        )


def answer(host: Host, ended: Ended, *, head: str, format: Format = "text", wrote: str = "") -> str:
    """Write how a command ended; keep the output if it is too long for one answer.

    `wrote` says whose text the output is, when it is a guest's.
    """
    rest = ""
    if ended.transcript.end > SHOWN:
        name = host.runner.outputs.keep(host.who()["owner"], ended.transcript)
        rest = f'job_read(job="{name}", cursor="{SHOWN // 2}") goes on'
    write = json_of if format == "json" else partial(write_ended, head=head)
    if wrote and format == "text":
        first, _, output = write_ended(ended, head=head, rest=rest).partition("\n")
        return f"{first}\n{quoted(host.call, wrote, output)}"
    return write(ended, rest=rest)


@tool(privileges=ON_NODES)
async def host_diagnose(
    host: Host,
    operation: Annotated[str, Field(description="none: list them")] = "",
    params: dict[str, str | int] | None = None,
    timeout: Seconds = 60,
    node: Node = "",
) -> str:
    """Run a named read-only diagnostic of the PVE host: disks, network, services, logs, PVE."""
    host = await host.at(node)
    known = {
        name: found
        for name, found in (await host.allowed()).get("operations", {}).items()
        if not found.get("internal")
    }
    if not operation:
        return within_budget(_listing(known), rest="")
    if operation not in known:
        raise Missing(
            f"no diagnostic {operation[:80]}{nearest_hint(operation, known)}",
            hint="host_diagnose() lists them.",
        )
    ended = await host.operation(operation, params, timeout=timeout)
    return answer(host, ended, head=f"{operation}, {host.place}")


def _listing(known: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[str] = []
    group = ""
    for name, found in known.items():
        if found.get("group", "") != group:
            group = found.get("group", "")
            lines.append(f"{group}:")
        parameters = ", ".join(_parameter(*item) for item in found.get("parameters", {}).items())
        lines.append(f"  {name}({parameters}): {found.get('about', '')}")
    return "\n".join(lines) or "no diagnostics are set in exec.toml"


def _parameter(name: str, rule: Mapping[str, Any]) -> str:
    kind = rule.get("about", "")
    if rule.get("type") == "integer":
        kind = f"{kind}, {rule['min']} to {rule['max']}".removeprefix(", ")
    default = f" = {rule['default']}" if "default" in rule else ""
    return f"{name}{'?' if rule.get('optional') else ''}{default} [{kind}]"
