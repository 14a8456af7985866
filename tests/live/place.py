"""A real PVE to test against: where it is, who asks, and what it answers without pvemcp."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from mcp import Client

from pvemcp.access.approvals import Approvals
from pvemcp.access.held import held
from pvemcp.access.policy import Open, permit
from pvemcp.approving import Gate
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Effect, Principal
from pvemcp.host.executor import Nowhere
from pvemcp.host.runner import Runner
from pvemcp.masking import Masker
from pvemcp.pve.client import PveClient
from pvemcp.pve.schema import Method
from pvemcp.running import Rights
from pvemcp.server import Service, build
from pvemcp.store import Store
from tests.scenarios.rig import ERAS, Caller, journaled

NEEDED = ("PVEMCP_LIVE_URL", "PVEMCP_LIVE_TOKEN_ID", "PVEMCP_LIVE_TOKEN_SECRET")
TRUST = ("PVEMCP_LIVE_CA_FILE", "PVEMCP_LIVE_FINGERPRINT")
CHANGES = "PVEMCP_LIVE_CHANGES"


def absent() -> str:
    """Say which settings are missing for a live test, or ""."""
    names = [name for name in NEEDED if not os.environ.get(name)]
    if not any(os.environ.get(name) for name in TRUST):
        names.append(" or ".join(TRUST))
    return f"no real PVE: set {', '.join(names)}" if names else ""


@dataclass(frozen=True)
class Place:
    """A PVE and a token of it. `fingerprint` is empty when a CA file is given."""

    url: str
    token: ApiToken
    ca_file: Path | None
    fingerprint: str

    @classmethod
    def of_environment(cls) -> Place:
        """Read the place from PVEMCP_LIVE_*."""
        url, name, secret = (os.environ[key] for key in NEEDED)
        ca_file = os.environ.get(TRUST[0])
        pin = "" if ca_file else os.environ[TRUST[1]]
        return cls(url, ApiToken(name, secret), Path(ca_file) if ca_file else None, pin)

    @asynccontextmanager
    async def client(
        self,
        *,
        ceiling: Effect = Effect.READ,
        secret: str = "",
        fingerprint: str = "",
        era: str = ERAS[-1],
    ) -> AsyncIterator[Caller]:
        """Connect an MCP client of a service that works this PVE."""
        token = ApiToken(self.token.id, secret) if secret else self.token
        principal = Principal("tester", ceiling, token, grant="live")
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pvemcp-live-"))
            store = stack.enter_context(Store(Path(folder)))
            pve = await stack.enter_async_context(self._pve(fingerprint))
            secrets = held(store, token.secret)
            audit = Audit(store, None, secrets.known)
            nowhere = Nowhere("these tests run none", "None is needed.")
            host = Runner(nowhere, permit, Rights(pve).require, lambda: Masker(secrets))
            server, _ = build(
                Service(
                    pve,
                    host,
                    audit,
                    lambda _: principal,
                    secrets.answer,
                    Gate(Open(), Approvals(store), b"k" * 32, journaled(store)),
                    b"s" * 32,
                )
            )
            mode = "legacy" if era == ERAS[0] else era
            yield Caller(await stack.enter_async_context(Client(server, mode=mode)))

    async def methods(self) -> list[Method]:
        """Return every method that this PVE describes."""
        async with self._pve("") as pve:
            return list((await pve.description()).methods())

    def _pve(self, fingerprint: str) -> PveClient:
        return PveClient(
            self.url,
            permit=permit,
            ca_file=None if fingerprint else self.ca_file,
            fingerprint=fingerprint or self.fingerprint,
        )

    async def raw(self, path: str, verb: str = "GET", **params: Any) -> tuple[int, Any]:
        """Ask PVE itself: the status, and `data` or the reason."""
        headers = {"Authorization": self.token.header, "Connection": "close"}
        query = {name: str(value) for name, value in params.items()}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(
                verb, f"{self.url}/api2/json{path}", params=query, ssl=self._trust()
            ) as reply,
        ):
            if reply.status != 200:
                return reply.status, reply.reason
            body = await reply.json(content_type=None)
            return 200, body["data"] if isinstance(body, dict) and "data" in body else body

    async def data(self, path: str, **params: Any) -> Any:
        """Ask PVE itself for what must be there."""
        status, found = await self.raw(path, **params)
        assert status == 200, (path, status, found)
        return found

    def _trust(self) -> ssl.SSLContext | aiohttp.Fingerprint:
        if self.ca_file:
            return ssl.create_default_context(cafile=self.ca_file)
        return aiohttp.Fingerprint(bytes.fromhex(self.fingerprint.replace(":", "")))
