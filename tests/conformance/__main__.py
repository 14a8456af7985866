"""Conformance of the product to MCP: `python -m tests.conformance`.

Runs the official suite on both protocol revisions, with its fixtures and without, and the official
Inspector. Everything is local: a simulated PVE, and a service on loopback. Exits with 1 when
something fails.
"""

from __future__ import annotations

import sys

from tests.conformance import clients, npm, suite
from tests.conformance.product import running


def main() -> None:
    """Run everything, print a line for each run, and exit with the complaints."""
    npm.install()
    complaints = []
    for options, check in (
        (("--admit", "--fixtures"), suite.with_fixtures),
        (("--admit",), suite.without_fixtures),
        ((), clients.inspect),
        (("--policy",), clients.destroy),
    ):
        with running(*options) as service:
            complaints += [*check(service), *service.exceptions()]
    sys.exit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main()
