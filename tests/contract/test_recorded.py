"""The simulator against what a real PVE 9.1 answered, and against its published description.

The recorded answers are no part of this project; without them these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pytest

from pvemcp.sim.api import Router
from pvemcp.sim.catalogue import ENDPOINTS
from pvemcp.sim.http import serve
from pvemcp.sim.refusal import TaskFailure
from pvemcp.sim.tasks import Work
from pvemcp.sim.tickets import make_ticket
from pvemcp.sim.world import Node, World
from tests.contract.recorded_world import TASK, UNKNOWN, make_recorded_world

SHARED = Path(__file__).parents[2].parent / "shared" / "pve"
RECORDED = SHARED / "recorded" / "responses.jsonl"
Line = Mapping[str, Any]

# Requests whose body is not in the record: (content type, body).
BODIES: Mapping[str, tuple[str, bytes]] = {
    "ERR_400_ctype_text": ("text/plain", b"poolid=x"),
    "ERR_400_json_bad": ("application/json", b"{bad"),
    "ERR_json_object": ("application/json", b"[1]"),
    "ERR_json_bool_true": ("application/json", b'{"onboot": true}'),
    "ERR_json_array_delete_param": ("application/json", b'{"delete": ["description", "tags"]}'),
    "ERR_json_array_for_list_string": (
        "application/json",
        b'{"poolid": "jsonpool", "vms": ["105"]}',
    ),
    "ERR_500_json_nested": ("application/json", b'{"poolid": "jsonpool", "vms": ["102"]}'),
    "ERR_delete_with_body": ("application/x-www-form-urlencoded", b"force=1"),
    "ERR_get_with_body": ("application/x-www-form-urlencoded", b"type=vm"),
}


def _pool_with(vmid: int) -> Callable[[World], None]:
    return lambda world: world.join_pool("jsonpool", vmid)


def _lock(vmid: int) -> Callable[[World], None]:
    return lambda world: world.faults.lock_guest(vmid)


def _no_daemon(world: World) -> None:
    world.faults.pvedaemon_down = True


def _disabled(world: World) -> None:
    world.access.users["ops@pve"].enable = False


def _expired(world: World) -> None:
    world.access.users["ops@pve"].expire = 1


def _protected(world: World) -> None:
    world.guests[105].config["protection"] = 1
    world.ha.clear()


def _described(world: World) -> None:
    world.guests[102].config["description"] = "note"


def _unknown_address(world: World) -> None:
    world.nodes["pve3"] = Node("pve3", "", 3)


def _clone_stopped(world: World) -> None:
    world.guests[102].running = False


def _second_container(world: World) -> None:
    world.guests[400] = world.guests[200]


# What was true on the host when the line was recorded.
BEFORE: Mapping[str, Callable[[World], None]] = {
    "ERR_401_user_disabled": _disabled,
    "ERR_get_utf8_back": _described,
    "ERR_node_refused": _unknown_address,
    "GET_cluster__resources": _clone_stopped,
    "ERR_401_user_expired": _expired,
    "ERR_500_ct_bad_volid": _second_container,
    "ERR_json_array_for_list_string": _pool_with(105),
    "ERR_locked_ct_config": _lock(200),
    "ERR_locked_ct_stop": _lock(200),
    "ERR_locked_vm_delete": _lock(101),
    "ERR_locked_vm_snapshot": _lock(101),
    "ERR_locked_vm_status": _lock(101),
    "ERR_protected_vm_delete": _protected,
    "ERR_pvedaemon_down_post": _no_daemon,
    "ERR_pvedaemon_down_unprotected": _no_daemon,
}

NOT_SIMULATED: Mapping[str, str] = {
    "ERR_200_extjs_400": "the format of the web interface",
    "ERR_200_extjs_err": "the format of the web interface",
    "ERR_200_extjs_ok": "the format of the web interface",
    "ERR_200_termproxy": "consoles",
    "ERR_200_vncproxy": "consoles",
    "ERR_400_upload_noform": "uploads",
    "ERR_403_token_storage_root": "shell commands over the API",
}
"""Recorded lines about what the simulator does not have: 501."""

OTHER_WORDS: Mapping[str, str] = {
    "ERR_400_json_bad": "the words are those of a Perl library",
    "ERR_json_object": "the words name a line of a Perl file",
    "ERR_gzip": "nothing is compressed",
    "GET_nodes__{node}__journal": "the host streams it as a download",
}
"""Recorded lines of which only the status is compared, with the reason."""

MAY_DIFFER: Mapping[str, tuple[str, str]] = {
    "/cluster/tasks": ("saved", 'the host mixes 1 and "1"'),
    "/nodes/{node}/dns": ("search", "the host had no search domain"),
    "/nodes/{node}/time": ("timezone", "the host had no time zone"),
    "/nodes/{node}/status": ("secureboot", "the host had no EFI"),
}
"""Path template to the field that may differ, with the reason."""


def _lines() -> Iterator[Line]:
    if RECORDED.exists():
        with RECORDED.open() as file:
            yield from (json.loads(line) for line in file)


ROUTER = Router(ENDPOINTS)


def _api_path(line: Line) -> str:
    path = str(line["path"])
    if path.startswith(("/api2", "/pve2")) or path == "/":
        return path
    return f"/api2/json/{path.lstrip('/')}"


def _known(line: Line) -> bool:
    path = _api_path(line).removeprefix("/api2/json").partition("?")[0]
    return ROUTER.match(line["method"], unquote(path)) is not None


LINES = [line for line in _lines() if line["status"]]
KNOWN = [
    line
    for line in LINES
    if line["name"] not in NOT_SIMULATED and (_known(line) or line["name"].startswith("ERR_"))
]
FOREIGN = [line for line in LINES if line not in KNOWN]
needs_record = pytest.mark.skipif(not LINES, reason="no recorded answers beside the project")


def _headers(world: World, who: str) -> dict[str, str]:
    match who:
        case "none":
            return {}
        case "bearer":
            return {"Authorization": "Bearer abc"}
        case "garbage":
            return {"Authorization": "PVEAPIToken=garbage"}
        case "root@pam":
            return {"Cookie": f"PVEAuthCookie={make_ticket(world, 'root@pam')}"}
    user, _, name = who.partition("!")
    known = world.access.users[user].tokens.get(name)
    return {"Authorization": f"PVEAPIToken={who}={known.secret if known else UNKNOWN}"}


def _payload(line: Line) -> tuple[str, dict[str, str], bytes]:
    """Return the query, the headers about the body, and the body."""
    params = line["params"] or {}
    pairs = params.items() if isinstance(params, dict) else params
    encoded = urlencode([(name, value) for name, value in pairs])
    kind, body = BODIES.get(line["name"], ("application/x-www-form-urlencoded", encoded.encode()))
    if line["method"] in {"POST", "PUT"} or line["name"] in BODIES:
        return "", {"Content-Type": kind, "Content-Length": str(len(body))}, body
    return f"?{encoded}" if encoded else "", {}, b""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer off the wire; header names in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    json: Any


async def _ask(world: World, line: Line, folder: Path) -> Reply:
    """Send a recorded request byte by byte: clients repair what some of these lines are about."""
    query, headers, body = _payload(line)
    headers |= _headers(world, line["as"])
    if line["name"] == "ERR_401_token_no_secret":
        headers = {"Authorization": f"PVEAPIToken={line['as']}"}
    path = _api_path(line).replace(TASK, _task(world)).replace(quote(TASK), quote(_task(world)))
    head = [f"{line['method']} {path}{query} HTTP/1.1", "Host: localhost"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    socket = str(folder / "s")
    async with serve(world, uds=socket, tls=False):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write("\r\n".join([*head, "", ""]).encode() + body)
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            got = dict(part.split(": ", 1) for part in rest)
            raw = await reader.readexactly(int(got["content-length"]))
        finally:
            writer.close()
            await writer.wait_closed()
    _, status, reason = first.split(" ", 2)
    is_json = got.get("content-type", "").startswith("application/json")
    return Reply(int(status), reason, got, json.loads(raw) if is_json else None)


def _task(world: World) -> str:
    """Return the UPID of the failed backup that some lines ask for."""
    for task in world.tasks:
        return task.upid
    lines = ("INFO: starting new backup job", *(f"INFO: line {n}" for n in range(8)))

    def fail() -> None:
        raise TaskFailure("job errors")

    work = Work(fail, lines=lines)
    return world.tasks.start("pve1", "vzdump", id="102", user="root@pam", work=work)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "list"
    return "object"


IDENTITY = ("upid", "id", "sid", "vmid", "userid", "roleid", "storage", "volid", "key", "name",
            "subdir", "iface", "Package", "filename", "path", "tokenid", "realm", "service",
            "cmd")  # fmt: skip


def _named(rows: list[Any]) -> dict[str, Any]:
    """Return rows by what identifies them; those without an identity are one row together."""
    named: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict):
            key = next((key for key in IDENTITY if key in row), "")
            named[f"{key}={row.get(key)}"] = {**named.get("=None", {}), **row} if not key else row
    return named


def differences(real: Any, ours: Any, *, where: str = "") -> Iterator[str]:
    """Return where field names or types differ; of lists, what both have is compared."""
    if _kind(real) != _kind(ours):
        yield f"{where}: {_kind(real)} there, {_kind(ours)} here"
    elif isinstance(real, dict):
        yield from (f"{where}.{key} is missing" for key in real.keys() - ours.keys())
        yield from (f"{where}.{key} is invented" for key in ours.keys() - real.keys())
        for key in real.keys() & ours.keys():
            yield from differences(real[key], ours[key], where=f"{where}.{key}")
    elif isinstance(real, list):
        there, here = _named(real), _named(ours)
        for key in there.keys() & here.keys():
            yield from differences(there[key], here[key], where=f"{where}[{key}]")


def _relevant(line: Line, text: str) -> bool:
    allowed, _ = MAY_DIFFER.get(line["template"], ("", ""))
    return not allowed or f".{allowed}" not in text


@needs_record
@pytest.mark.parametrize("line", KNOWN, ids=lambda line: line["name"])
async def test_the_simulator_answers_what_was_recorded(line: Line, tmp_path: Path) -> None:
    world = make_recorded_world()
    if prepare := BEFORE.get(line["name"]):
        prepare(world)
    reply = await _ask(world, line, tmp_path)
    assert reply.status == line["status"]
    if line["name"] in OTHER_WORDS:
        return
    assert reply.reason == line["reason"]
    for name in ("Content-Type", "Connection"):
        assert reply.headers.get(name.lower()) == line["headers"].get(name)
    found = differences(line["json"], reply.json)
    assert "\n".join(text for text in found if _relevant(line, text)) == ""


@needs_record
@pytest.mark.parametrize("line", FOREIGN, ids=lambda line: line["name"])
async def test_what_is_not_simulated_answers_501(line: Line, tmp_path: Path) -> None:
    reply = await _ask(make_recorded_world(), line, tmp_path)
    assert reply.status == 501
