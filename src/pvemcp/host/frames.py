"""The caller's end of a command: frames to and from the process in its sandbox (see inside.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pvemcp.errors import (
    Conflict,
    Denied,
    Fault,
    Internal,
    Invalid,
    Misconfigured,
    Missing,
    Rejected,
    Unauthenticated,
    Unavailable,
    Uncertain,
)

HEADER = struct.Struct(">cI")
PIECE = 60_000
"""Bytes of input in one frame."""
MOST = 1 << 20
"""Bytes of a frame that is taken: the command could write frames of its own."""
_FAULTS: Mapping[str, type[Fault]] = {
    "invalid": Invalid,
    "denied": Denied,
    "busy": Conflict,
    "broken": Misconfigured,
    "limited": Conflict,
    **{
        kind.code: kind
        for kind in (
            *(Conflict, Internal, Misconfigured, Missing, Rejected),
            *(Unauthenticated, Unavailable, Uncertain),
        )
    },
}
"""The helper's codes, and those that nodes tell each other."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: B begun, O output, e error output, X end, A answer."""

    kind: str
    payload: bytes


class Writer(Protocol):
    """What is needed of asyncio's StreamWriter; asyncssh has the same."""

    def write(self, data: bytes) -> None:
        """Take bytes to send."""

    async def drain(self) -> None:
        """Wait until some of them have gone."""

    def close(self) -> None:
        """Close the connection."""


class Reader(Protocol):
    """What is needed of asyncio's StreamReader; asyncssh has the same."""

    async def readexactly(self, n: int) -> bytes:
        """Read exactly n bytes."""


class Link:
    """A connection that carries one request. Closing it ends the command."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, kind: str, payload: bytes = b"") -> None:
        """Send one frame. Raises Unavailable when the other side has gone."""
        try:
            self._writer.write(HEADER.pack(kind.encode(), len(payload)) + payload)
            await self._writer.drain()
        except OSError as error:
            raise _gone(error) from None

    async def send_object(self, kind: str, value: Mapping[str, Any]) -> None:
        """Send one frame that holds JSON."""
        await self.send(kind, json.dumps(value).encode())

    async def send_input(self, data: bytes, *, last: bool) -> None:
        """Send input of the command, and its end."""
        for start in range(0, len(data), PIECE):
            await self.send("I", data[start : start + PIECE])
        if last:
            await self.send("E")

    async def send_all(self, data: bytes) -> None:
        """Send all input of a command. One that has ended needs none: its frames say how."""
        with contextlib.suppress(Unavailable):
            await self.send_input(data, last=True)

    async def receive(self) -> Frame | None:
        """Return the next frame; None when there are no more.

        Raises the Fault that a refusal stands for, and Unavailable for what is not a frame.
        """
        frame = await read_frame(self._reader, "BOeXAF")
        if frame is not None and frame.kind == "F":
            raise fault_of(frame.payload)
        return frame

    def close(self) -> None:
        """End the command, if it has not ended."""
        self._writer.close()


async def read_frame(reader: Reader, kinds: str, most: int = MOST) -> Frame | None:
    """Return the next frame, one of `kinds`; None when no more come.

    Raises Unavailable for what is not such a frame, or has more than `most` bytes.
    """
    try:
        kind, size = HEADER.unpack(await reader.readexactly(HEADER.size))
        if size > most or kind not in kinds.encode():
            raise _gone(ValueError("not a frame"))
        payload = await reader.readexactly(size)
    except (asyncio.IncompleteReadError, OSError):
        return None
    return Frame(kind.decode(), payload)


def _gone(error: Exception) -> Unavailable:
    return Unavailable(
        f"the helper broke off: {error}", hint="On the host: journalctl -u pvemcp-helper."
    )


def refusal(fault: Fault) -> dict[str, str]:
    """Return what a frame F holds for a Fault, so that `fault_of` gives it again."""
    code = fault.code if fault.code in _FAULTS else "broken"
    return {"code": code, "message": fault.message, "hint": fault.hint}


def fault_of(payload: bytes) -> Fault:
    """Return the Fault that a frame F holds."""
    try:
        found = json.loads(payload)
        kind = _FAULTS.get(found["code"], Misconfigured)
        return kind(str(found["message"])[:2000], hint=str(found["hint"])[:2000])
    except (ValueError, KeyError, TypeError):
        return _gone(ValueError("an answer that is none"))
