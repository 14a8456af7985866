"""What root runs imports the standard library and nothing else, also not each other."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_TREE = (ROOT / "packaging/deb/tree.py").read_text()
_UNITS = [path.read_text() for path in (ROOT / "packaging/systemd").glob("*.service")]
LISTED = set(re.findall(r'"(host/\w+\.py)"', _TREE))
NAMED = {name for text in _UNITS for name in re.findall(r"/usr/lib/pvemcp/(\w+\.py)", text)}
SCRIPTS = sorted(
    {ROOT / "src/pvemcp" / name for name in LISTED}
    | {path for name in NAMED for path in (ROOT / "src/pvemcp/host").glob(name)}
)


def imported(path: Path) -> set[str]:
    """Return the top-level modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                found |= {name.name.partition(".")[0] for name in node.names}
            case ast.ImportFrom():
                found.add((node.module or "").partition(".")[0] if not node.level else ".")
    return found


def test_the_scripts_are_found() -> None:
    assert {"helper.py", "mirror.py", "upgrade.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_root_runs_imports_only_the_standard_library(path: Path) -> None:
    assert imported(path) <= sys.stdlib_module_names


@pytest.mark.parametrize("text", _UNITS)
def test_a_root_unit_runs_python_isolated(text: str) -> None:
    for line in re.findall(r"^ExecStart=.*\.py.*$", text, re.MULTILINE):
        assert re.match(r"ExecStart=/usr/bin/python3 -I (-S )?/usr/lib/pvemcp/", line)
