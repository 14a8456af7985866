"""Builds the Debian package: one file for Proxmox VE 8 and 9, which needs no network to install.

The same commit gives the same bytes, wherever and whenever it is built.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from libraries import MACHINES, libraries
from tree import describe, lay_out, settle

ROOT = Path(__file__).resolve().parents[2]


def build(source: Path, output: Path, *, cache: Path, arch: str, compression: str) -> Path:
    """Build the package of a source tree into a folder, and return its path."""
    version = _version(source)
    epoch = _epoch(source)
    made = libraries(source, arch, cache)
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"pvemcp_{version}_{arch}.deb"
    with tempfile.TemporaryDirectory(prefix="pvemcp-deb-") as folder:
        root = Path(folder, "root")
        units = lay_out(source, made, root, version, epoch)
        describe(root, {"version": version, "arch": arch}, units)
        settle(root, epoch)
        subprocess.run(
            [
                *("dpkg-deb", "--root-owner-group", f"-Z{compression}", "--threads-max=1"),
                *("--build", str(root), str(target)),
            ],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SOURCE_DATE_EPOCH": str(epoch)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return target


def _version(source: Path) -> str:
    text = (source / "src/pvemcp/__init__.py").read_text()
    found = re.search(r'^__version__ = "([0-9][0-9A-Za-z.+~]*)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("src/pvemcp/__init__.py has no __version__ that Debian takes")
    return found[1]


def _epoch(source: Path) -> int:
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    git = ["git", "-C", str(source), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(git, capture_output=True, check=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit("not a git checkout: set SOURCE_DATE_EPOCH") from None


def main(arguments: list[str]) -> int:
    """Build what the command line asks for, and print the path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT, help="tree to package")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the package")
    parser.add_argument("--cache", type=Path, default=ROOT / ".tools/deb", help="libraries, kept")
    parser.add_argument("--arch", choices=sorted(MACHINES), default="amd64")
    parser.add_argument("--compression", choices=("xz", "gzip", "none"), default="xz")
    asked = vars(parser.parse_args(arguments))
    sys.stdout.write(f"{build(asked.pop('source'), asked.pop('output'), **asked)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
