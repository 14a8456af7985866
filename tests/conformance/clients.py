"""Real clients against the product, offline: `python -m tests.conformance.clients`.

The official Inspector lists and calls tools in both protocol eras. With --claude-code, Claude Code
(a download of 400 MB) connects too. Exits with 1 when a client complains.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pvemcp.connect import PLACEHOLDER, snippet
from tests.conformance import npm
from tests.conformance.product import Running, running, say

ERAS = ("modern", "legacy")
CALLS = (
    ("--method", "tools/list", "--strict"),
    ("--method", "tools/call", "--tool-name", "inventory_find", "--tool-arg", "limit=2"),
)
_QUIET = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


def inspect(service: Running) -> list[str]:
    """Use the product with the Inspector; return its complaints."""
    complaints = []
    server = (
        service.url,
        "--transport",
        "http",
        "--header",
        f"Authorization: Bearer {service.token}",
    )
    for era in ERAS:
        for call in CALLS:
            arguments = ("--cli", *server, "--protocol-era", era, *call)
            done = npm.run(npm.INSPECTOR, *arguments, home=service.home)
            clean = done.returncode == 0 and not done.stderr.strip()
            say(f"Inspector, {era}: {' '.join(call)}", passed=clean)
            if not clean:
                complaints.append(f"rc={done.returncode}\n{done.stdout[-2000:]}\n{done.stderr}")
    return complaints


def connect_claude_code(service: Running, program: Path) -> list[str]:
    """Connect Claude Code as `pvemcp connect` says, without and with --helper."""
    complaints = []
    for helper in (False, True):
        home = service.home / f"claude-code-{'helper' if helper else 'header'}"
        home.mkdir()
        connect = snippet("claude-code", url=service.url, helper=helper).text
        commands = connect.replace(PLACEHOLDER, service.token)
        path = f"{program.parent}:{os.environ['PATH']}"
        done = npm.execute(
            "sh",
            "-ec",
            f"{commands}\nclaude mcp list",
            home=home,
            environment={**_QUIET, "PATH": path},
            typed=f"{service.token}\n",
        )
        connected = done.returncode == 0 and "Connected" in done.stdout
        say(f"Claude Code: connect{' --helper' if helper else ''}, mcp list", passed=connected)
        if not connected:
            complaints.append(done.stdout + done.stderr)
    return complaints


def main() -> None:
    """Run the clients, print a line for each use, and exit with the complaints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claude-code", action="store_true", help="connect Claude Code as well")
    given = parser.parse_args()
    npm.install()
    program = npm.claude_code() if given.claude_code else None
    with running() as service:
        complaints = inspect(service)
        if program:
            complaints += connect_claude_code(service, program)
        complaints += service.exceptions()
    sys.exit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main()
