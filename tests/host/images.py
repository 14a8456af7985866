"""The file systems of the machines: built by mmdebstrap once, kept as tarballs, unpacked for each.

bookworm is what Proxmox VE 8 stands on, trixie Proxmox VE 9.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

Suite = Literal["bookworm", "trixie"]
SUITES: tuple[Suite, ...] = get_args(Suite)

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = """
    adduser ca-certificates curl dbus iproute2 iputils-ping less libnss-systemd libpam-systemd
    nftables openssh-server openssl procps python3 sudo systemd systemd-sysv util-linux
""".split()
_OPTIONS = (
    *("--quiet", "--mode=root", "--variant=minbase", "--format=tar"),
    f"--include={','.join(PACKAGES)}",
    '--aptopt=Acquire::Languages "none"',
    '--aptopt=APT::Install-Recommends "false"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
)
_MASKED = """
    apt-daily-upgrade.timer apt-daily.timer console-getty.service e2scrub_all.timer
    e2scrub_reap.service fstrim.timer systemd-firstboot.service
""".split()
WITH_US = ("setpriv", "--pdeathsig=TERM")
"""Before a command that takes long: it ends when this process is killed."""
_URI = re.compile(r"https?://\S+")
_MIRROR_VARIABLE = "PVEMCP_HOST_MIRROR"


class HostFault(Exception):
    """A test machine cannot be made, started or used; the message says why."""


def cache() -> Path:
    """Return the folder of what is slow to make; PVEMCP_HOST_CACHE names another."""
    folder = Path(os.environ.get("PVEMCP_HOST_CACHE") or "/var/cache/pvemcp-hosts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def made_once(target: Path) -> Iterator[Path | None]:
    """Yield where to make `target`, or None when it is there already.

    One process makes it while the others wait; it appears whole or not at all.
    """
    with Path(f"{target}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            yield None
            return
        new = Path(f"{target}.new")
        new.unlink(missing_ok=True)
        yield new
        new.rename(target)


def unpack(suite: Suite, root: Path) -> None:
    """Fill the folder `root` with a Debian that boots the same way every time."""
    key = hashlib.sha256(repr(_OPTIONS).encode()).hexdigest()[:8]
    tarball = cache() / f"{suite}-{key}.tar"
    with made_once(tarball) as new:
        if new is not None:
            _build(suite, new)
    root.mkdir(parents=True)
    tar = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*")
    subprocess.run([*tar, "-C", root, "-xf", tarball], env={"PATH": SYSTEM_PATH}, check=True)
    _settle(root, name=f"{suite}-host")


def _build(suite: Suite, tarball: Path) -> None:
    sources = [f"deb {mirror('debian')} {pocket} main" for pocket in (suite, f"{suite}-updates")]
    if security := mirror("debian-security", required=False):
        sources.append(f"deb {security} {suite}-security main")
    done = subprocess.run(
        [*WITH_US, "mmdebstrap", *_OPTIONS, suite, str(tarball), "-"],
        input="\n".join(sources) + "\n",
        capture_output=True,
        text=True,
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **proxies()},
        check=False,
    )
    if done.returncode:
        tarball.unlink(missing_ok=True)
        raise HostFault(f"mmdebstrap {suite} failed:\n{done.stdout}{done.stderr}"[-4000:])


def mirror(archive: str, *, required: bool = True) -> str:
    """Return the first mirror of an archive (`debian`) in this computer's own apt sources.

    PVEMCP_HOST_MIRROR overrides that of `debian`, for a computer that is not a Debian.
    """
    if archive == "debian" and (given := os.environ.get(_MIRROR_VARIABLE)):
        return given
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]
    for file in files:
        if file.suffix in {".list", ".sources"} and file.is_file():
            for line in file.read_text().splitlines():
                for uri in _URI.findall(line.partition("#")[0]):
                    if uri.rstrip("/").endswith(f"/{archive}"):
                        return str(uri).rstrip("/")
    if required:
        raise HostFault(f"no Debian mirror in the apt sources; set {_MIRROR_VARIABLE}")
    return ""


def proxies() -> dict[str, str]:
    """Return the proxy settings of this computer's environment."""
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


def _settle(root: Path, *, name: str) -> None:
    etc = root / "etc"
    # Empty, a new one is made at boot. Missing or "uninitialized" would run systemd-firstboot,
    # which fails on trixie.
    (etc / "machine-id").write_text("")
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    (etc / "hostname").write_text(f"{name}\n")
    (etc / "hosts").write_text(
        f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n"
    )
    # No name server can be reached in there. With one configured every look-up hangs for its
    # time-out (seen: sudo), so there is none.
    (etc / "resolv.conf").unlink(missing_ok=True)
    (etc / "resolv.conf").write_text("")
    for unit in _MASKED:
        path = etc / "systemd/system" / unit
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
