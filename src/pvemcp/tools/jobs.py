"""Jobs: commands that outlive calls, and a restart of the service."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any

from pydantic import Field

from pvemcp.call import Effect
from pvemcp.errors import Invalid, Missing, Rejected, Unavailable
from pvemcp.host.ended import PROFILES
from pvemcp.host.frames import Frame, Link
from pvemcp.host.jobs_log import Page, page_of, parse_cursor
from pvemcp.host.outputs import PREFIX
from pvemcp.host.runner import Host
from pvemcp.tools.host import Env, Node, Word, refuse_root
from pvemcp.tools.output import SHOWN, how, sections, text
from pvemcp.tools.render import duration, moment, table
from pvemcp.tools.tool import ON_NODES, tool

MOST_EACH = 10
"""Running jobs of one grant."""
LOOK_EVERY = 0.2
LONGEST_LOOK = 10
"""Seconds that one look may wait for output; it holds a place among the host's commands."""
JobName = Annotated[str, Field(description="from job_start")]


@tool(reach=Effect.DESTROY, privileges=ON_NODES)
async def job_start(
    host: Host,
    command: str,
    effect: Word = "read",
    title: str = "",
    cwd: str = "",
    env: Env = None,
    timeout: Annotated[int, Field(ge=1, le=604800, description="seconds")] = 3600,
    node: Node = "",
) -> str:
    """Start a bash command on the PVE host that goes on by itself; its output is kept a week."""
    wanted = Effect.parse(effect)
    refuse_root(wanted)
    profile = PROFILES[wanted]
    host = await host.at(node)
    request: dict[str, Any] = {"do": "job", "profile": profile, "shell": command}
    request |= {"cwd": cwd, "env": env or {}, "timeout": timeout}
    request["title"] = title or command[:80]
    await host.ask(wanted, f"host/{profile}/job", request)
    with host.runner.starting(host.who()["owner"], MOST_EACH) as others:
        await refuse_more(host, others)
        link = await host.open(request, effect=wanted, label=f"host/{profile}/job")
        frame = await _answered(link)
    if frame is None or frame.kind != "A":
        raise Unavailable("the helper did not say whether the job started", hint="See job_list.")
    started = str(json.loads(frame.payload)["job"])
    await host.end_stopped(wanted, started)
    name = _told(host, started)
    return f'{name} runs ({profile}, {host.place}); job_read(job="{name}") shows its output'


async def _answered(link: Link) -> Frame | None:
    try:
        async with asyncio.timeout(30):
            return await link.receive()
    except TimeoutError:
        return None
    finally:
        link.close()


def _told(host: Host, name: object) -> str:
    """Return a job's name, with the node's if that is another."""
    return f"{host.node}/{name}" if host.is_remote else str(name)


async def _found(host: Host, job: str) -> tuple[Host, str]:
    """Return the host of a job, and its name there."""
    node, _, name = job.rpartition("/")
    return await host.at(node), name


async def refuse_more(host: Host, starting: int) -> None:
    """Raise Invalid when the caller has as many running jobs as a grant may have.

    `starting` are those that other calls of it are about to start.
    """
    running = [row for row in await own_jobs(host) if row["running"]]
    if len(running) + starting >= MOST_EACH:
        names = ", ".join(_told(host, row["job"]) for row in running)
        raise Invalid(
            f"{len(running)} of your jobs run, and a grant may have {MOST_EACH}",
            hint=f"Wait, or stop one with job_stop: {names}.",
        )


async def own_jobs(host: Host) -> list[dict[str, Any]]:
    """Return the caller's jobs, oldest first."""
    ended = await host.operation("job-list", raw=True)
    data = b"".join(piece.data for piece in ended.transcript.since(0, SHOWN * 100))
    if not ended.ok:
        raise Unavailable(f"the jobs cannot be listed: {text(data)}", hint="See pvemcp doctor.")
    owner = host.who()["owner"]
    return [row for row in json.loads(data) if row["owner"] == owner]


@tool(privileges=ON_NODES)
async def job_list(host: Host, node: Node = "") -> str:
    """List your jobs of the last week."""
    host = await host.at(node)
    rows = [
        {
            "job": _told(host, row["job"]),
            "title": row["title"],
            "profile": row["profile"],
            "started": moment(row["started"]),
            "state": _state(row),
            "output": f"{row['size']} B",
        }
        for row in reversed(await own_jobs(host))
    ]
    if not rows:
        return "no jobs"
    return table(rows, ("job", "title", "profile", "started", "state", "output"))


