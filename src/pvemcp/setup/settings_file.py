"""The step that writes the settings file, and leaves alone what an administrator set."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pvemcp.errors import Misconfigured
from pvemcp.setup import toml_lines
from pvemcp.setup.plan import replace_file
from pvemcp.setup.step import Record

GROUP = "pvemcp"
MODE = 0o640
HEAD = """\
# Settings of pvemcp, written by pvemcp setup, which changes no line that somebody else wrote.
# `pvemcp doctor` checks them; the settings reference explains each.
"""


class SettingsStep:
    """The file says `wanted`, but for what somebody else has set in it.

    `records` are what this step did before, oldest first: they tell whose a value is.
    """

    name = "settings"

    def __init__(self, path: Path, wanted: Mapping[str, Any], records: Iterable[Record]) -> None:
        self._path = path
        self._wanted = dict(wanted)
        self._ours = {name: value for one in records for name, value in one["set"].items()}

    def plan(self) -> list[str]:
        """Return the lines that would be written."""
        return [
            f"{self._path}: {toml_lines.line(name, value)}"
            for name, value in self._missing(self._now()).items()
        ]

    def kept(self) -> list[str]:
        """Return the lines that stay as somebody else wrote them, though set-up would not."""
        now = _values(self._now())
        return [
            f"{toml_lines.line(name, now[name])} (set-up would say {toml_lines.line(name, value)})"
            for name, value in self._wanted.items()
            if name in now and now[name] != value and not self._is_ours(name, now)
        ]

    def foresee(self) -> Record:
        """Return what `apply` will have done; the former text too, which may hold a secret."""
        before = self._now()
        given = self._missing(before)
        return {
            "path": str(self._path),
            "before": before,
            "mode": stat.S_IMODE(self._path.stat().st_mode) if before is not None else MODE,
            "after": toml_lines.changed(HEAD if before is None else before, given),
            "set": given,
        }

    def apply(self) -> Record:
        """Write the file."""
        record = self.foresee()
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(self._path, record["after"], mode=MODE, owner=_owner(self._path))
        return record

    def undo(self, record: Record) -> list[str]:
        """Bring the former file back; once somebody changed it, only the lines of ours."""
        path, now = Path(record["path"]), self._now()
        if now is None or now == record["before"]:
            return []
        if now == record["after"]:
            if record["before"] is None:
                path.unlink()
                return [f"removed {path}"]
            replace_file(path, record["before"], mode=record["mode"], owner=_owner(path))
            return [f"brought the former {path} back"]
        values, former = _values(now), _values(record["before"])
        back = {
            name: former.get(name)
            for name, value in record["set"].items()
            if values.get(name) == value
        }
        replace_file(path, toml_lines.changed(now, back), mode=record["mode"], owner=_owner(path))
        return [f"took {', '.join(back)} out of {path}; the rest was changed by somebody else"]

    def _now(self) -> str | None:
        try:
            return self._path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(
                f"{self._path} cannot be read: {error}.", hint="Run as root."
            ) from None

    def _missing(self, text: str | None) -> dict[str, Any]:
        now = _values(text)
        return {
            name: value
            for name, value in self._wanted.items()
            if now.get(name) != value and (name not in now or self._is_ours(name, now))
        }

    def _is_ours(self, name: str, now: Mapping[str, Any]) -> bool:
        return name in self._ours and now[name] == self._ours[name]


def _values(text: str | None) -> dict[str, Any]:
    return toml_lines.loads(text or "")


def _owner(path: Path) -> tuple[int, int] | None:
    """Return owner and group of the file: as it is, or root and the service's group."""
    if path.exists():
        return path.stat().st_uid, path.stat().st_gid
    if os.geteuid() != 0:
        return None
    try:
        return 0, grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
