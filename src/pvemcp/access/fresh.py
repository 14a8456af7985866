"""How old a client's connection is: what may have cut it off is confirmed over a new one."""

from __future__ import annotations

import time
from typing import Any

OPENED = "pvemcp.opened"
"""In a request's scope: when its connection was opened, in seconds since the epoch."""
CLOSE = (b"connection", b"close")


class Fresh:
    """From when on a connection is new enough. Older ones are closed after their next answer."""

    since = 0.0

    @classmethod
    def require(cls) -> None:
        """Have every client connect anew."""
        cls.since = time.time()

    @classmethod
    def mark(cls, message: Any, opened: float) -> Any:
        """Let an answer close its connection when that is too old."""
        if message["type"] != "http.response.start" or opened >= cls.since:
            return message
        return {**message, "headers": [*message.get("headers", ()), CLOSE]}
