"""What the suite and the clients are made of: npm packages, pinned in lock files."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / ".tools"
"""Where they are installed; git ignores it and `make clean` removes it."""
SCOPED = TOOLS / "conformance" / "node_modules" / "@modelcontextprotocol"
SUITE = SCOPED / "conformance" / "dist" / "index.js"
INSPECTOR = SCOPED / "inspector" / "clients" / "launcher" / "build" / "index.js"

_MANIFESTS = ("package.json", "package-lock.json")
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
_PLATFORM = f"{platform.system().lower()}-{_ARCHITECTURES.get(platform.machine(), 'unknown')}"


def install() -> None:
    """Install the suite and the Inspector unless they are there."""
    _install(HERE, TOOLS / "conformance")


def claude_code() -> Path:
    """Install Claude Code (400 MB) unless it is there, and return its program."""
    folder = TOOLS / "claude-code"
    _install(HERE / "claude-code", folder)
    return folder / "node_modules" / "@anthropic-ai" / f"claude-code-{_PLATFORM}" / "claude"


def _install(source: Path, target: Path) -> None:
    manifests = [source / name for name in _MANIFESTS]
    wanted = hashlib.sha256(b"".join(each.read_bytes() for each in manifests)).hexdigest()
    stamp = target / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if shutil.which("npm") is None:
        sys.exit("conformance needs npm: on Debian, apt install npm")
    target.mkdir(parents=True, exist_ok=True)
    for each in manifests:
        shutil.copyfile(each, target / each.name)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    if subprocess.run(["npm", "ci", *quiet], cwd=target, check=False).returncode:
        sys.exit("npm could not install the packages")
    stamp.write_text(wanted)


def run(script: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a Node.js program to its end, with `home` for its home directory; capture its output."""
    return execute(_node(), str(script), *arguments, home=home)


def execute(
    *command: str, home: Path, environment: dict[str, str] | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with `home` for its home directory and `typed` as its input."""
    return subprocess.run(
        command,
        env={**os.environ, "HOME": str(home), "NO_COLOR": "1", **(environment or {})},
        cwd=home,
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _node() -> str:
    """Return a Node.js that is new enough: the suite and the Inspector need 22.19."""
    installed = TOOLS / "conformance" / "node_modules" / f"node-{_PLATFORM}" / "bin" / "node"
    return str(installed) if installed.exists() else "node"
