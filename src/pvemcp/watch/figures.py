"""A listener of its own for the metrics, on loopback and without a grant."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from pvemcp.connections import Connection, listening_socket
from pvemcp.settings.values import split_listen

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """A server beside the main one, which has the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


@contextlib.asynccontextmanager
async def listening(address: str, app: ASGIApp) -> AsyncIterator[None]:
    """Serve the metrics until the end of the block; with an empty address, do nothing.

    The service goes on without them when the address cannot be had.
    """
    if not address:
        yield
        return
    try:
        bound = listening_socket(*split_listen(address))
    except OSError as error:
        logger.error("metrics_listen: cannot listen on %s: %s", address, error)  # noqa: TRY400
        yield
        return
    config = uvicorn.Config(
        app, http=Connection, log_config=None, access_log=False, lifespan="off", ws="none",
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)
    with bound:
        serving = asyncio.create_task(server.serve([bound]))
        logger.info("metrics at http://%s/metrics", address)
        try:
            yield
        finally:
            server.should_exit = True
            await serving
