"""Writes what is made from the commands: the manual page, and completion for each shell."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from pvemcp import __version__
from pvemcp.cli import commands

COMPLETIONS = {
    "bash": "bash-completion/completions/pvemcp",
    "zsh": "zsh/vendor-completions/_pvemcp",
    "fish": "fish/vendor_completions.d/pvemcp.fish",
}
"""Below /usr/share."""
_FILES = {
    "/etc/pvemcp/pvemcp.toml": "The settings.",
    "/etc/pvemcp/exec.toml": "What the root helper may run, and in which sandbox.",
    "/var/lib/pvemcp": "The database: clients, audit, keys.",
    "/var/backups/pvemcp": "What was kept before an upgrade, and backups.",
}


def main(share: Path, date: datetime) -> None:
    """Write everything below `share`."""
    page = "\n".join(manual(date)) + "\n"
    _write(share / "man/man1/pvemcp.1", page)
    for shell, place in COMPLETIONS.items():
        made = get_completion_class(shell)
        if made is None:
            raise SystemExit(f"click has no completion for {shell}")
        made._check_version = staticmethod(lambda: None)  # type: ignore[attr-defined] # noqa: SLF001
        _write(share / place, made(commands, {}, "pvemcp", "_PVEMCP_COMPLETE").source())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def manual(date: datetime) -> Iterator[str]:
    """Return the lines of the manual page."""
    yield f'.TH PVEMCP 1 "{date:%Y-%m-%d}" "pvemcp {__version__}" "Proxmox VE"'
    yield ".SH NAME"
    yield "pvemcp \\- the MCP service of a Proxmox VE host"
    yield ".SH SYNOPSIS"
    yield ".B pvemcp"
    yield "[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]"
    yield ".SH DESCRIPTION"
    yield from _text(commands.help or "")
    yield from _options(commands)
    yield ".SH COMMANDS"
    context = click.Context(commands, info_name="pvemcp")
    for name in commands.list_commands(context):
        yield from _command(commands.commands[name], name, context)
    yield ".SH FILES"
    for path, text in _FILES.items():
        yield from (".TP", f".I {_plain(path)}", _plain(text))
    yield ".SH EXIT STATUS"
    yield from _text(
        "0 done; 1 a check found something to repair; 2 the command failed, and stderr says why "
        "and what to do; 130 interrupted."
    )
    yield ".SH SEE ALSO"
    yield ".BR journalctl (1),"
    yield ".BR systemctl (1)"


def _command(command: click.Command, path: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f'.SS "{_plain(path)} {_plain(pieces)}"'
    yield from _text(inspect.cleandoc(command.help or ""))
    yield from _options(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _command(command.commands[name], f"{path} {name}", context)


def _options(command: click.Command) -> Iterator[str]:
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            value = "" if option.is_flag else f" \\fI{_plain(_value(option))}\\fR"
            yield from (".TP", f"\\fB{_plain(', '.join(option.opts))}\\fR{value}")
            yield _plain(option.help or "\\&")


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.metavar or option.type.name.upper()


def _text(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.replace("\b", "").split("\n\n")):
        if number:
            yield ".PP"
        yield _plain(" ".join(paragraph.split()))


def _plain(text: str) -> str:
    """Escape what roff would take for its own."""
    text = " ".join(text.split()) if text.strip() else text
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{text}" if text[:1] in {".", "'"} else text


if __name__ == "__main__":
    main(Path(sys.argv[1]), datetime.fromtimestamp(int(sys.argv[2]), UTC))
