"""`pvemcp serve` with policy, audit and journal off: what they cost is the difference to it.

Only the bench starts it, on loopback, in front of a fake PVE. The product has no such switch.
"""

from __future__ import annotations

import sys
from typing import Any

from pvemcp import app
from pvemcp.access.policy import Policy
from pvemcp.audit import Audit
from pvemcp.call import Call, Effect, Verdict
from pvemcp.cli import main


class Silent(Audit):
    """Writes nothing down."""

    def opened(self, call: Call) -> None:
        """Write nothing."""

    def record(self, call: Call) -> None:
        """Write nothing; metrics count all the same."""
        for observe in self._observers:
            observe(call)


class Anything(Policy):
    """Lets everything through without a look."""

    def permit(self, call: Call, verb: str, path: str, effect: Effect) -> Verdict:  # noqa: ARG002
        """Allow."""
        return Verdict.ALLOW


_gated = app.gated


def _ungated(*args: Any, **options: Any) -> Any:
    return _gated(*args, **{**options, "policy": Anything()})


if __name__ == "__main__":
    app.Audit = Silent  # type: ignore[misc]
    app.gated = _ungated
    sys.argv = ["pvemcp", "serve"]
    sys.exit(main())
