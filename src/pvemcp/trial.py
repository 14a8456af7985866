"""The service on a simulated Proxmox VE, and the simulated Proxmox VE alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from secrets import token_urlsafe

from pvemcp.access.grants import Grants
from pvemcp.app import compose, log_to_stderr, pve_client
from pvemcp.call import ApiToken, Effect
from pvemcp.connect import claude_code_command, page_url
from pvemcp.listener import bind, cannot_listen, exit_on_signal, mcp_url, on_signal, run_http
from pvemcp.settings import Settings
from pvemcp.sim.http import serve as serve_world
from pvemcp.sim.permissions import ROOT
from pvemcp.sim.world import World, WorldName, make_world
from pvemcp.store import Store

DEMO_CALLER = "demo"
DEMO_PORT = "Take another: make demo PORT=9090 (pvemcp demo --port 9090)."
SIMULATOR_PORT = "Take another with --port PORT; 0 takes any free one."


def demo(world: WorldName, port: int, program: str) -> int:
    """Run the service on a simulated PVE of its own, and say how to connect to it.

    `program`: how the command line is called.
    """
    exit_on_signal()
    simulated = make_world(world, progress="timed")
    with tempfile.TemporaryDirectory(prefix="pvemcp-demo-") as folder:
        settings = Settings(
            listen=f"127.0.0.1:{port}",
            state_dir=Path(folder),
            helper_socket=Path(folder, "none"),  # this host's own would run commands for real
            page="on",
            log_level="warning",
        )
        log_to_stderr(settings)
        with Store(settings.state_dir) as store, bind(settings, other=DEMO_PORT) as bound:
            asyncio.run(_demo(simulated, settings, store, bound, program))
    return 0


async def _demo(
    world: World, settings: Settings, store: Store, bound: socket.socket, program: str
) -> None:
    grants = Grants(store)
    _, secret = grants.create(DEMO_CALLER, Effect.DESTROY)
    unix_socket = str(settings.state_dir / "pve.sock")
    async with serve_world(world, uds=unix_socket, tls=False):
        url = mcp_url(settings, bound)
        settings = replace(settings, page_url=url.removesuffix("/mcp"))
        pve = pve_client(settings, unix_socket=unix_socket)
        default = ApiToken(*world.token())
        app = compose(settings, store=store, grants=grants, pve=pve, default=default)
        add = claude_code_command(url, secret)
        password = world.access.users[ROOT].password = token_urlsafe(12)
        print(  # noqa: T201 - the answer to the command
            f"A simulated Proxmox VE is running; nothing real is touched.\n\n"
            f"  MCP URL  {url}\n  token    {secret}\n\n  {add}\n\n"
            "Calls that destroy wait for a person, who answers on the approval page:\n\n"
            f"  page     {page_url(settings)}/\n  login    {ROOT}, password {password}\n\n"
            "or with the commands of a host, in another terminal:\n\n"
            f"  export PVEMCP_STATE_DIR={settings.state_dir}\n"
            f"  {program} approvals list\n\n"
            "Ctrl-C ends it.",
            flush=True,
        )
        await run_http(app, settings, bound)


def simulate(world: WorldName, port: int, host: str) -> int:
    """Run a simulated PVE alone, over HTTPS on an address of this machine, until a signal."""
    exit_on_signal()
    asyncio.run(_simulate(make_world(world, progress="timed"), port, host))
    return 0


async def _simulate(world: World, port: int, host: str) -> None:
    ended = asyncio.Event()
    on_signal(ended.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            serving = serve_world(world, host=host, port=port, tls=True)
            running = await stack.enter_async_context(serving)
        except OSError as error:
            raise cannot_listen(f"{host}:{port}", error, other=SIMULATOR_PORT) from None
        token_id, secret = world.token()
        password = world.access.users[ROOT].password = token_urlsafe(12)
        print(  # noqa: T201 - the answer to the command
            f"URL          {running.url}\nfingerprint  {running.fingerprint}\n"
            f"token        PVEAPIToken={token_id}={secret}\n"
            f"login        {ROOT} {password}\n\nCtrl-C ends it.",
            flush=True,
        )
        await ended.wait()