def _state(row: dict[str, Any]) -> str:
    if row["running"]:
        return f"running for {duration(time.time() - row['started'])}"
    end = row.get("end")
    if not isinstance(end, dict):
        return "killed"
    ended = f"exit {end['code']}" if "code" in end else f"killed by {end.get('signal', '?')}"
    return f"{ended}, {end['why']}" if end.get("why") else ended


@tool(privileges=ON_NODES)
async def job_read(
    host: Host,
    job: Annotated[str, Field(description="from job_start, or an output that was cut")],
    cursor: str = "",
    wait: Annotated[int, Field(ge=0, le=60, description="seconds, for more or the end")] = 0,
) -> str:
    """Read the output of a job from a cursor on, and whether it has ended."""
    if job.startswith(PREFIX):
        return _kept(host, job, cursor)
    start, shown = parse_cursor(cursor)
    deadline = time.monotonic() + wait
    host, name = await _found(host, job)
    while True:
        page = await _page(host, name, start, shown=shown)
        if page.transcript.end or not page.about["running"] or time.monotonic() >= deadline:
            return _written(job, page)
        await asyncio.sleep(LOOK_EVERY)


async def require_own(host: Host, job: str) -> None:
    """Raise Missing unless it is a job of the caller."""
    await _page(host, job, 0, shown=False)


async def _page(host: Host, job: str, start: int, *, shown: bool, wait: int = 0) -> Page:
    params = {"job": job, "cursor": start, "wait": wait}
    ended = await host.operation("job-read", params, raw=True)
    data = b"".join(p.data for p in ended.transcript.since(0, 1 << 20) if p.stream == "stdout")
    if ended.code == 3:
        raise Missing(f"no job {job}", hint="job_list shows yours. They are kept for a week.")
    if not ended.ok:
        raise Rejected(f"the job cannot be read: {ended.note}", hint="See job_list.")
    page = page_of(data, start=start, shown=shown, mask=host.runner.mask)
    if page.about.get("owner") != host.who()["owner"]:
        raise Missing(f"no job {job}", hint="job_list shows yours. They are kept for a week.")
    return page


def _written(job: str, page: Page) -> str:
    lines = sections(page.transcript.since(0, 1 << 20)) or ["[no new output]"]
    if page.ended is not None and not page.more:
        dropped = f", {page.ended.dropped} bytes dropped" if page.ended.dropped else ""
        state = f"ended: {how(page.ended)}{dropped}"
    elif page.about["running"]:
        state = "running"
    else:
        state = "ended" if page.more else "ended: killed (stopped, out of memory, or a restart)"
    more = ", more to read" if page.more else ""
    return "\n".join([*lines, f'[{job} {state}, cursor="{page.cursor}"{more}]'])


def _kept(host: Host, name: str, cursor: str) -> str:
    transcript = host.runner.outputs.find(host.who()["owner"], name)
    if cursor and not (cursor.isascii() and cursor.isdecimal()):
        raise Invalid(f"cursor={cursor!r} is not a number", hint="Count bytes from 0.")
    start = int(cursor or 0)
    pieces = transcript.since(start, SHOWN)
    after = pieces[-1].start + len(pieces[-1].data) if pieces else transcript.end
    state = "" if after >= transcript.end else ", more to read"
    lines = sections(pieces) or ["[no more output]"]
    lost = [f"[{transcript.first} bytes are no longer kept]"] if start < transcript.first else []
    tail = f'[{name}: {transcript.end} bytes, cursor="{after}"{state}]'
    return "\n".join([*lost, *lines, tail])


@tool(privileges=ON_NODES)
async def job_stop(host: Host, job: JobName) -> str:
    """Stop a job, and everything that it started."""
    host, name = await _found(host, job)
    await require_own(host, name)
    ended = await host.operation("job-stop", {"job": name})
    if ended.ok:
        return f"{job} is stopped"
    page = await _page(host, name, 0, shown=False)
    if not page.about["running"]:
        return f"{job} has ended already"
    raise Rejected(f"{job} could not be stopped: {ended.note}", hint="Try again; see job_list.")
