"""Persistent shells: open, type, read, close."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Invalid
from pvemcp.host.runner import Host
from pvemcp.host.shells import IDLE, Shell
from pvemcp.tools.host import Env, Node, Word, refuse_root
from pvemcp.tools.output import SHOWN, how, text
from pvemcp.tools.tool import ON_NODES, tool

Key = Literal["ctrl-c", "ctrl-d", "ctrl-z", "ctrl-l", "tab", "escape", "up", "down"]
_KEYS: dict[Key, bytes] = {
    "ctrl-c": b"\x03",
    "ctrl-d": b"\x04",
    "ctrl-z": b"\x1a",
    "ctrl-l": b"\x0c",
    "tab": b"\t",
    "escape": b"\x1b",
    "up": b"\x1b[A",
    "down": b"\x1b[B",
}
Rows = Annotated[int, Field(ge=2, le=500)]
Columns = Annotated[int, Field(ge=10, le=999)]
Seconds = Annotated[float, Field(ge=0, le=60, description="seconds to wait for output")]
_CONTROL = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|\x07"
)
_OVERWRITTEN = re.compile(rb"[^\n\r]*\r(?=[^\n\r])")


@tool(reach=Effect.DESTROY, privileges=ON_NODES)
async def shell_open(
    host: Host,
    effect: Word = "read",
    cwd: str = "",
    env: Env = None,
    rows: Rows = 40,
    columns: Columns = 160,
    node: Node = "",
) -> str:
    """Open a persistent bash on the PVE host, in a sandbox; state is kept between calls."""
    wanted = Effect.parse(effect)
    refuse_root(wanted)
    host = await host.at(node)
    size = {"rows": rows, "columns": columns}
    shell = await host.runner.shells.open(host, wanted, size=size, cwd=cwd, env=env or {})
    await shell.quiet(0, 5)
    recorded = "recorded; " if shell.recording is not None else ""
    head = (
        f"{shell.name} ({shell.profile}, {host.place}); {recorded}"
        f"closed after {IDLE / 60:.0f} idle minutes"
    )
    return f"{head}\n{_page(shell, 0)}"


@tool(reach=Effect.DESTROY, privileges=ON_NODES)
async def shell_send(
    host: Host,
    shell: str,
    text: str = "",
    enter: bool = True,  # noqa: FBT001, FBT002 - an argument of a tool
    key: Annotated[Key | None, Field(description="pressed after the text")] = None,
    rows: Rows | None = None,
    columns: Columns | None = None,
    wait: Seconds = 5,
) -> str:
    """Type into a shell and return what it wrote until it paused. key=ctrl-c interrupts."""
    found = _open(host, shell)
    typing = {"shell": shell, "typed": text, "key": key or ""}
    await host.ask(found.effect, f"host/{found.profile}/shell", typing, guarded=False)
    if (rows is None) != (columns is None):
        raise Invalid("rows and columns go together", hint="Give both, or neither.")
    if rows is not None and columns is not None:
        await found.resize(rows, columns)
    typed = text.encode("utf-8", "surrogatepass")
    typed += _KEYS[key] if key else b"\n" if enter and (text or rows is None) else b""
    start = found.transcript.end
    found.transcript.settle()
    await found.type(typed)
    await found.quiet(start, wait)
    return _page(found, min(found.read_to, start))


@tool(privileges=ON_NODES)
async def shell_read(
    host: Host,
    shell: str,
    cursor: Annotated[int | None, Field(ge=0, description="default: where you stopped")] = None,
    wait: Seconds = 0,
) -> str:
    """Read what a shell has written."""
    found = host.runner.shells.find(host, shell)
    start = found.read_to if cursor is None else cursor
    await found.quiet(start, wait)
    return _page(found, start)


@tool(privileges=ON_NODES)
async def shell_close(host: Host, shell: str) -> str:
    """Close a shell, and end everything in it."""
    found = host.runner.shells.find(host, shell)
    if found.ended is not None:
        return f"{shell} has ended already: {_end(found)}"
    await host.runner.shells.close(found, "closed")
    return f"{shell} is closed"


def _open(host: Host, name: str) -> Shell:
    found = host.runner.shells.find(host, name)
    if found.ended is not None:
        raise Conflict(
            f"{name} has ended: {_end(found)}",
            hint="Its last output: shell_read. Another shell: shell_open.",
        )
    return found


def _end(shell: Shell) -> str:
    return shell.why or (how(shell.ended) if shell.ended else "")


def _page(shell: Shell, cursor: int) -> str:
    """Write output from a cursor on, and where to go on."""
    transcript = shell.transcript
    pieces = transcript.since(cursor, SHOWN)
    begin = pieces[0].start if pieces else transcript.end
    after = pieces[-1].start + len(pieces[-1].data) if pieces else begin
    shell.read_to = after
    lines = []
    if begin > cursor:
        lines.append(f"[{begin - cursor} bytes are no longer kept]")
    lines.append(plain(b"".join(piece.data for piece in pieces)) or "[nothing new]")
    left = transcript.end - after
    state = f"ended: {_end(shell)}" if shell.ended is not None else "open"
    rest = f", {left} bytes more: shell_read" if left else ""
    lines.append(f"[{shell.name} {state}, cursor={after}{rest}]")
    return "\n".join(lines)


def plain(data: bytes) -> str:
    """Return a terminal's output as text: without escape sequences and overwritten lines."""
    lines = _CONTROL.sub(b"", data).replace(b"\r\n", b"\n").replace(b"\r\r\n", b"\n")
    return text(_OVERWRITTEN.sub(b"", lines))
