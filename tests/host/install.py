"""Installs pvemcp into a machine the way its Debian package does."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from pathlib import Path

from tests.host.images import SYSTEM_PATH, WITH_US, HostFault, Suite, cache, made_once
from tests.host.machine import Machine

SOURCE = Path(__file__).parents[2]
PACKAGING = SOURCE / "packaging"
LIBRARY = "/usr/lib/pvemcp"
USER = "pvemcp"
STATE = "/var/lib/pvemcp"
MAIN = b"""\
import sys

sys.path.insert(0, "/usr/lib/pvemcp/python")

from pvemcp.cli import main

sys.exit(main())
"""
LAUNCHER = b"""\
#!/bin/sh
exec /usr/bin/python3 -I /usr/lib/pvemcp/main "$@"
"""
ROOT_SIDE = ("helper.py", "inside.py", "jobs.py", "guest.py", "mirror.py")
"""What root runs: files of their own, which import nothing of ours."""

_PYTHON: dict[Suite, str] = {"bookworm": "3.11", "trixie": "3.13"}
_GLIBC = (36, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)
"""Minor versions that wheels are built for; bookworm has 2.36."""


def install(machine: Machine) -> None:
    """Put everything in place; of the units only the helper's socket is started.

    The first one of a suite and a requirements.lock on a computer downloads the libraries.
    """
    _install_libraries(machine)
    machine.copy_in(SOURCE / "src/pvemcp", f"{LIBRARY}/python/pvemcp")
    machine.copy_in(MAIN, f"{LIBRARY}/main")
    machine.copy_in(LAUNCHER, "/usr/bin/pvemcp", mode=0o755)
    for name in ROOT_SIDE:
        machine.copy_in(SOURCE / "src/pvemcp/host" / name, f"{LIBRARY}/{name}")
    _compile(machine, f"{LIBRARY}/python/pvemcp")
    _install_units(machine)


def _install_units(machine: Machine) -> None:
    units = PACKAGING / "systemd"
    machine.copy_in(PACKAGING / "sysusers.d", "/usr/lib/sysusers.d")
    machine.copy_in(units, "/usr/lib/systemd/system")
    machine.copy_in(_rules(), "/etc/pvemcp/exec.toml")
    machine.run(["systemd-sysusers"])
    machine.run(["install", "-d", "-m", "0700", "-o", USER, "-g", USER, STATE])
    machine.run(["systemctl", "daemon-reload"])
    sockets = sorted(path.name for path in units.glob("*.socket"))
    machine.run(["systemctl", "enable", "--now", *sockets])


def _rules() -> Path:
    places = (PACKAGING / "exec.toml", SOURCE / "src/pvemcp/host/exec.toml")
    return next(path for path in places if path.exists())


def _compile(machine: Machine, folder: str) -> None:
    """Do what the package does when it is configured; the service itself cannot write there."""
    machine.run(["python3", "-m", "compileall", "-q", "-j", "0", folder], timeout=120)


def _install_libraries(machine: Machine) -> None:
    lock = SOURCE / "requirements.lock"
    options = _pip_options(machine.suite)
    key = hashlib.sha256(lock.read_bytes() + repr(options).encode()).hexdigest()[:12]
    tarball = cache() / f"libraries-{machine.suite}-{key}.tar"
    parent = machine.root / LIBRARY.lstrip("/")
    parent.mkdir(exist_ok=True)
    tar = ["tar", "--numeric-owner", "-C", str(parent)]
    env = {"PATH": SYSTEM_PATH}
    with made_once(tarball) as new:
        if new is not None:
            _download(parent / "python", [*options, "-r", str(lock)])
            _compile(machine, f"{LIBRARY}/python")
            subprocess.run([*tar, "-cf", str(new), "python"], env=env, check=True)
            return
    subprocess.run([*tar, "-xf", str(tarball)], env=env, check=True)


def _pip_options(suite: Suite) -> list[str]:
    version, machine = _PYTHON[suite], platform.machine()
    abis = (f"cp{version.replace('.', '')}", "abi3", "none")
    return [
        *("--python-version", version, "--implementation", "cp", "--only-binary=:all:"),
        *(f"--abi={abi}" for abi in abis),
        *(f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC),
        *(f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}"),
        *("--require-hashes", "--no-deps", "--no-compile"),
    ]


def _download(target: Path, options: list[str]) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*WITH_US, *pip, "--root-user-action=ignore", "--target", str(target), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HostFault(f"pip failed:\n{done.stdout}{done.stderr}"[-4000:])
