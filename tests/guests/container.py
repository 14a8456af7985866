"""A real container: unprivileged, as Proxmox VE makes them, with Debian and systemd in it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.host.images import HostFault, unpack
from tests.host.waiting import until

NAME = "pvemcp-real"
BOOT_SECONDS = 60
_CONFIG = """
lxc.uts.name = real
lxc.rootfs.path = dir:{root}
lxc.rootfs.options = idmap=container
lxc.idmap = u 0 100000 65536
lxc.idmap = g 0 100000 65536
lxc.apparmor.profile = unconfined
lxc.net.0.type = empty
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.autodev = 1
lxc.tty.max = 0
lxc.pty.max = 64
"""
_ENV = {"PATH": "/usr/sbin:/sbin"}
"""Without newuidmap, which LXC would use when it is there: it wants ranges in /etc/subuid."""
_WITH_US = ("/usr/bin/setpriv", "--pdeathsig=KILL")


@contextmanager
def real_container() -> Iterator[tuple[str, ...]]:
    """Boot a container, and yield what comes before a command that runs in it.

    The kernel ends it with the thread that booted it. Raises HostFault.
    """
    with tempfile.TemporaryDirectory(prefix="pvemcp-lxc-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the container's root, which is nobody here, passes through it
        unpack("trixie", folder / "root")
        (folder / "root/etc/hostname").write_text("real\n")
        config, console = folder / "config", folder / "console"
        config.write_text(_CONFIG.format(root=folder / "root"))
        here = ("-P", str(folder), "-n", NAME)
        start = ("/usr/bin/lxc-start", "--foreground", *here, "-f", str(config))
        with console.open("w") as said:
            process = subprocess.Popen(
                [*_WITH_US, *start],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=_ENV,
                start_new_session=True,
            )
        enter = ("/usr/bin/lxc-attach", *here, "--clear-env", "--")
        try:
            until(lambda: _is_up(process, enter, console), "the container", seconds=BOOT_SECONDS)
            yield enter
        finally:
            subprocess.run(["/usr/bin/lxc-stop", *here, "--kill"], env=_ENV, check=False)
            process.kill()
            process.wait()


def _is_up(process: subprocess.Popen[bytes], enter: tuple[str, ...], console: Path) -> bool:
    if process.poll() is not None:
        raise HostFault(f"lxc-start ended:\n{console.read_text(errors='replace')[-4000:]}")
    asked = [*enter, "systemctl", "is-system-running"]
    done = subprocess.run(asked, env=_ENV, capture_output=True, text=True, check=False)
    # Without the host's /sys/kernel/debug and modules it is "degraded", on Proxmox VE too.
    return done.stdout.strip() in {"running", "degraded"}
