"""The lines of the report: a bar, a figure, and whether the figure meets the bar."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

_WIDTHS = (60, 10, 10)


@dataclass(slots=True)
class Report:
    """Prints each line as soon as it is measured, and counts what missed its bar."""

    lines: int = 0
    missed: int = 0

    def title(self, text: str) -> None:
        """Begin a part."""
        print(f"\n{text}", flush=True)

    def head(self) -> None:
        """Say where this runs."""
        load = os.getloadavg()[0]
        print(
            f"pvemcp bench: {len(os.sched_getaffinity(0))} cores, load {load:.1f}, "
            f"Python {platform.python_version()}, mcp {version('mcp')}, "
            f"aiohttp {version('aiohttp')}"
        )
        print("  " + _columns("", "bar", "figure"))

    def most(self, what: str, figure: float, bar: float, unit: str = "", note: str = "") -> None:
        """A figure that must not be above its bar."""
        verdict = self._judged(met=figure <= bar)
        self._print(what, f"<= {_number(bar, unit)}", _number(figure, unit), verdict, note)

    def least(self, what: str, figure: float, bar: float, unit: str = "", note: str = "") -> None:
        """A figure that must not be below its bar."""
        verdict = self._judged(met=figure >= bar)
        self._print(what, f">= {_number(bar, unit)}", _number(figure, unit), verdict, note)

    def info(self, what: str, figure: float, unit: str = "", note: str = "") -> None:
        """A figure without a bar."""
        self._print(what, "", _number(figure, unit), "", note)

    def end(self) -> None:
        """Sum up."""
        print(f"\n{self.lines - self.missed} of {self.lines} bars met", flush=True)

    def _judged(self, *, met: bool) -> str:
        self.lines += 1
        self.missed += not met
        return "pass" if met else "MISS"

    def _print(self, what: str, bar: str, figure: str, verdict: str, note: str) -> None:
        line = f"{_columns(what, bar, figure)} {verdict:5}{note}".rstrip()
        print(f"  {line}", flush=True)


def _columns(what: str, bar: str, figure: str) -> str:
    return f"{what:{_WIDTHS[0]}}{bar:>{_WIDTHS[1]}}{figure:>{_WIDTHS[2]}}"


def _number(value: float, unit: str) -> str:
    if unit == "x":
        return f"{value:.2f}x"
    shown = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
    return f"{shown} {unit}".rstrip()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
