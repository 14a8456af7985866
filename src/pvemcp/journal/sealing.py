"""States are sealed in the database: they may hold what nobody shall read in passing."""

from __future__ import annotations

import json
import os
from typing import Any

NONCE = 12


def seal(key: bytes, about: str, content: Any) -> bytes:
    """Encrypt a JSON value for the row `about` (AES-256-GCM)."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - the CLI's start

    nonce = os.urandom(NONCE)
    text = json.dumps(content, default=str).encode("utf-8", "surrogatepass")
    return nonce + AESGCM(key).encrypt(nonce, text, about.encode())


def unseal(key: bytes, about: str, sealed: bytes) -> Any:
    """Decrypt it again. Raises ValueError when it is not what was sealed for that row."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - the CLI's start
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - the CLI's start

    try:
        return json.loads(AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], about.encode()))
    except InvalidTag:
        raise ValueError("it was altered, or sealed with another key") from None
