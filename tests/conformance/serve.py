"""Run the product on a simulated PVE for the suite: `python -m tests.conformance.serve FOLDER`.

Prints one line of JSON, {"url": ..., "token": ...}, and serves until SIGINT. With --fixtures the
suite's fixtures are on the server. The suite cannot send an Authorization header: with --admit, a
request without one gets that of a real grant, before it reaches the product's first check. With
--policy the default policy counts; else nobody is asked about anything.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from pvemcp import app as product
from pvemcp import listener
from pvemcp.access.grants import Grants
from pvemcp.access.policy import Open, Policy
from pvemcp.call import ApiToken, Effect
from pvemcp.settings import Settings
from pvemcp.sim.http import serve as serve_world
from pvemcp.sim.world import make_world
from pvemcp.store import Store
from tests.conformance import fixtures


class Admitted:
    """ASGI middleware that gives a request without credentials those of a grant."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._header = (b"authorization", f"Bearer {secret}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass every request on."""
        if scope["type"] == "http" and not any(
            name == b"authorization" for name, _ in scope["headers"]
        ):
            scope = {**scope, "headers": [*scope["headers"], self._header]}
        await self._app(scope, receive, send)


async def run(folder: Path, policy: Policy, *, with_fixtures: bool, admit: bool) -> None:
    """Serve until a signal."""
    world = make_world("homelab", progress="timed")
    settings = Settings(listen="127.0.0.1:0", state_dir=folder, log_level="warning")
    uds = str(folder / "pve.sock")
    with Store(folder) as store, listener.bind(settings) as bound:
        grants = Grants(store)
        _, secret = grants.create("conformance", Effect.DESTROY)
        async with serve_world(world, uds=uds, tls=False):
            pve = product.pve_client(settings, unix_socket=uds)
            token = ApiToken(*world.token())
            app = product.compose(
                settings, store=store, grants=grants, pve=pve, default=token, policy=policy
            )
            if with_fixtures:
                fixtures.install(app.server)
            if admit:
                app = dataclasses.replace(app, asgi=Admitted(app.asgi, secret))
            ready = {"url": listener.mcp_url(settings, bound), "token": secret}
            print(json.dumps(ready), flush=True)  # noqa: T201 - the answer to the parent
            await listener.run_http(app, settings, bound)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fixtures", action="store_true")
    parser.add_argument("--admit", action="store_true")
    parser.add_argument("--policy", action="store_true")
    given = parser.parse_args()
    policy = Policy() if given.policy else Open()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(given.folder, policy, with_fixtures=given.fixtures, admit=given.admit))


if __name__ == "__main__":
    main()
