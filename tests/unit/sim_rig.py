"""A short way to ask a simulated cluster, without a socket."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from pvemcp.sim.api import Api, Reply, Request
from pvemcp.sim.catalogue import ENDPOINTS
from pvemcp.sim.world import World, make_world

FORM = "application/x-www-form-urlencoded"


@dataclass(slots=True)
class Caller:
    """Somebody with an API token."""

    world: World
    headers: dict[str, str]
    api: Api = field(init=False)

    def __post_init__(self) -> None:
        self.api = Api(self.world, ENDPOINTS)

    async def ask(self, verb: str, path: str, /, **params: Any) -> Reply:
        """Send form parameters in the query or the body, as the verb needs it."""
        encoded = urlencode(params, doseq=True)
        if verb in {"GET", "DELETE"}:
            return await self.send(verb, path, query=encoded)
        return await self.send(verb, path, body=encoded.encode())

    async def send(
        self, verb: str, path: str, *, query: str = "", body: bytes = b"", kind: str = FORM
    ) -> Reply:
        """Send a request as it is."""
        headers = {**self.headers, "content-type": kind} if body else self.headers
        return await self.api.answer(Request(verb, f"/api2/json{path}", query, headers, body))

    async def data(self, verb: str, path: str, /, **params: Any) -> Any:
        """Return the data of an answer that has to be good."""
        reply = await self.ask(verb, path, **params)
        assert (reply.status, reply.reason) == (200, "OK")
        return json.loads(reply.body)["data"]

    async def task(self, verb: str, path: str, /, **params: Any) -> str:
        """Start a task and return the exit status that it has by now; empty while it runs."""
        found = self.world.tasks.get(await self.data(verb, path, **params))
        assert found is not None
        return found.exitstatus


def token_headers(token: tuple[str, str]) -> dict[str, str]:
    """Return the header of an API token."""
    return {"authorization": f"PVEAPIToken={token[0]}={token[1]}"}


def root(world: World | None = None) -> Caller:
    """Return a caller with a token of root@pam, in the home lab unless said otherwise."""
    there = world or make_world("homelab")
    return Caller(there, token_headers(there.token()))


def caller(world: World, *, privsep: bool = False, **roles: str) -> Caller:
    """Return a caller with roles by path: `vms_100="PVEVMUser"` is that role on /vms/100."""
    paths = {"/" + path.strip("_").replace("_", "/"): role for path, role in roles.items()}
    token = world.token("bob@pve", privsep=privsep, roles=paths)
    return Caller(world, token_headers(token))


def failure(reply: Reply) -> tuple[int, str]:
    """Return status and reason."""
    return reply.status, reply.reason


def errors(reply: Reply) -> dict[str, str]:
    """Return the errors of a 400 by parameter."""
    assert reply.status == 400
    found: dict[str, str] = json.loads(reply.body)["errors"]
    return found
