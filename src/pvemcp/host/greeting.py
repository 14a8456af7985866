"""What nodes say to each other before a command: frames N, H, R, and A or F.

The node that is called begins with N, a challenge (JSON: version, oldest, pvemcp, node, nonce). The
caller answers with H, who it is (version, node, to, certificate, proof), and R, the request for the
helper. Then A means that the command is begun, F that it is refused. From then on the helper's
frames pass; Z after the last one tells their end from a broken connection.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pvemcp import __version__
from pvemcp.errors import Invalid, Misconfigured
from pvemcp.host.members import NAME

VERSION, OLDEST = 2, 1
"""The version of these frames, and the oldest that is still understood: the release's before.

2: a node takes over what others have frozen."""
GREETING_LIMIT, REQUEST_LIMIT = 16 << 10, 1 << 20
NONCE = 32
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""A node that has lost its power is noticed within half a minute."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the node that is called says first."""

    node: str
    nonce: bytes
    version: int = VERSION
    oldest: int = OLDEST
    pvemcp: str = __version__

    def encoded(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "version": self.version,
            "oldest": self.oldest,
            "pvemcp": self.pvemcp,
            "node": self.node,
            "nonce": self.nonce.hex(),
        }

    @classmethod
    def read(cls, payload: bytes) -> Challenge:
        """Read it. Raises Invalid."""
        found = _read(payload)
        return cls(
            _name(found, "node"),
            _bytes(found, "nonce", bytes.fromhex),
            _number(found, "version"),
            _number(found, "oldest"),
            str(found.get("pvemcp", ""))[:40],
        )

    def agreed(self) -> int:
        """Return the version that both sides speak. Raises Misconfigured."""
        common = min(VERSION, self.version)
        if common < max(OLDEST, self.oldest):
            older = "here" if self.version > VERSION else f"on {self.node}"
            raise Misconfigured(
                f"{self.node} has pvemcp {self.pvemcp} and this node {__version__}, which do not "
                "understand each other",
                hint=f"Bring the package {older} up to date: nodes may be one release apart.",
            )
        return common


@dataclass(frozen=True, slots=True)
class Hello:
    """Who calls whom, and the proof of it (see identity.py)."""

    node: str
    to: str
    certificate: bytes
    proof: bytes
    version: int = VERSION

    def encoded(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "version": self.version,
            "node": self.node,
            "to": self.to,
            "certificate": base64.b64encode(self.certificate).decode(),
            "proof": base64.b64encode(self.proof).decode(),
        }

    @classmethod
    def read(cls, payload: bytes) -> Hello:
        """Read it. Raises Invalid."""
        found = _read(payload)
        return cls(
            _name(found, "node"),
            _name(found, "to"),
            _bytes(found, "certificate", _base64),
            _bytes(found, "proof", _base64),
            _number(found, "version"),
        )


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice when the other node is gone."""
    for level, option, value in _KEEPALIVE:
        connection.setsockopt(level, option, value)


def read_request(payload: bytes) -> dict[str, Any]:
    """Read a frame R. Raises Invalid."""
    return dict(_read(payload))


def _read(payload: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _unclear("it is not JSON")
    return found


def _name(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise _unclear(f"{key} is no node's name")
    return value


def _number(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    if type(value) is not int:
        raise _unclear(f"{key} is no number")
    return value


def _bytes(found: Mapping[str, Any], key: str, decode: Any) -> bytes:
    try:
        return bytes(decode(found[key]))
    except (ValueError, KeyError, TypeError):
        raise _unclear(f"{key} cannot be read") from None


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _unclear(why: str) -> Invalid:
    return Invalid(f"the other node does not speak as pvemcp does: {why}", hint="See its journal.")
