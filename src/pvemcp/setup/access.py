"""PVE's API with an administrator's rights, as set-up needs it: four verbs, two ways to get in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pvemcp.errors import Fault, Invalid, Rejected
from pvemcp.pve.faults import clean, explained


class PveAccess(Protocol):
    """The API of PVE for somebody who may change users and rights.

    Paths begin with a slash. Booleans become PVE's 1 and 0. Everything raises a Fault when PVE
    refuses; Missing and Conflict mean what their names say.
    """

    who: str
    """As whom, for a person to read."""

    def get(self, path: str, /, **params: Any) -> Any:
        """Read."""

    def post(self, path: str, /, **params: Any) -> Any:
        """Make something new."""

    def put(self, path: str, /, **params: Any) -> Any:
        """Change something."""

    def delete(self, path: str, /, **params: Any) -> Any:
        """Remove something."""


def wire(params: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters as PVE reads them; None leaves one out."""
    return {
        name: str(int(value) if isinstance(value, bool) else value)
        for name, value in params.items()
        if value is not None
    }


def refusal(asked: str, text: str, errors: Mapping[str, str] | None = None) -> Fault:
    """Return the Fault of an error text of PVE; `errors` are those of single parameters."""
    for problem in (*(errors or {}).values(), text):
        kind, hint, _ = explained(clean(problem))
        if kind is not Rejected:
            return kind(f"PVE refused {asked}: {clean(problem)}", hint=hint)
    made = Invalid if errors else Rejected
    return made(f"PVE refused {asked}: {clean(text)}", detail=errors)
