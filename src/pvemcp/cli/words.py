"""What the commands read and print: durations, moments, tables."""

from __future__ import annotations

import getpass
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from pvemcp.settings import Settings
from pvemcp.unseen import hidden

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d{1,6})([smhdw])")
LONGEST = 10 * 365.25 * 86400
"""Seconds. A longer life is as good as none, and was more likely mistyped."""


def settings(context: click.Context, *, files: bool = False, **overrides: str | None) -> Settings:
    """Load the settings; an option of the command wins over the environment."""
    given = {
        f"PVEMCP_{name.upper()}": value for name, value in overrides.items() if value is not None
    }
    return Settings.load(context.obj, {**os.environ, **given}, files=files)


def seconds(text: str) -> float | None:
    """Read 45s, 30m, 12h, 90d or 2w as seconds; None for anything else."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] if match else None


class Duration(click.ParamType[float]):
    """A length of time, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read 45s, 30m, 12h, 90d or 2w."""
        found = seconds(str(value))
        if not found:
            self.fail(f"{value!r} is not a duration such as 30m, 12h, 90d or 2w.", param, ctx)
        if found > LONGEST:
            self.fail(
                f"{value!r} is more than 10 years: leave it out, for a grant without end.",
                param,
                ctx,
            )
        return found


class Moment(click.ParamType[float]):
    """A point in time, in seconds since the epoch: a time ago, or an ISO 8601 time."""

    name = "moment"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read 1h as one hour ago; an ISO time without a zone is in this machine's zone."""
        ago = seconds(str(value))
        if ago is not None:
            return time.time() - ago
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is neither like 1h nor like 2026-01-31T08:00.", param, ctx)


def moment(when: float | None) -> str:
    """Return the local time for a person, to the second, with its zone: texts of PVE and plans
    have UTC. Never raises.
    """
    if when is None:
        return "never"
    try:
        return datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (ValueError, OverflowError, OSError):  # beyond the years 1 to 9999
        return "in a distant year" if when > 0 else "before all time"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns padded to their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Escape what a terminal would obey: some of what is shown was sent by clients."""
    return "".join(
        char if char.isprintable() and not hidden(char) else f"\\x{ord(char):02x}" for char in text
    )


def person() -> str:
    """Return who sits here: whoever became root with sudo keeps his name."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def this_program() -> str:
    """Return the path of the running `pvemcp`, or its bare name."""
    started = Path(sys.argv[0])
    return str(started.absolute()) if started.name == "pvemcp" else "pvemcp"
