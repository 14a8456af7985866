"""Looking things up for a preview: what fails is said, not raised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvemcp.errors import Fault, Missing
from pvemcp.pve.client import Pve
from pvemcp.redaction import redact
from pvemcp.tools.render import one_line

SHOWN = 120
"""Characters of a value from PVE; names, notes and tags are other people's text."""
GUESTS = 500
"""Guests that are named in one line: who says yes must find the one that matters."""


@dataclass(slots=True)
class Seen:
    """What a preview has looked up, by name, and what it could not."""

    found: dict[str, Any] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.found.get(name)

    def rows(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a list of rows; none when it could not be seen."""
        rows: Sequence[Mapping[str, Any]] = self.found.get(name) or ()
        return rows


async def look(asked: Mapping[str, Awaitable[Any]], *, must: str = "") -> Seen:
    """Ask for everything at once. What PVE refuses is `unseen`, with PVE's reason in one line.

    Raises Missing where what `must` be there is not: PVE would refuse the write, too.
    """
    answers = await asyncio.gather(*asked.values(), return_exceptions=True)
    seen = Seen()
    for name, answer in zip(asked, answers, strict=True):
        if isinstance(answer, Missing) and name == must:
            raise answer
        if isinstance(answer, Fault):
            seen.unseen.append(f"{name}: {line(answer.message)}")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            seen.found[name] = answer
    return seen


def line(text: object, limit: int = SHOWN) -> str:
    """Write foreign text on one line, cut."""
    return one_line(text, limit)


def value(name: str, given: object) -> str:
    """Write one value of a config; a secret's name hides it."""
    return line(redact({name: given})[name])


def guests_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Name guests, and whether they run: `100 web01 (running), 106 build (stopped)`."""
    said = [
        f"{row['vmid']} {line(row.get('name', ''), 40)} ({line(row.get('status', 'not seen'), 20)})"
        for row in rows[:GUESTS]
    ]
    more = len(rows) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")


async def gaps(pve: Pve, *needs: tuple[str, str]) -> list[str]:
    """Say for which ACL paths and privileges a list may leave rows out."""
    said = await asyncio.gather(*(pve.blind(path, privilege) for path, privilege in needs))
    return [text for text in dict.fromkeys(said) if text]
