"""Ends jobs whose client may not go on: they outlive calls, and the service too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.host.ended import output_of
from pvemcp.host.executor import Executor

SECONDS = 30


async def end_jobs(executor: Executor, why: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """Stop every running job for which `why(row)` gives a reason; return their names.

    A row has job, owner and profile. Raises Unavailable, and the Fault of a refusal.
    """
    rows = json.loads(await _operation(executor, "job-list", {}) or "[]")
    ended = []
    for row in rows:
        if row["running"] and why(row):
            await end_job(executor, row["job"])
            ended.append(str(row["job"]))
    return ended


async def end_job(executor: Executor, job: str) -> None:
    """Stop one job. Raises Unavailable, and the Fault of a refusal."""
    await _operation(executor, "job-stop", {"job": job})


async def _operation(executor: Executor, name: str, params: Mapping[str, Any]) -> str:
    request = {"do": "operation", "name": name, "params": dict(params), "timeout": SECONDS}
    link = await executor.open({**request, "owner": "pvemcp", "call": "freeze"})
    return await output_of(link, name)
