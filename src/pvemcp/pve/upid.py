"""UPIDs: PVE's names of tasks. The API description does not mark them, so values tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pvemcp.errors import Invalid

_UPID = re.compile(
    r"UPID:(?P<node>[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?):(?P<pid>[0-9A-Fa-f]{8,9}):"
    r"[0-9A-Fa-f]{8,9}:(?P<start>[0-9A-Fa-f]{8}):(?P<type>[^:\s/]+):(?P<id>[^:\s/]*):"
    r"(?P<user>[^:\s/]+):"
)
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Upid:
    """A task's name, taken apart. `user` includes the token, as in `root@pam!name`."""

    node: str
    pid: int
    start: int
    """Seconds since the epoch."""
    type: str
    """Such as qmstart or vzdump."""
    id: str
    """What the task works on: a guest's id, a file name, or empty."""
    user: str
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Upid:
        """Take a UPID apart. Raises Invalid for anything else."""
        found = _match(text)
        if found is None:
            raise Invalid(
                f"{str(text)[:80]!r} is not a UPID",
                hint="It looks like UPID:pve1:0000A1B2:00C3D4E5:65F00000:qmstart:100:root@pam:",
            )
        return cls(
            node=found["node"],
            pid=int(found["pid"], 16),
            start=int(found["start"], 16),
            type=found["type"],
            id=found["id"],
            user=found["user"],
            text=text,
        )


def is_upid(value: Any) -> bool:
    """Tell whether a value is a UPID."""
    return _match(value) is not None


def upid_in(data: Any) -> str:
    """Return the UPID that an answer's data are or hold (`{"upid": …}`), or ""."""
    if isinstance(data, dict):
        data = data.get("upid")
    return data if isinstance(data, str) and is_upid(data) else ""


def _match(value: Any) -> re.Match[str] | None:
    usable = isinstance(value, str) and len(value) <= _LONGEST
    return _UPID.fullmatch(value) if usable else None
