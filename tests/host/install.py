"""The Debian package of this checkout, built once for its content, and its installation."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.host.entering import Result
from tests.host.images import SYSTEM_PATH, WITH_US, HostFault, cache, made_once
from tests.host.machine import Machine

SOURCE = Path(__file__).parents[2]
BUILD = SOURCE / "packaging/deb/build.py"
INPUTS = ("src/pvemcp", "packaging", "requirements.lock", "pyproject.toml", "CHANGELOG.md")
"""What a package is made of."""
LIBRARY = "/usr/lib/pvemcp"
USER = "pvemcp"
STATE = "/var/lib/pvemcp"
EPOCH = "1700000000"
QUICK = ("--compression", "gzip")
APT = ("apt-get", "-qy", "-oDpkg::Use-Pty=0", "-oDpkg::Options::=--force-confold,unsafe-io")
APT_SECONDS = 180
KEPT = 20
"""Packages in the cache, of the last contents."""


def install(machine: Machine, package: Path | None = None, *, code: int = 0) -> Result:
    """Install the package of this checkout, or another: as an administrator does, and offline."""
    there = "/root/pvemcp.deb"
    machine.copy_in(package or built(), there)
    done = machine.run([*APT, "install", there], timeout=APT_SECONDS, env=_UNATTENDED, check=False)
    machine.run(["rm", there])
    if done.code != code:
        raise HostFault(f"apt failed:\n{done.stdout}{done.stderr}")
    return done


def remove(machine: Machine, *, purge: bool = False) -> Result:
    """Remove the package, with settings and data if that is wanted."""
    word = "purge" if purge else "remove"
    return machine.run([*APT, word, "pvemcp"], timeout=APT_SECONDS, env=_UNATTENDED)


_UNATTENDED = {"DEBIAN_FRONTEND": "noninteractive"}


def built(source: Path = SOURCE) -> Path:
    """Return the package of a source tree. The first one of a requirements.lock downloads."""
    made = cache() / f"pvemcp_{_key(source)}.deb"
    with made_once(made) as new:
        if new is not None:
            _forget_old()
            with tempfile.TemporaryDirectory(dir=cache()) as folder:
                build(Path(folder), source=source, options=QUICK).rename(new)
    return made


def changed(version: str, folder: Path, edits: Mapping[str, tuple[str, str]]) -> Path:
    """Return the package of this checkout as another version, with texts of its files replaced."""
    root, made = folder / f"root-{version}", folder / f"pvemcp_{version}.deb"
    env = {"PATH": SYSTEM_PATH}
    subprocess.run(["dpkg-deb", "-R", str(built()), str(root)], env=env, check=True)
    control = ("DEBIAN/control", ("\nVersion: ", f"\nVersion: {version}+"))
    code = (
        f"{LIBRARY}/python/pvemcp/__init__.py",
        ('__version__ = "', f'__version__ = "{version}+'),
    )
    for path, (old, new) in [control, code, *edits.items()]:
        file = root / path.lstrip("/")
        text = file.read_text()
        if old not in text:
            raise HostFault(f"{path} has no {old!r}")
        file.write_text(text.replace(old, new, 1))
    pack = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(made)]
    subprocess.run(pack, env=env, stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(root)
    return made


def _forget_old() -> None:
    packages = sorted(cache().glob("pvemcp_*.deb"), key=lambda path: path.stat().st_mtime)
    for path in packages[:-KEPT]:
        path.unlink(missing_ok=True)
        Path(f"{path}.lock").unlink(missing_ok=True)


def build(output: Path, *, source: Path = SOURCE, options: tuple[str, ...] = ()) -> Path:
    """Build the package of a source tree into a folder."""
    argv = [sys.executable, str(BUILD), "--output", str(output), "--cache", str(cache()), *options]
    done = subprocess.run(
        [*WITH_US, *argv, "--source", str(source)],
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HostFault(f"make deb failed:\n{done.stdout}{done.stderr}"[-4000:])
    return Path(done.stdout.splitlines()[-1])


def _key(source: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for name in INPUTS for path in _files(source / name)):
        found.update(f"{path.relative_to(source)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    inside = [path] if path.is_file() else path.rglob("*")
    return [one for one in inside if one.is_file() and one.suffix != ".pyc"]
