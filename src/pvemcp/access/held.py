"""The secret values that this service holds, which must never come out of it."""

from __future__ import annotations

from collections.abc import Iterator

from pvemcp.masking import Secrets
from pvemcp.store import Store


def held(store: Store, *more: str) -> Secrets:
    """Return the grants' PVE tokens and the keys of the database, and `more`, as they are by then.

    Of a grant's own secret only the hash is there; its shape is masked.
    """

    def current() -> Iterator[str | bytes]:
        yield from more
        for (token,) in store.rows("SELECT token_secret FROM grants WHERE token_secret <> ''"):
            yield token
        for (key,) in store.rows("SELECT value FROM key"):
            yield bytes(key)

    return Secrets(current, store.version)
