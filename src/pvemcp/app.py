"""The composition root: settings in, a running service out. Here all parts meet."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pvemcp import tracing
from pvemcp.access.bearer import PRINCIPAL, BearerAuth
from pvemcp.access.grants import Grants
from pvemcp.access.hangup import Hangup
from pvemcp.access.held import held
from pvemcp.access.hosts import HostCheck, own_names
from pvemcp.access.policy import Policy, permit
from pvemcp.access.tokens import default_token, local_principal
from pvemcp.audit import Audit
from pvemcp.background import Background, shared_clients, spread_of, syslog_of
from pvemcp.call import ApiToken, Call, Effect, Principal
from pvemcp.errors import Unavailable
from pvemcp.gating import cutting, gated
from pvemcp.host.executor import Executor
from pvemcp.host.runner import Runner
from pvemcp.journal.changes import Changes
from pvemcp.listener import (
    App,
    bind,
    exit_on_signal,
    mcp_url,
    run_http,
    until_signal,
)
from pvemcp.masking import LogMask, Masker, Secrets
from pvemcp.metrics import Metrics
from pvemcp.opening import Context
from pvemcp.page.build import Parts, with_page
from pvemcp.pve.client import PveClient
from pvemcp.running import runner
from pvemcp.server import Service, build
from pvemcp.settings import Settings, require_safe_listen
from pvemcp.stdin import lines
from pvemcp.store import Store
from pvemcp.tls import own_certificate, server_context, validity
from pvemcp.tools.registry import BY_NAME
from pvemcp.watch.clock import Clock
from pvemcp.watch.probes import OPEN
from pvemcp.watch.upkeep import Upkeep, Watched

if TYPE_CHECKING:
    from anyio import AsyncFile


logger = logging.getLogger(__name__)

_M_MMAP_THRESHOLD = -3
"""Of mallopt(3)."""
HOST_DESCRIPTION = Path("/usr/share/pve-docs/api-viewer/apidoc.js")
"""Where a PVE host keeps the API description of its own version."""


def pve_client(settings: Settings, *, unix_socket: str | None = None) -> PveClient:
    """Return the client for the PVE that the settings name, or for a simulator's socket."""
    on_host = unix_socket is None and settings.pve_is_local and HOST_DESCRIPTION.exists()
    return PveClient(
        settings.pve_url,
        ca_file=settings.pve_ca_file,
        fingerprint=settings.pve_fingerprint,
        socket=unix_socket,
        concurrency=settings.pve_concurrency,
        permit=permit,
        cache_dir=settings.state_dir,
        apidoc_file=HOST_DESCRIPTION if on_host else None,
    )


def compose(
    settings: Settings,
    *,
    store: Store,
    grants: Grants,
    pve: PveClient,
    default: ApiToken | None,
    journal: TextIO | None = None,
    executor: Executor | None = None,
    clock: Clock | None = None,
    trace: Callable[[Call], None] | None = None,
    policy: Policy | None = None,
) -> App:
    """Return the service over HTTP: Host check, bearer grants, MCP.

    `default` is the PVE token of grants that carry none of their own, if there is one; `journal`
    gets a JSON line of every call; `executor` runs commands, instead of what the settings ask for;
    `clock` is the time of day of its upkeep; `trace` is told of every closed call; `policy`
    judges, instead of the settings'.
    """
    secrets = held(store, *([default.secret] if default else []))
    _mask_log(secrets)
    metrics = Metrics(BY_NAME)
    audit = Audit(store, journal, secrets.known, [metrics.observe, *filter(None, [trace])])
    host = runner(settings, pve, lambda: Masker(secrets), executor)
    syslog, spread = syslog_of(settings, audit), spread_of(settings, store, audit)
    watched = Watched(
        store, grants, pve, audit, metrics, host.executor, default, secrets.mask, syslog, spread.now
    )
    upkeep = Upkeep(settings, watched, clock or Clock())
    gate, changes = gated(settings, store, pve, host, audit, policy=policy)
    service = Service(
        pve, host, audit, _principal_of_request, secrets.answer, gate, store.key("state"),
        upkeep.gate.call, settings.result_limit,
    )  # fmt: skip
    server, listen = build(service)
    mcp = _mcp_over_http(server, settings)
    beside = Background(
        settings, store, grants, default, service, spread, syslog, upkeep.turned_away
    )
    _live_with(mcp, pve, host, changes, audit, upkeep, *beside.works())
    guarded = _guarded(upkeep.guard(Hangup(mcp), server), grants, default, upkeep)
    parts = Parts(
        settings, gate.approvals, grants, audit, changes.book, pve,
        upkeep.connected, upkeep.clock.steady, spread.freezes, spread.told, spread.now,
        secrets.mask,
    )  # fmt: skip
    names = own_names(settings.address[0], settings.allowed_hosts)
    return App(HostCheck(with_page(parts, guarded), names, upkeep.turned_away), server, listen)


def _guarded(inner: Any, grants: Grants, default: ApiToken | None, upkeep: Upkeep) -> BearerAuth:
    """Let nobody in without a grant, but for what watches the service."""
    return BearerAuth(
        inner,
        grants.authenticate,
        default_token=default,
        refused=upkeep.refused,
        open_paths=OPEN,
        turned_away=upkeep.turned_away,
    )


