"""Asks the running service over its control socket. Imports nothing slow: see control.py."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from pvemcp.errors import Missing, Unavailable

FILE = "control.sock"
LINE = 1 << 20
"""Bytes of a request."""
SECONDS = 30.0


def ask(folder: Path, do: str, **more: Any) -> Any:
    """Ask the service that runs with this state folder. Raises Unavailable, or its Fault."""
    path = folder / FILE
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(SECONDS)
            link.connect(str(path))
            link.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
            with link.makefile("rb") as lines:
                answer = json.loads(lines.readline(LINE * 16))
    except OSError as error:
        raise Unavailable(
            f"The service does not answer at {path}: {error.strerror or error}.",
            hint="Is it running (systemctl status pvemcp)? Run this as root or as its user.",
        ) from None
    except ValueError:
        raise Unavailable("The service ended before it answered.", hint="Try again.") from None
    if "fault" in answer:
        kind = Missing if answer.get("code") == Missing.code else Unavailable
        raise kind(answer["fault"], hint=answer.get("hint", ""))
    return answer.get("answer")
