"""The service is imported without the SDK's clients, or in the ordinary way if that fails."""

from __future__ import annotations

import subprocess
import sys

LEAN = "from pvemcp.cli import lean; import sys; app = lean.service(); "


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_clients_of_the_sdk_are_not_imported() -> None:
    assert run(LEAN + "print('mcp.client' in sys.modules, callable(app.serve))") == "False True\n"


def test_an_sdk_that_needs_its_packages_whole_is_imported_in_the_ordinary_way() -> None:
    spoiled = "from pvemcp.cli import lean; lean._SDK = (*lean._SDK, 'mcp.server.lowlevel'); "
    said = run(spoiled + LEAN + "print('mcp.client' in sys.modules, callable(app.serve))")
    assert said == "True True\n"
