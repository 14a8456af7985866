"""Shell commands: what one would do, before it is run. An explanation permits nothing."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from pvemcp.call import Effect
from pvemcp.explain.explain import explain
from pvemcp.explain.values import Explanation, Line
from pvemcp.tools.render import json_within_budget, within_budget
from pvemcp.tools.tool import Format, tool

_REST = "explain a part of the command"


@tool()
async def command_explain(command: str, format: Format = "text") -> str:
    """Tell what a shell command would run and touch, and the effect it needs. Runs nothing."""
    found = await asyncio.to_thread(explain, command)
    if format == "json":
        return json_within_budget(_view(found), rest=_REST)
    lines = [_overall(found), *(f"cannot read: {problem}" for problem in found.problems)]
    return within_budget("\n".join([*lines, *map(_line, found.lines)]), rest=_REST)


def _overall(found: Explanation) -> str:
    if not found.lines and not found.problems:
        return "read: there is nothing to run."
    if found.verdict == "cannot tell":
        if found.effect is Effect.READ:
            return (
                "cannot tell: try host_run effect=read, where the kernel refuses whatever changes "
                "something."
            )
        return (
            f"cannot tell, at least {found.effect}: needs host_run effect={found.effect} or above."
        )
    return f"{found.effect}: needs host_run effect={found.effect}."


def _line(line: Line) -> str:
    context = f"[{line.context}] " if line.context else ""
    told = "; ".join(filter(None, (line.why, ", ".join(map(str, line.touches)))))
    least = f" (at least {line.effect})" if _least(line) else ""
    head = f"{'  ' * min(line.depth, 12)}{line.line}:{line.column} {context}{line.command}"
    return f"{head} -> {line.verdict}{least}" + (f": {told}" if told else "")


def _least(line: Line) -> bool:
    return line.verdict == "cannot tell" and line.effect is not Effect.READ


def _view(found: Explanation) -> dict[str, Any]:
    return {
        "effect": found.verdict,
        "least": str(found.effect),
        "problems": list(found.problems),
        "commands": [
            asdict(line)
            | {"effect": line.verdict, "least": str(line.effect)}
            | {"touches": [str(touch) for touch in line.touches]}
            for line in found.lines
        ],
    }
