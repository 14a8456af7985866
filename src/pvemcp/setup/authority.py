"""The step that copies the authority of a PVE elsewhere to where the service can read it."""

from __future__ import annotations

from pathlib import Path

from pvemcp.errors import Misconfigured
from pvemcp.setup.plan import replace_file
from pvemcp.setup.step import Record

COPY = "pve-ca.pem"
"""Beside the settings file."""


class AuthorityStep:
    """The copy says what the given file says."""

    name = "authority of PVE"

    def __init__(self, given: Path, copy: Path) -> None:
        self._given = given
        self._copy = copy

    def plan(self) -> list[str]:
        """Say whether it is copied."""
        if _text(self._copy) == self._wanted():
            return []
        return [f"copy {self._given} to {self._copy}"]

    def foresee(self) -> Record:
        """Return what `apply` will have done."""
        return {"copy": str(self._copy), "before": _text(self._copy)}

    def apply(self) -> Record:
        """Copy."""
        record = self.foresee()
        self._copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(self._copy, self._wanted(), mode=0o644)
        return record

    def undo(self, record: Record) -> list[str]:
        """Bring back what was there before."""
        copy = Path(record["copy"])
        if record["before"] is not None:
            replace_file(copy, record["before"], mode=0o644)
            return [f"brought the former {copy} back"]
        if not copy.exists():
            return []
        copy.unlink()
        return [f"removed {copy}"]

    def _wanted(self) -> str:
        found = _text(self._given)
        if found is None:
            raise Misconfigured(f"{self._given} does not exist.", hint="Correct --pve-ca-file.")
        return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"{path} cannot be read as PEM: {error}.", hint="Correct --pve-ca-file."
        ) from None
