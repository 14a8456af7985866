"""The way of a request: router, login, permission, node, parameters, handler."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from pvemcp.sim.check import authorise
from pvemcp.sim.declare import Answer, Ask, Endpoint
from pvemcp.sim.permissions import Identity
from pvemcp.sim.refusal import Dropped, Refusal, rejected
from pvemcp.sim.tickets import identify
from pvemcp.sim.validate import validated
from pvemcp.sim.world import World

PREFIX = "/api2/json"
VERBS = ("GET", "POST", "PUT", "DELETE")
BODY_LIMIT = 512 * 1024
JSON_TYPE = "application/json;charset=UTF-8"


@dataclass(slots=True)
class Request:
    """What came over the wire; header names in lower case."""

    verb: str
    path: str
    """Percent-decoded."""
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes over the wire."""

    status: int
    reason: str
    body: bytes = b""
    content_type: str = JSON_TYPE


_REST = frozenset(("volume", "cidr"))
"""Last placeholders whose value may hold slashes."""


@dataclass(slots=True)
class _Branch:
    below: dict[str, _Branch] = field(default_factory=dict)
    placeholder: str = ""
    verbs: dict[str, Endpoint] = field(default_factory=dict)


class Router:
    """The tree of paths. A placeholder `{volume}` or `{cidr}` takes the rest of the path."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._root = _Branch()
        for endpoint in endpoints:
            self._add(endpoint)

    def _add(self, endpoint: Endpoint) -> None:
        branch = self._root
        for part in filter(None, endpoint.method.path.split("/")):
            key = "{}" if part.startswith("{") else part
            branch = branch.below.setdefault(key, _Branch())
            if key == "{}":
                branch.placeholder = part[1:-1]
        branch.verbs[endpoint.method.verb] = endpoint

    def match(self, verb: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Return the endpoint of a path and the values of its placeholders."""
        branch, values = self._root, dict[str, str]()
        parts = [part for part in path.split("/") if part]
        for n, part in enumerate(parts):
            if (static := branch.below.get(part)) is not None:
                branch = static
                continue
            if (dynamic := branch.below.get("{}")) is None:
                return None
            branch = dynamic
            if branch.placeholder in _REST:
                values[branch.placeholder] = "/".join(parts[n:])
                break
            values[branch.placeholder] = part
        endpoint = branch.verbs.get(verb)
        return (endpoint, values) if endpoint else None


class Api:
    """Answers requests out of a World."""

    def __init__(self, world: World, endpoints: Iterable[Endpoint]) -> None:
        self.world = world
        self._router = Router(endpoints)

    async def answer(self, request: Request) -> Reply:
        """Return the reply. Raises Dropped when the connection is to be closed without one."""
        try:
            return await self._answer(request)
        except Refusal as refusal:
            if refusal.status == 401 and self.world.faults.login_delay:
                await asyncio.sleep(self.world.faults.login_delay)
            return refused(refusal)

    async def _answer(self, request: Request) -> Reply:
        if request.verb not in VERBS:
            raise Refusal(501, f"method '{request.verb}' not available", body="none")
        path = _api_path(request.path)
        self.world.requests[request.verb, path] += 1
        if self.world.faults.take_drop():
            raise Dropped
        if request.body and request.verb in {"GET", "DELETE"}:
            raise Refusal(501, f"Unexpected content for method '{request.verb}'", body="text")
        self.world.tasks.settle()
        who = identify(self.world, request.verb, request.headers)
        if (found := self._router.match(request.verb, path)) is None:
            if not who.id:
                raise Refusal(401, "No ticket", body="none")
            raise not_implemented(request.verb, path)
        endpoint, values = found
        given = _merged(parameters(request), values)
        authorise(self.world.access, who, endpoint.method, given)
        await self._reach(endpoint, values.get("node", ""))
        return await self._run(endpoint, who, given)

    async def _reach(self, endpoint: Endpoint, node: str) -> None:
        """Fail like pveproxy when the process or node that would answer cannot be reached."""
        world, faults = self.world, self.world.faults
        target = node if endpoint.method.proxy_to and node else world.local.name
        if target == "localhost":
            target = world.local.name
        if target not in world.nodes:
            raise Refusal(
                500,
                f"hostname lookup '{target}' failed - failed to get address info for: "
                f"{target}: Name or service not known",
            )
        if not world.nodes[target].ip:
            raise Refusal(500, f"address lookup for '{target}' did not find any IP address")
        if not world.online(target):
            raise Refusal(595, "No route to host", body="none")
        if delay := faults.slow_nodes.get(target, 0.0):
            await asyncio.sleep(delay)
        if endpoint.method.protected and faults.pvedaemon_down and target == world.local.name:
            raise Refusal(595, "Connection refused", body="none")

    async def _run(self, endpoint: Endpoint, who: Identity, given: Mapping[str, Any]) -> Reply:
        world, write = self.world, endpoint.method.verb != "GET"
        args = validated(endpoint.method, given)
        if write and world.faults.quorum_lost and endpoint.method.path != "/access/ticket":
            raise Refusal(500, "cluster not ready - no quorum?")
        try:
            data = endpoint.handler(Ask(world, who, args))
            if isinstance(data, Awaitable):
                data = await data
        finally:
            if write:
                world.touch()
        if write and world.faults.take_596():
            raise Refusal(596, "Broken pipe", body="none")
        return _success(data)


