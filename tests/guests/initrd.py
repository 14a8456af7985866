"""The system of the VM: Debian's cloud kernel, and busybox with the guest agent in memory.

Nothing of it is installed here: the packages are downloaded and unpacked. Of this computer are the
libraries of the agent, which are those that QEMU needs too.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.host.images import SYSTEM_PATH, HostFault, cache, made_once, proxies

KERNEL, AGENT, BUSYBOX = "linux-image-cloud-amd64", "qemu-guest-agent", "busybox-static"
MODULES = ("virtio_pci", "virtio_console")
PORT = "org.qemu.guest_agent.0"
_REAL_KERNEL = re.compile(r"^Depends:.*?(linux-image-[^ ,]*-cloud-amd64)", re.MULTILINE)
_VERSION = re.compile(r"^Version: (\S+)", re.MULTILINE)
_NEEDS = re.compile(rb"\0depends=([^\0]*)\0")
_LIBRARY = re.compile(r"(?:=> |^\t)(/\S+) \(", re.MULTILINE)
_FOLDER, _FILE, _PROGRAM, _LINK, _CHARACTERS = 0o040755, 0o100644, 0o100755, 0o120777, 0o020600

_INIT = f"""#!/bin/sh
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in $(cat /lib/modules/order); do insmod /lib/modules/$module; done
hostname real
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" = {PORT} ] && device=/dev/${{port##*/}}
done
qemu-ga --method=virtio-serial --path=$device --statedir=/run
poweroff -f
"""


@dataclass(frozen=True, slots=True)
class System:
    """What QEMU boots."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True, slots=True)
class _Node:
    """A file, folder, link or device of the archive; its path has no leading slash."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def system() -> System:
    """Return the system, made when its packages are others than the last time."""
    try:
        versions = _versions()
    except HostFault:  # a computer that never fetched the lists of packages
        _run("apt-get", "update", "-q")
        versions = _versions()
    recipe = Path(__file__).read_bytes() + repr(versions).encode()
    key = hashlib.sha256(recipe).hexdigest()[:12]
    made = System(cache() / f"vmlinuz-{key}", cache() / f"initrd-{key}")
    with made_once(made.initrd) as new:
        if new is not None:
            _make(list(versions), System(made.kernel, new))
    return made


def _versions() -> dict[str, str]:
    """Return the packages and what is current of them: the kernel's by its real name."""
    found = _REAL_KERNEL.search(_shown(KERNEL))
    if found is None:
        raise HostFault(f"{KERNEL} names no kernel")
    versions = {}
    for package in (found[1], AGENT, BUSYBOX):
        version = _VERSION.search(_shown(package))
        versions[package] = version[1] if version else ""
    return versions


def _shown(package: str) -> str:
    return _run("apt-cache", "show", "--no-all-versions", package)


def _make(packages: Sequence[str], target: System) -> None:
    with tempfile.TemporaryDirectory(prefix="pvemcp-initrd-") as name:
        folder = Path(name)
        sandbox = ("-o", "APT::Sandbox::User=root")
        try:
            _run("apt-get", *sandbox, "download", *packages, cwd=folder)
        except HostFault:  # the lists of packages are older than what the mirror has
            _run("apt-get", "update", "-q")
            _run("apt-get", *sandbox, "download", *packages, cwd=folder)
        root = folder / "root"
        for package in folder.glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), str(root))
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        target.kernel.write_bytes(kernel.read_bytes())
        nodes = [*_programs(root), *_modules(root), *_etc()]
        target.initrd.write_bytes(gzip.compress(cpio(nodes), compresslevel=1))


def _programs(root: Path) -> Iterable[_Node]:
    agent, busybox = _program(root, "qemu-ga"), _program(root, "busybox")
    yield _Node("sbin/qemu-ga", _PROGRAM, agent.read_bytes())
    yield _Node("bin/busybox", _PROGRAM, busybox.read_bytes())
    for applet in _run(str(busybox), "--list").split():
        if applet != "busybox":
            yield _Node(f"bin/{applet}", _LINK, b"busybox")
    for library in _LIBRARY.findall(_run("ldd", str(agent))):
        yield _Node(library.lstrip("/"), _PROGRAM, Path(library).read_bytes())


def _program(root: Path, name: str) -> Path:
    places = (root / folder / name for folder in ("bin", "sbin", "usr/bin", "usr/sbin"))
    return next(place for place in places if place.is_file())


def _modules(root: Path) -> Iterable[_Node]:
    """Return the modules, and the order in which each finds what it depends on."""
    files = {file.name.split(".")[0].replace("-", "_"): file for file in root.rglob("*.ko*")}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order or name not in files:  # what is no file is part of the kernel
            return
        data = files[name].read_bytes()
        data = lzma.decompress(data) if files[name].suffix == ".xz" else data
        needs = _NEEDS.search(data)
        for other in needs[1].decode().split(",") if needs else ():
            add(other.replace("-", "_"))
        order[name] = data

    for name in MODULES:
        add(name)
    for name, data in order.items():
        yield _Node(f"lib/modules/{name}", _FILE, data)
    yield _Node("lib/modules/order", _FILE, "\n".join(order).encode())


def _etc() -> Iterable[_Node]:
    yield _Node("init", _PROGRAM, _INIT.encode())
    yield _Node("etc/passwd", _FILE, b"root:x:0:0:root:/root:/bin/sh\n")
    yield _Node("etc/group", _FILE, b"root:x:0:\n")
    yield _Node("etc/os-release", _FILE, b'ID=debian\nNAME="Debian GNU/Linux"\n')
    yield _Node("dev/console", _CHARACTERS, device=(5, 1))
    for folder in ("proc", "sys", "tmp", "root", "run"):
        yield _Node(folder, _FOLDER)


def cpio(nodes: Iterable[_Node]) -> bytes:
    """Return an archive of the format newc; folders on the way to a node are added."""
    parts: list[bytes] = []
    have: set[str] = set()

    def add(node: _Node) -> None:
        have.add(node.path)
        name = node.path.encode() + b"\0"
        fields = (len(have), node.mode, 0, 0, 1, 0, len(node.data), 0, 0, *node.device, len(name))
        head = b"070701" + b"".join(b"%08X" % field for field in (*fields, 0)) + name
        parts.extend((_padded(head), _padded(node.data)))

    for node in nodes:
        for parent in reversed(Path(node.path).parents):
            if str(parent) not in have | {"."}:
                add(_Node(str(parent), _FOLDER))
        if node.path not in have:
            add(node)
    add(_Node("TRAILER!!!", 0))
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _run(*argv: str, cwd: Path | None = None) -> str:
    env = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **proxies()}
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=env, capture_output=True, text=True, check=False, stdin=-3
        )
    except FileNotFoundError:
        raise HostFault(f"the packages of the VM come from Debian: no {argv[0]} here") from None
    if done.returncode:
        raise HostFault(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}"[-2000:])
    return done.stdout
