"""The Fault tree: everything that can go wrong in a way that a caller can act on.

A Fault carries a message (what happened) and a hint (what to do next). Whatever is not a Fault
never reaches a client: the server answers "internal" and logs the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class Fault(Exception):  # noqa: N818 - the tree's names end without "Error"
    """A failure that the caller may read.

    `detail` maps a parameter name to what is wrong with it; it is empty for most faults.
    """

    code: ClassVar[str] = "fault"

    def __init__(
        self, message: str, *, hint: str = "", detail: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = dict(detail or {})

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"- {name}: {problem}" for name, problem in self.detail.items()]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


class Invalid(Fault):
    """The request itself is wrong: an unknown name, a bad value, a path that does not exist."""

    code = "invalid"


class Missing(Fault):
    """The thing named does not exist (or is hidden from this PVE token)."""

    code = "not_found"


class Denied(Fault):
    """A right is missing: the grant's ceiling, the policy, or a PVE privilege."""

    code = "denied"


class ApprovalNeeded(Fault):
    """A person must approve the plan first; nothing was done. The message holds the plan."""

    code = "approval_needed"


class Unauthenticated(Fault):
    """A credential was refused: the bearer secret here, or the API token at PVE."""

    code = "unauthenticated"


class Conflict(Fault):
    """The target is in the wrong state: locked, running, protected, changed by someone else."""

    code = "conflict"


class NotPlanned(Conflict):
    """A write that is not in the plan of its call was about to be sent, and was not."""


class Rejected(Fault):
    """PVE refused for a reason that has no class of its own; its text is the message."""

    code = "rejected"


class Limited(Fault):
    """A limit of this service was reached, and nothing was done; the message names the limit."""

    code = "limited"

    def __init__(self, limit: str, message: str, *, hint: str, wait: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.limit = limit
        """The setting, or what else refuses."""
        self.wait = wait
        """Seconds after which trying again makes sense."""


class Unavailable(Fault):
    """Something needed did not answer, and nothing was changed."""

    code = "unavailable"


class Uncertain(Fault):
    """A write was sent and its answer was lost: it may or may not have happened."""

    code = "uncertain"


class TaskFailed(Fault):
    """A PVE task ended in something else than OK."""

    code = "task_failed"


class Misconfigured(Fault):
    """A setting is unknown, missing, contradictory or unsafe."""

    code = "misconfigured"


class Internal(Fault):
    """A defect of this service: the journal has it, under the id of the call."""

    code = "internal"
