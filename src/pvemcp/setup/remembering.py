"""Reads of one command are asked once: each run of `pvesh` takes more than a second."""

from __future__ import annotations

from typing import Any

from pvemcp.errors import Missing
from pvemcp.setup.access import PveAccess


class Remembering:
    """Another access to PVE, whose answers count until the next write."""

    def __init__(self, access: PveAccess) -> None:
        self.who = access.who
        self._access = access
        self._known: dict[tuple[Any, ...], Any] = {}

    def get(self, path: str, /, **params: Any) -> Any:
        """Read, or remember; that something is missing is remembered too."""
        key = (path, *sorted(params.items()))
        if key not in self._known:
            try:
                self._known[key] = self._access.get(path, **params)
            except Missing as fault:
                self._known[key] = fault
        found = self._known[key]
        if isinstance(found, Missing):
            raise Missing(found.message, hint=found.hint)
        return found

    def post(self, path: str, /, **params: Any) -> Any:
        """Make something new."""
        self._known.clear()
        return self._access.post(path, **params)

    def put(self, path: str, /, **params: Any) -> Any:
        """Change something."""
        self._known.clear()
        return self._access.put(path, **params)

    def delete(self, path: str, /, **params: Any) -> Any:
        """Remove something."""
        self._known.clear()
        return self._access.delete(path, **params)
