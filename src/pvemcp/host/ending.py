"""Ends jobs whose client may not go on: they outlive calls, and the service too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.errors import Unavailable
from pvemcp.host.executor import Executor

SECONDS = 30


async def end_jobs(executor: Executor, why: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """Stop every running job for which `why(row)` gives a reason; return their names.

    A row has job, owner and profile. Raises Unavailable, and the Fault of a refusal.
    """
    rows = json.loads(await _operation(executor, "job-list", {}) or b"[]")
    ended = []
    for row in rows:
        if row["running"] and why(row):
            await _operation(executor, "job-stop", {"job": row["job"]})
            ended.append(str(row["job"]))
    return ended


async def _operation(executor: Executor, name: str, params: Mapping[str, Any]) -> bytes:
    link = await executor.open(
        {"do": "operation", "name": name, "params": dict(params), "timeout": SECONDS,
         "owner": "pvemcp", "call": "freeze"}
    )  # fmt: skip
    written = []
    try:
        async with asyncio.timeout(SECONDS):
            while frame := await link.receive():
                if frame.kind == "O":
                    written.append(frame.payload)
                elif frame.kind == "X":
                    return b"".join(written)
    except TimeoutError:
        pass
    finally:
        link.close()
    raise Unavailable(f"{name} did not end")
