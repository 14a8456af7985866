"""What a fixture of the conformance suite is made of."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mcp_types import CallToolRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from pvemcp.opening import TASKS, Context
from pvemcp.server import COMPLETE

Params = CallToolRequestParams
Result = dict[str, Any]
Run = Callable[[Context, Params], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Fixture:
    """A tool that the suite calls by its name."""

    name: str
    run: Run
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "object"})

    def entry(self) -> dict[str, Any]:
        """Return the tool as tools/list shows it."""
        return {
            "name": self.name,
            "description": f"A fixture of the conformance suite: {self.name}",
            "inputSchema": self.schema,
        }


def answers(content: list[dict[str, Any]], *, error: bool = False) -> Run:
    """Return a tool body that always answers with this content."""

    async def run(_: Context, __: Params) -> Result:
        return {"content": content, "isError": error}

    return run


def complete(result: Result) -> Result:
    """Return a result with the resultType that 2026-07-28 requires, unless it has another."""
    return {"resultType": COMPLETE, **result}


def text(words: str) -> dict[str, Any]:
    """Return a text block."""
    return {"type": "text", "text": words}


def image() -> dict[str, Any]:
    """Return an image block: one red pixel."""
    return {"type": "image", "data": PNG, "mimeType": "image/png"}


def audio() -> dict[str, Any]:
    """Return an audio block: a tenth of a second of silence."""
    return {"type": "audio", "data": _wav(), "mimeType": "audio/wav"}


def embedded(uri: str, words: str, *, mime: str = "text/plain") -> dict[str, Any]:
    """Return a resource block with its text."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": words}}


def declares(ctx: Context, capability: str) -> bool:
    """Return whether this request's client has a capability such as sampling or elicitation."""
    declared = ctx.session.client_capabilities
    return declared is not None and getattr(declared, capability) is not None


def declares_tasks(ctx: Context) -> bool:
    """Return whether this request's client takes a task for an answer."""
    declared = ctx.session.client_capabilities
    extensions = (declared.extensions or {}) if declared else {}
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and TASKS in extensions


def _png() -> str:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + pixel + chunk(b"IEND", b"")).decode()


def _wav() -> str:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return base64.b64encode(buffer.getvalue()).decode()


PNG = _png()
