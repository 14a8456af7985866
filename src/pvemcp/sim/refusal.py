"""How an endpoint says no: Refusal ends a request, TaskFailure ends a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Body = Literal["json", "text", "none"]


class Refusal(Exception):  # noqa: N818
    """An error answer of the API.

    `message` becomes the reason phrase (its first line) and, with a newline, the `message` of the
    JSON body. `body` says what follows the headers: PVE 9.1 leaves some bodies out.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        errors: Mapping[str, str] | None = None,
        body: Body = "json",
        newline: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors
        self.body: Body = body
        self.newline = newline


class Dropped(Exception):  # noqa: N818
    """The connection is to be closed without an answer."""


class TaskFailure(Exception):  # noqa: N818
    """A task ends with this text as its exit status."""


def rejected(errors: Mapping[str, str]) -> Refusal:
    """Return the 400 of a parameter check: the texts by parameter."""
    return Refusal(400, "Parameter verification failed.", errors=errors)


def failed(message: str) -> Refusal:
    """Return a 500: PVE's answer to nearly everything that a handler refuses."""
    return Refusal(500, message)


def forbidden(detail: str = "") -> Refusal:
    """Return the 403 of a permission check; `detail` is such as `/vms/100, VM.Audit`."""
    suffix = f" ({detail})" if detail else ""
    return Refusal(403, f"Permission check failed{suffix}")
