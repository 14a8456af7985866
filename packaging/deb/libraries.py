"""The libraries of the package: wheels of every Python that it serves, laid over each other.

Only the names of compiled modules differ between Pythons, so one folder serves them all.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.13")
"""Of Debian 12 (PVE 8) and Debian 13 (PVE 9)."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = (36, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)
"""Minor versions that wheels are built for; Debian 12 has 2.36."""
_IDLE = ("*.pyi", "*.pyx", "*.pxd", "*.pxi", "*.c", "*.h", "*.hash", "py.typed", "_testcapi.*.so")
"""Of no use when the program runs."""
_RECORDS = ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "*.cyclonedx.json")
_UNUSED = ("*/tests", "*/testing", "bin", "include", "share")


def libraries(source: Path, arch: str, cache: Path) -> Path:
    """Return the folder of libraries that pyproject.toml and requirements.lock ask for."""
    lock, project = source / "requirements.lock", source / "pyproject.toml"
    wanted = tomllib.loads(project.read_text())["project"]["dependencies"]
    inputs = (lock.read_bytes(), Path(__file__).read_bytes(), repr((wanted, arch)).encode())
    key = hashlib.sha256(b"\0".join(inputs)).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / f"deb-libraries-{arch}-{key}"
    with (cache / f"{made.name}.lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not made.exists():
            new = cache / f"{made.name}.new"
            shutil.rmtree(new, ignore_errors=True)
            for python in PYTHONS:
                _overlay(_wheels(lock, wanted, python, arch, new / python), new / "all")
            (new / "all").rename(made)
            shutil.rmtree(new)
    return made


def _wheels(lock: Path, wanted: list[str], python: str, arch: str, target: Path) -> Path:
    """Unpack the wheels for one Python, without what the program does not need."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--root-user-action=ignore", *_options(python, MACHINES[arch]), "-r", str(lock)]
    subprocess.run([*pip, "--target", str(target), *options], check=True)
    needed = set(_closure(wanted, target, python))
    for info in sorted(target.glob("*.dist-info")):
        if canonicalize_name(info.name.partition("-")[0]) not in needed:
            _uninstall(info)
    _thin(target)
    return target


def _options(python: str, machine: str) -> list[str]:
    abis = (f"cp{python.replace('.', '')}", "abi3", "none")
    return [
        *("--python-version", python, "--implementation", "cp", "--only-binary=:all:"),
        *(f"--abi={abi}" for abi in abis),
        *(f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC),
        *(f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}"),
        *("--require-hashes", "--no-deps", "--no-compile"),
    ]


def _closure(wanted: list[str], place: Path, python: str) -> Iterator[str]:
    """Return what is needed at run time: the lock also has what builds a checkout."""
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    here |= {"sys_platform": "linux", "platform_python_implementation": "CPython"}
    about = {
        canonicalize_name(info.name.partition("-")[0]): HeaderParser().parsestr(
            (info / "METADATA").read_text("utf-8")
        )
        for info in place.glob("*.dist-info")
    }
    pending, seen = [(line, "") for line in wanted], set[tuple[str, str]]()
    while pending:
        line, extra = pending.pop()
        asked = Requirement(line)
        if asked.marker and not asked.marker.evaluate({**here, "extra": extra}):
            continue
        name = canonicalize_name(asked.name)
        if name not in about:
            raise SystemExit(f"{name} is needed, but requirements.lock does not have it: make lock")
        yield name
        for each in ("", *asked.extras):
            if (name, each) not in seen:
                seen.add((name, each))
                pending += [(need, each) for need in about[name].get_all("Requires-Dist", [])]


def _uninstall(info: Path) -> None:
    for row in (info / "RECORD").read_text("utf-8").splitlines():
        path = info.parent / row.rsplit(",", 2)[0].strip('"')
        path.unlink(missing_ok=True)
    shutil.rmtree(info, ignore_errors=True)


def _thin(place: Path) -> None:
    for folder in [path for pattern in _UNUSED for path in place.glob(pattern)]:
        shutil.rmtree(folder)
    idle = [path for pattern in _IDLE for path in place.rglob(pattern)]
    infos = place.glob("*.dist-info")
    for path in idle + [path for info in infos for name in _RECORDS for path in info.rglob(name)]:
        path.unlink()


def _overlay(one: Path, onto: Path) -> None:
    """Lay one Python's libraries over the others'. A file that both have must be the same."""
    for path in sorted(one.rglob("*")):
        place = onto / path.relative_to(one)
        if path.is_dir():
            continue  # made for its files; else it is empty
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        elif place.read_bytes() != path.read_bytes():
            raise SystemExit(f"{path.relative_to(one)} is not the same for every Python")
