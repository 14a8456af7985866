"""Write docs/reference and the snapshot of the tool list from the code: `python -m tests.generate`.

With `--check`, write nothing, show how the pages differ from the code, and exit with 1 if they do.
"""

from __future__ import annotations

import difflib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pvemcp import errors
from pvemcp.call import Effect
from pvemcp.cli import commands
from pvemcp.settings import CONFIG_VARIABLE, SYSTEM_CONFIG, Settings
from pvemcp.tools.registry import TOOLS, listing
from pvemcp.tools.tool import Tool

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
SNAPSHOT = FOLDER.parents[1] / "tests" / "contract" / "tools.json"
MADE = "<!-- Made by `make format` from the code; changes here are lost. -->"


def settings_page() -> Iterator[str]:
    """Describe every setting."""
    yield "# Settings"
    yield (
        f"One TOML file: `--config FILE`, else `{CONFIG_VARIABLE}`, else `{SYSTEM_CONFIG}` if it "
        "exists. Every setting also has an environment variable, which wins over the file; one "
        "that is set but empty counts as not set. Unknown and contradictory settings are refused."
    )
    yield '```toml\npve_url = "https://pve1.example.org:8006"\npve_token_id = "mcp@pve!pvemcp"\n```'
    for item in Settings.describe():
        default = f"`{item.default}`" if item.default else "none"
        yield f"## {item.name}"
        yield f"`{item.env}` · {item.type} · default: {default}"
        yield item.help


def cli_page() -> Iterator[str]:
    """Describe every command with its arguments and options."""
    yield "# Command line"
    yield (
        "Exit codes: 0 done; 1 `doctor` found something to repair; 2 the command failed, and "
        "stderr says why and what to do; 130 interrupted."
    )
    yield from _command(commands, "pvemcp", None)


def _command(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    yield f"## {path}"
    yield "```\n" + " ".join([path, *command.collect_usage_pieces(context)]) + "\n```"
    yield inspect.cleandoc(command.help or "")
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if options:
        rows = [(f"`{_names(option)}`", option.help or "", _default(option)) for option in options]
        yield _table(("option", "meaning", "default"), rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _command(command.commands[name], f"{path} {name}", context)


def _names(option: click.Option) -> str:
    names = ", ".join(option.opts)
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(map(str, option.type.choices))}"
    return f"{names} {option.metavar or option.type.name.upper()}"


def _default(option: click.Option) -> str:
    if option.is_flag or not isinstance(option.default, str | int):
        return "required" if option.required else ""
    return f"`{option.default}`"


def tools_page() -> Iterator[str]:
    """Describe every tool as a model sees it."""
    yield "# Tools"
    yield (
        "A tool is listed for a grant whose ceiling is at least the tool's own effect; what a call "
        "really does is checked again at each request to PVE."
    )
    for tool in TOOLS:
        yield from _tool(tool)


def _tool(tool: Tool) -> Iterator[str]:
    yield f"## {tool.name}"
    reach = "" if tool.reach is tool.effect else f", up to `{tool.reach}`"
    yield f"Effect: `{tool.effect}`{reach}."
    yield tool.description
    required = tool.schema.get("required", [])
    rows = [
        (
            f"`{name}`",
            _type(schema),
            schema.get("description", ""),
            "required" if name in required else _literal(schema),
        )
        for name, schema in tool.schema["properties"].items()
    ]
    yield _table(("argument", "type", "meaning", "default"), rows) if rows else "No arguments."


def _literal(schema: Mapping[str, Any]) -> str:
    return f"`{schema['default']}`" if "default" in schema else ""


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kinds = schema.get("type", "any")
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([kinds if isinstance(kinds, str) else " or ".join(kinds), *bounds])


_BOUNDS = {"minimum": "from", "maximum": "to"}


def errors_page() -> Iterator[str]:
    """Describe every class of error that a caller can meet."""
    yield "# Errors"
    yield (
        "Each error that a client reads has a message (what happened) and a hint (what to do "
        "next). The audit keeps its code as the outcome of the call. Further outcomes: `ok`; "
        "`cancelled` by the client; `internal`, a defect of pvemcp, whose details are in the log; "
        "`running`; and `unfinished: may have happened`, when the service was killed amid a change."
    )
    rows = [
        (f"`{fault.code}`", fault.__name__, " ".join(inspect.cleandoc(fault.__doc__ or "").split()))
        for fault in _faults(errors.Fault)
    ]
    yield _table(("code", "class", "meaning"), rows)


def _faults(base: type[errors.Fault]) -> Iterator[type[errors.Fault]]:
    for fault in base.__subclasses__():
        yield fault
        yield from _faults(fault)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {
    "settings.md": settings_page,
    "cli.md": cli_page,
    "tools.md": tools_page,
    "errors.md": errors_page,
}


def page(name: str) -> str:
    """Return the whole text of a page."""
    title, *rest = PAGES[name]()
    return "\n\n".join([title, MADE, *rest]) + "\n"


def stale() -> str:
    """Return a unified diff from the pages to the code; empty when they agree."""
    diff: list[str] = []
    for name in PAGES:
        path = FOLDER / name
        found = path.read_text("utf-8") if path.exists() else ""
        diff += difflib.unified_diff(
            found.splitlines(keepends=True),
            page(name).splitlines(keepends=True),
            f"docs/reference/{name}",
            "the code",
        )
    return "".join(diff)


def main(arguments: list[str]) -> int:
    """Write the pages, or check them."""
    if "--check" in arguments:
        if diff := stale():
            sys.stdout.write(f"{diff}\nThe reference is stale: run make format.\n")
        return 1 if diff else 0
    SNAPSHOT.write_text(json.dumps(listing(Effect.DESTROY), indent=1) + "\n", "utf-8")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (FOLDER / name).write_text(page(name), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