def _api_path(path: str) -> str:
    if path == PREFIX or path.startswith(PREFIX + "/"):
        return path[len(PREFIX) :].rstrip("/") or "/"
    if path.startswith("/api2/") and path.count("/") >= 2:
        kind, _, rest = path.removeprefix("/api2/").partition("/")
        raise Refusal(501, f"no formatter for uri /{rest}, {kind}", body="text")
    if path == "/api2":
        raise Refusal(501, "no such uri", body="text")
    return path


def parameters(request: Request) -> dict[str, Any]:
    """Return the parameters of the query and the body, lists for repeated names."""
    given: dict[str, Any] = {}
    pairs = parse_qsl(request.query, keep_blank_values=True) if request.query else []
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if request.body:
        match kind:
            case "application/json":
                given.update(_json(request.body))
            case "application/x-www-form-urlencoded" | "":
                pairs += parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
            case _:
                raise Refusal(506, f"upload 'Content-Type '{kind}' not implemented", body="text")
    for name, value in pairs:
        if name in given:
            before = given[name]
            given[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            given[name] = value
    given.pop("_dc", None)
    return given


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(500, f"malformed JSON string: {error}", body="text") from None
    if not isinstance(value, dict):
        raise Refusal(500, "Not a HASH reference", body="text")
    return {name: item for name, item in value.items() if item is not None}


def _merged(given: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    conflicts = {
        name: "duplicate parameter (already defined in URI) with conflicting values!"
        for name, value in values.items()
        if name in given and str(given[name]) != value
    }
    if conflicts:
        raise rejected(conflicts)
    return {**given, **values}


def not_implemented(verb: str, path: str) -> Refusal:
    """Return the 501 for a path or method that the simulator does not know."""
    return Refusal(501, f"Method '{verb} {path}' not implemented", newline=False)


def encode(data: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


_ORDER = random.Random(8006)


def _perl(data: Any, orders: dict[tuple[str, ...], list[str]]) -> Any:
    """Return data with the keys of objects in another order each time, as Perl's hashes have them.

    Objects of one answer that have the same keys share their order: that is quick.
    """
    if isinstance(data, dict):
        names = tuple(data)
        if names not in orders:
            orders[names] = _ORDER.sample(names, len(names))
        return {name: _perl(data[name], orders) for name in orders[names]}
    return [_perl(each, orders) for each in data] if isinstance(data, list) else data


def _success(data: Any) -> Reply:
    if isinstance(data, Answer):
        if data.encoded:
            return Reply(200, "OK", data.encoded)
        return Reply(200, "OK", encode({"data": _perl(data.data, {}), **data.beside}))
    return Reply(200, "OK", encode({"data": _perl(data, {})}))


def refused(refusal: Refusal) -> Reply:
    """Return the reply for a refusal."""
    reason = refusal.message.split("\n", 1)[0]
    match refusal.body:
        case "none":
            return Reply(refusal.status, reason, b"", "")
        case "text":
            return Reply(refusal.status, reason, refusal.message.encode(), "")
        case "json":
            end = "\n" if refusal.newline else ""
            body: dict[str, Any] = {"data": None, "message": refusal.message + end}
            if refusal.errors is not None:
                body["errors"] = dict(refusal.errors)
            return Reply(refusal.status, reason, encode(body))
