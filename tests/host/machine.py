"""Throw-away Debian machines with a real systemd as PID 1.

systemd-nspawn boots them; this computer needs root, and no systemd that runs. What is not as on a
real host: no kernel modules, no /dev/kvm, no CAP_SYS_RESOURCE where this computer lacks it, the
clock cannot be set, /proc/sys is partly read-only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.host import cgroups, entering, images, network
from tests.host.claims import Claim
from tests.host.entering import Result
from tests.host.images import HostFault, Suite
from tests.host.waiting import until

BOOT_SECONDS = 60
STOP_SECONDS = 40

_LAUNCH = """
mkdir -p /run/systemd
mount -t tmpfs -o mode=755 tmpfs /run/systemd
echo ready
read -r connected
exec "$@" </dev/null >"$0" 2>&1
"""
"""What becomes nspawn, in a mount and a network namespace of its own, with the console as $0.

What nspawn keeps in /run/systemd goes with the namespace. Its network is made before it starts, so
that the first service finds it up.
"""

_DIE_TOGETHER = (
    *("setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--net", "--pid", "--mount-proc"),
    *("--fork", "--kill-child"),
)
"""The kernel kills unshare with this process, nspawn with unshare, and as nspawn is PID 1 of a
namespace everything in the machine with nspawn (which does not see to that itself)."""


class Machine:
    """One machine. `root` is its file system; `console` is what it said when it booted.

    The kernel kills it when the thread that booted it dies, whatever the reason. What else a killed
    process leaves behind is cleared up when the next machine is made.
    """

    def __init__(self, suite: Suite, claim: Claim) -> None:
        self.suite = suite
        self.name = claim.held.name
        self.root = claim.held.folder / "root"
        self.console = claim.held.folder / "console"
        self.address = str(network.theirs(claim.held.net))
        """Where the machine is reached from here, and what it calls itself; it never changes."""
        self._claim = claim
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    @classmethod
    def create(cls, suite: Suite, folder: Path) -> Machine:
        """Unpack a machine into a folder that is empty or not there; `remove` deletes the folder.

        The first one of a suite on a computer takes a minute. Raises HostFault.
        """
        if folder.exists() and any(folder.iterdir()):
            raise HostFault(f"{folder} is not empty")
        claim = Claim.make(folder)
        try:
            machine = cls(suite, claim)
            images.unpack(suite, machine.root)
        except BaseException:
            claim.release()
            raise
        return machine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.remove()

    @property
    def leader(self) -> int:
        """The machine's PID 1, as this computer numbers it. Raises HostFault when none runs."""
        if self._nspawn is None or self._nspawn.poll() is not None:
            raise HostFault(f"{self.name} is not running")
        return self._leader

    def boot(self, *, limits: bool = False) -> None:
        """Start the machine and wait until every unit is up. Only in the main thread.

        Proxmox VE is cgroup v2 only, and so is the machine; but where this computer has its
        controllers on cgroup v1, MemoryMax=, TasksMax= and CPUQuota= are then not enforced. With
        `limits` the machine has cgroup v1 and they are; do not rely there on what systemd does
        with BPF (IPAddressDeny=, IPAccounting=, DeviceAllow=) nor on the result "oom-kill", and do
        not let a unit's other processes outlive its main one (seen: 252 waits for its time-out).

        Raises HostFault, with what the console said.
        """
        if threading.current_thread() is not threading.main_thread():
            raise HostFault("a machine dies with the thread that boots it: use the main thread")
        if self._nspawn is not None and self._nspawn.poll() is None:
            raise HostFault(f"{self.name} is running already")
        if limits and (missing := cgroups.missing_limits()):
            raise HostFault(f"no cgroup v1 hierarchy on this computer has {', '.join(missing)}")
        self._nspawn = self._launch(limits=limits)
        try:
            self._leader = until(self._find_leader, "PID 1", seconds=BOOT_SECONDS)
            until(self._is_up, "the boot of all units", seconds=BOOT_SECONDS)
            if limits:
                self._enforce_limits()
        except BaseException as problem:
            self._nspawn.kill()
            self.stop()
            if isinstance(problem, HostFault):
                said = self.console.read_text(errors="replace")[-4000:]
                raise HostFault(f"{self.suite} did not boot: {problem}\n{said}") from None
            raise

    def _launch(self, *, limits: bool) -> subprocess.Popen[bytes]:
        held = self._claim.held
        cgroups.make(held.cgroups)
        process = subprocess.Popen(
            [
                *entering.in_cgroups(held.cgroups),
                *_DIE_TOGETHER,
                *("sh", "-ec", _LAUNCH, str(self.console), *self._nspawn_command()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests; they stop the machine in order
            env={
                "PATH": images.SYSTEM_PATH,
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0" if limits else "1",
            },
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:
            try:
                if process.stdout.readline() != b"ready\n":
                    raise HostFault(f"no namespaces for {self.name}: see above")
                network.connect(held.name, held.net, process.pid)
            except BaseException:
                process.kill()
                process.wait()
                raise
            process.stdin.write(b"connected\n")
        return process

    def _nspawn_command(self) -> Sequence[str]:
        return (
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"),
            *("--register=no", "--keep-unit"),  # there may be no systemd here to register with
            *(f"--machine={self.name}", "--console=pipe", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off"),
            "--network-namespace-path=/proc/self/ns/net",
            # CAP_NET_ADMIN for nftables; bpf(2), which nspawn's filter refuses by default, for
            # IPAddressDeny= and DevicePolicy=, which are else not enforced, without a word.
            *("--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf"),
        )

    def _find_leader(self) -> int | None:
        assert self._nspawn is not None
        if (code := self._nspawn.poll()) is not None:
            raise HostFault(f"systemd-nspawn ended with {code}")
        found = map(entering.init_of, entering.children(self._nspawn.pid))
        return next((pid for pid in found if pid), None)

    def _is_up(self) -> bool:
        state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
        if state == "degraded":
            raise HostFault(self.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout)
        return state == "running"

    def _enforce_limits(self) -> None:
        # nspawn mounts the controllers read-only. When they can be written (they show only the
        # machine's own part), systemd uses them once it is executed again.
        for each in cgroups.LIMITS:
            self.run(["mount", "-o", "remount,rw,bind", f"/sys/fs/cgroup/{each}"])
        self.run(["systemctl", "daemon-reexec"])

    def command(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        host_net: bool = False,
    ) -> list[str]:
        """Return the command of this computer that runs `argv` in the machine.

        For what starts processes itself, like the MCP client of stdio. It starts in / with a fresh
        environment and `env`; user root has all of this computer's capabilities, not a unit's.
        With `host_net` it has this computer's network, loopback too, and its name servers and
        certificate authorities: for apt-get. Killed here, it is killed there.
        """
        if host_net:
            for file in entering.HOST_FILES:
                if file.exists():
                    self.copy_in(file, f"{entering.OFFERED}{file}")
            env = {**images.proxies(), **(env or {})}
        return entering.command(
            self.leader, argv, ids=entering.ids(self.root, user), env=env or {}, host_net=host_net
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        stdin: bytes = b"",
        timeout: float = 30,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        host_net: bool = False,
    ) -> Result:
        """Run a command in the machine to its end. See `command` for its surroundings.

        Raises HostFault when it fails (not with check=False) or takes longer than `timeout` s.
        """
        command = self.command(argv, user=user, env=env, host_net=host_net)
        result = entering.complete(command, stdin=stdin, timeout=timeout)
        if check and result.code:
            raise HostFault(f"{self.suite}: {list(argv)} ended with {result}")
        return result

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        host_net: bool = False,
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the machine, with pipes as stdin and stdout; use it with `with`."""
        return subprocess.Popen(
            self.command(argv, user=user, env=env, host_net=host_net),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )

    def copy_in(
        self, src: Path | bytes, dst: str, *, mode: int | None = None, owner: str = "root"
    ) -> None:
        """Write a file, or copy a file or a tree, to the path `dst`, whose parents are made.

        `owner` is USER or USER:GROUP of the machine, `mode` that of files: 0644 by default, 0755
        for what is executable; folders have 0755. Python's caches are left out.
        """
        parent, _, name = dst.rstrip("/").rpartition("/")
        argv = ["sh", "-ec", entering.UNPACK, "sh", parent or "/"]
        owners = entering.ids(self.root, owner)
        with self.popen(argv) as unpacking:
            assert unpacking.stdin is not None
            with unpacking.stdin:
                entering.pack(src, name, unpacking.stdin, mode=mode, owner=owners)
        if unpacking.returncode:
            raise HostFault(f"cannot copy to {dst}")

    def stop(self) -> None:
        """Shut the machine down, if it runs. It can be booted again."""
        if self._nspawn is None:
            return
        for nspawn in entering.children(self._nspawn.pid):
            os.kill(nspawn, signal.SIGTERM)  # it asks the machine's PID 1 to power off
        try:
            self._nspawn.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn = None
        cgroups.remove(self._claim.held.cgroups)
        network.disconnect(self.name)

    def remove(self) -> None:
        """Stop the machine and delete it."""
        self.stop()
        self._claim.release()