def _principal_of_request(ctx: Context) -> Principal:
    principal = ctx.request.scope[PRINCIPAL] if ctx.request is not None else None
    if not isinstance(principal, Principal):
        raise TypeError("a request passed the door without a principal")
    return principal


def _mcp_over_http(server: Server[Any], settings: Settings) -> Starlette:
    mcp = server.streamable_http_app(
        streamable_http_path="/mcp",
        max_request_body_size=settings.body_limit,
        max_sessions=settings.sessions,
        session_idle_timeout=settings.session_idle,
        # HostCheck does it, with an answer that says what to set.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    mcp.add_exception_handler(404, _not_found)
    return mcp


async def _not_found(request: Request, _: Exception) -> Response:
    hint = "The MCP endpoint is /mcp."
    return JSONResponse({"error": f"nothing at {request.url.path}", "hint": hint}, 404)


def _live_with(
    mcp: Starlette,
    pve: PveClient,
    host: Runner,
    changes: Changes,
    audit: Audit,
    upkeep: Upkeep,
    *background: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Run what goes on in the background; close shells and connections at the end."""
    inner = mcp.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Any]:
        with audit.running():
            async with pve, inner(app) as state, upkeep.running():
                works = (_load(pve), *(each() for each in background))
                running = [asyncio.create_task(each) for each in works]
                try:
                    yield state
                finally:
                    for task in running:
                        task.cancel()
                    await asyncio.gather(*running, return_exceptions=True)
                    await changes.close()
                    await host.close()

    mcp.router.lifespan_context = lifespan


async def _load(pve: PveClient) -> None:
    try:
        await pve.description()
    except Unavailable as fault:
        logger.warning("no API description yet: %s", fault)


def log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("mcp").setLevel("WARNING")


def _mask_log(secrets: Secrets) -> None:
    for handler in logging.getLogger().handlers:
        for old in [one for one in handler.filters if isinstance(one, LogMask)]:
            handler.removeFilter(old)
        handler.addFilter(LogMask(secrets.mask))


def _settle() -> None:
    """Prepare the process for a long life with short pauses and little memory.

    What the imports made stays for ever, so the collector shall not go through it again (a pause
    of 40 ms and more for every caller). And glibc shall return large blocks to the kernel when they
    are free; left alone, it keeps blocks up to the size of the largest ever freed, here the API
    description's and a large list's.
    """
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 256 * 1024)


def serve(settings: Settings) -> int:
    """Run the service over HTTP until a signal ends it."""
    log_to_stderr(settings)
    _settle()
    exit_on_signal()
    _judge_certificate(settings)
    with Store(settings.state_dir) as store:
        grants = Grants(store)
        shared_clients(settings, store, grants).look()
        default = default_token(settings, grants.list())
        require_safe_listen(settings)
        if not grants.list():
            logger.warning("no client can log in yet: pvemcp client add NAME makes one")
        pve = pve_client(settings)
        app = compose(
            settings, store=store, grants=grants, pve=pve, default=default, journal=sys.stderr,
            trace=tracing.start(os.environ),
        )  # fmt: skip
        with bind(settings) as bound:
            logger.info("MCP at %s", mcp_url(settings, bound))
            asyncio.run(run_http(app, settings, bound, store.read))
    return 0


def _judge_certificate(settings: Settings) -> None:
    """Refuse a certificate that no server can use, and warn of one that clients will refuse."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    try:
        start, end = validity(own_certificate(settings.tls_cert))
    except ValueError:
        return
    now = datetime.now(UTC)
    if now > end:
        logger.warning(
            "the certificate %s expired on %s: clients will refuse it. Renew it.",
            settings.tls_cert,
            f"{end:%Y-%m-%d %H:%M} UTC",
        )
    if now < start:
        logger.warning(
            "the certificate %s is not valid before %s: clients will refuse it. Check the clock.",
            settings.tls_cert,
            f"{start:%Y-%m-%d %H:%M} UTC",
        )


def stdio(settings: Settings, ceiling: Effect, client: str | None = None) -> int:
    """Serve one client on stdin and stdout, with its own PVE token or the configured one.

    Returns 0 when the client has closed stdin, or on SIGTERM or SIGHUP; 130 on SIGINT.
    """
    log_to_stderr(settings)
    _settle()

    async def run(store: Store) -> None:
        async with pve_client(settings) as pve:
            audit = Audit(store, sys.stderr, secrets.known)
            host = runner(settings, pve, lambda: Masker(secrets))
            gate, changes = gated(settings, store, pve, host, audit)
            server, listen = build(
                Service(
                    pve,
                    host,
                    audit,
                    lambda _: principal,
                    secrets.answer,
                    gate,
                    store.key("state"),
                )
            )
            # It only iterates over the lines; its own reader cannot be cancelled.
            stdin = cast("AsyncFile[str]", lines(sys.stdin.fileno()))
            beside = asyncio.create_task(cutting(host, gate.policy))
            with audit.running():
                try:
                    async with stdio_server(stdin=stdin) as (reader, writer):
                        await server.run(reader, writer, server.create_initialization_options())
                finally:
                    beside.cancel()
                    listen.close()
                    await changes.close()
                    await host.close()

    with Store(settings.state_dir) as store:
        principal = local_principal(settings, Grants(store).list(), client=client, ceiling=ceiling)
        secrets = held(store, principal.token.secret)
        _mask_log(secrets)
        return asyncio.run(until_signal(run(store)))
