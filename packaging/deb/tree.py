"""The files of the package, and what dpkg is told about them."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MAINTAINER = "The pvemcp authors <pvemcp@pvemcp.invalid>"
LIBRARY = "usr/lib/pvemcp"
UNITS = "usr/lib/systemd/system"
MONITORING = "usr/share/pvemcp/monitoring"
ROOT_SIDE = (
    "host/helper.py",
    "host/inside.py",
    "host/jobs.py",
    "host/guest.py",
    "host/upgrade.py",
    "host/approved.py",
    "host/commit.py",
)
"""What root runs besides what a unit names: files of their own, which import nothing of ours."""
_NAMED = re.compile(r"/usr/lib/pvemcp/(\w+\.py)")
_LAUNCHED = {"usr/bin/pvemcp": "launcher", f"{LIBRARY}/main": "main"}


@dataclass(frozen=True, slots=True)
class Units:
    """The units that the package brings, by what is done with them."""

    enabled: tuple[str, ...]
    """With an [Install] section."""
    waiting: tuple[str, ...]
    """Of these, what may wait for something before there are settings."""
    running: tuple[str, ...]
    """Services that stay: an upgrade starts them anew."""

    @property
    def others(self) -> tuple[str, ...]:
        """Of the enabled ones, those that start once there are settings; the service last."""
        rest = [name for name in self.enabled if name not in self.waiting]
        return tuple(sorted(rest, key=lambda name: name == "pvemcp.service"))

    @classmethod
    def found(cls, folder: Path) -> Units:
        """Read the unit files of a folder."""
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        enabled = [path.name for path in files if "\n[Install]\n" in path.read_text()]
        waiting = [name for name in enabled if name.endswith((".socket", ".timer"))]
        services = [path for path in files if path.suffix == ".service"]
        running = [path.name for path in services if "Type=oneshot" not in path.read_text()]
        return cls(tuple(enabled), tuple(waiting), tuple(running))


def lay_out(source: Path, libraries: Path, root: Path, version: str, epoch: int) -> Units:
    """Put all files in place below `root`, but for DEBIAN."""
    shutil.copytree(libraries, root / LIBRARY / "python")
    ours = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source / "src/pvemcp", root / LIBRARY / "python/pvemcp", ignore=ours)
    for place, name in _LAUNCHED.items():
        _copy(HERE / name, root / place)
    packaging = source / "packaging"
    places = {"systemd": UNITS, "sysusers.d": "usr/lib/sysusers.d", "monitoring": MONITORING}
    for folder, place in places.items():
        shutil.copytree(packaging / folder, root / place)
    _copy(packaging / "tmpfiles.d/pvemcp.conf", root / "usr/lib/tmpfiles.d/pvemcp.conf")
    for path in _root_side(source):
        _copy(path, root / LIBRARY / path.name)
    _copy(source / "src/pvemcp/host/exec.toml", root / "etc/pvemcp/exec.toml")
    _copy(HERE / "rtupdate", root / "usr/share/python3/runtime.d/pvemcp.rtupdate")
    _copy(HERE / "lintian-overrides", root / "usr/share/lintian/overrides/pvemcp")
    _copy(HERE / "copyright", root / "usr/share/doc/pvemcp/copyright")
    _generate(source, root / "usr/share", version, epoch)
    return Units.found(packaging / "systemd")


def _root_side(source: Path) -> set[Path]:
    code = source / "src/pvemcp"
    units = [
        path.read_text() for path in (source / "packaging/systemd").iterdir() if path.is_file()
    ]
    named = {name for unit in units for name in _NAMED.findall(unit)}
    listed = {code / name for name in ROOT_SIDE}
    return listed | {_one(code, name) for name in named - {path.name for path in listed}}


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        raise SystemExit(f"a unit runs /usr/lib/pvemcp/{name}: {folder} has {len(found)} of them")
    return found[0]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _generate(source: Path, share: Path, version: str, epoch: int) -> None:
    subprocess.run(
        [sys.executable, str(HERE / "manual.py"), str(share), str(epoch)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(source / "src"), "HOME": "/nonexistent"},
        check=True,
    )
    page = share / "man/man1/pvemcp.1"
    _compress(page)
    _copy(source / "CHANGELOG.md", share / "doc/pvemcp/CHANGELOG.md")
    _compress(share / "doc/pvemcp/CHANGELOG.md")
    (share / "doc/pvemcp/changelog").write_text(_history(version, epoch))
    _compress(share / "doc/pvemcp/changelog")


def _history(version: str, epoch: int) -> str:
    """Return the changelog that Debian asks for; what changed stands in CHANGELOG.md."""
    day = email.utils.formatdate(epoch, localtime=False, usegmt=False)
    return (
        f"pvemcp ({version}) stable; urgency=medium\n\n"
        f"  * What changed: CHANGELOG.md.gz in this folder.\n\n"
        f" -- {MAINTAINER}  {day.replace('-0000', '+0000')}\n"
    )


def _compress(path: Path) -> None:
    packed = gzip.compress(path.read_bytes(), 9, mtime=0)
    path.with_name(f"{path.name}.gz").write_bytes(packed)
    path.unlink()


def describe(root: Path, fields: dict[str, str], units: Units) -> None:
    """Write DEBIAN: control, conffiles, checksums and maintainer scripts."""
    debian = root / "DEBIAN"
    debian.mkdir()
    files = sorted(
        path for path in root.rglob("*") if path.is_file() and debian not in path.parents
    )
    kib = sum(-(-path.stat().st_size // 1024) for path in files) + len(files)
    control = (HERE / "control/control").read_text()
    for name, value in {**fields, "size": str(kib), "maintainer": MAINTAINER}.items():
        control = control.replace(f"@{name}@", value)
    (debian / "control").write_text(control)
    names = [path.relative_to(root) for path in files]
    conffiles = [name for name in names if name.parts[0] == "etc"]
    (debian / "conffiles").write_text("".join(f"/{name}\n" for name in conffiles))
    sums = [(hashlib.md5(path.read_bytes()), name) for path, name in zip(files, names, strict=True)]  # noqa: S324
    kept = [f"{digest.hexdigest()}  {name}\n" for digest, name in sums if name not in conffiles]
    (debian / "md5sums").write_text("".join(kept))
    words = {"@enabled@": units.enabled, "@waiting@": units.waiting, "@others@": units.others}
    words["@running@"] = units.running
    for script in ("preinst", "postinst", "prerm", "postrm"):
        text = (HERE / "control" / script).read_text()
        for word, chosen in words.items():
            text = text.replace(word, " ".join(chosen))
        (debian / script).write_text(text)
    _copy(HERE / "control/triggers", debian / "triggers")


def settle(root: Path, epoch: int) -> None:
    """Give every file the mode that its place asks for, and no time after `epoch`."""
    run = {root / "usr/bin/pvemcp", root / "usr/share/python3/runtime.d/pvemcp.rtupdate"}
    run |= {root / "DEBIAN" / name for name in ("preinst", "postinst", "prerm", "postrm")}
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path in run else 0o644)
        os.utime(path, (epoch, epoch))
