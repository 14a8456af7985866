"""What a client might try in the sandbox of bubblewrap.

`{place}` holds canary/one, canary/sub/two, home, state (with secret and loose) and socket;
`{mark}` is how long a process sleeps that is looked for afterwards; `{victim}` is a process,
`{port}` a port of 127.0.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One attempt. A bomb may take down its own shell; `never` must not be in the output."""

    name: str
    command: str
    never: tuple[str, ...] = ()
    bomb: bool = False


def _python(text: str) -> str:
    return f"python3 - <<'END'\n{text}\nEND"


_CALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
_MACHINE = "import platform; arm = platform.machine() == 'aarch64'; "

_WRITES = [
    Attack("rm", "rm -rf {place}/canary {place}/canary/*"),
    Attack("redirect", "echo x > {place}/canary/one; echo x >> {place}/canary/sub/two"),
    Attack("new file", "echo x > {place}/canary/new; mkdir {place}/canary/folder"),
    Attack("mv", "mv {place}/canary/one {place}/canary/three; mv {place}/canary /tmp/canary"),
    Attack("chmod", "chmod 000 {place}/canary/one; chown 0 {place}/canary/one"),
    Attack("hard link", "ln {place}/canary/one /tmp/one && echo x > /tmp/one"),
    Attack("symbolic link", "ln -s {place}/canary/one /tmp/one; echo x > /tmp/one"),
    Attack("/proc/self/root", "echo x > /proc/self/root{place}/canary/one"),
    Attack("/proc/1/root", "echo x > /proc/1/root{place}/canary/one; rm /proc/1/root{place}/*/*"),
    Attack("/proc/1/cwd", "cd /proc/1/cwd && echo x > .{place}/canary/one"),
    Attack("truncate", "truncate -s 0 {place}/canary/one; dd if=/dev/null of={place}/canary/one"),
    Attack(
        "setuid shell",
        "cp /bin/sh {place}/canary/sh; cp /bin/sh /tmp/sh; chmod 4755 /tmp/sh; /tmp/sh -p -c id",
        ("euid=0", "uid=0"),
    ),
]
_KERNEL = [
    Attack("mount", "mount -t tmpfs none {place}/canary && echo mounted", ("mounted",)),
    Attack("remount", "mount -o remount,rw / && echo x > {place}/canary/one"),
    Attack("umount", "umount -l {place}/home /home /root /tmp; cat {place}/home/secret"),
    Attack("unshare user", "unshare -Ur sh -c 'echo inside'", ("inside",)),
    Attack("unshare mount", "unshare -Urm sh -c 'mount -o remount,rw /; echo inside'", ("inside",)),
    Attack(
        "clone a user namespace",
        _python(
            f"{_CALL}{_MACHINE}import os\n"
            "if libc.syscall(220 if arm else 56, 0x10000000 | 17, 0, 0, 0, 0) >= 0: print('inside')"
        ),
        ("inside",),
    ),
    Attack(
        "clone3 a user namespace",
        _python(
            f"{_CALL}import struct\nargs = struct.pack('11Q', 1 << 28, 0, 0, 0, 17, *[0] * 6)\n"
            "if libc.syscall(435, args, len(args)) >= 0: print('inside')"
        ),
        ("inside",),
    ),
    Attack(
        "chroot",
        "chroot / sh -c 'echo inside'; pivot_root /tmp /tmp && echo inside\n"
        + _python("import os\nos.chroot('/tmp')\nprint('inside')"),
        ("inside",),
    ),
    Attack(
        "new mounts",
        _python(f"{_CALL}\nif libc.syscall(430, b'tmpfs', 0) >= 0: print('opened')"),
        ("opened",),
    ),
    Attack("nsenter", "nsenter -t 1 -a id && echo inside; nsenter -t {victim} -m id", ("inside",)),
    Attack("/proc/sys", "echo 0 > /proc/sys/kernel/pid_max && echo written", ("written",)),
    Attack(
        "sysctl of the namespaces",
        "echo 99 > /proc/sys/user/max_user_namespaces && echo written",
        ("written",),
    ),
    Attack(
        "core pattern",
        "echo '|/tmp/x' > /proc/sys/kernel/core_pattern && echo written; "
        "echo /tmp/x > /proc/sys/kernel/modprobe && echo written",
        ("written",),
    ),
    Attack("less likely to be ended", "echo -999 > /proc/self/oom_score_adj && echo set", ("set",)),
    Attack("sysrq", "echo h > /proc/sysrq-trigger && echo written", ("written",)),
    Attack("cgroup", "find /sys/fs/cgroup -name cgroup.procs -exec tee {} \\; <<< $$"),
    Attack(
        "device", "mknod /tmp/disk b 8 0 && echo made; ls /dev/sd* /dev/vd* /dev/mem", ("made",)
    ),
    Attack(
        "keyring",
        _python(
            f"{_CALL}{_MACHINE}\n"
            "if libc.syscall(219 if arm else 250, 0, -3, 1) >= 0: print('keyring')"
        ),
        ("keyring",),
    ),
    Attack(
        "io_uring",
        _python(
            f"{_CALL}\nif libc.syscall(425, 4, ctypes.create_string_buffer(120)) >= 0: "
            "print('ring')"
        ),
        ("ring",),
    ),
    Attack("hostname", "hostname pwned && echo renamed", ("renamed",)),
]
_OTHERS = [
    Attack(
        "kill everybody", "kill -9 {victim}; (trap '' TERM; kill -TERM -1); pkill sleep", (), True
    ),
    Attack("stop", "kill -STOP {victim}; pkill -STOP sleep; renice -n 19 -p {victim}"),
    Attack(
        "ptrace",
        _python(
            f"{_CALL}import os\nfor pid in ({{victim}}, os.getppid(), 1):\n"
            "    if libc.ptrace(16, pid, 0, 0) == 0: print('attached')"
        ),
        ("attached",),
    ),
    Attack("environ of the victim", "tr '\\0' '\\n' < /proc/{victim}/environ"),
    Attack("environ of all", "cat /proc/[0-9]*/environ /proc/*/task/*/environ | tr '\\0' '\\n'"),
    Attack(
        "descriptors of all", "for f in /proc/[0-9]*/fd/*; do timeout 0.05 head -c 999 $f; done"
    ),
    Attack("secret of the home", "cat {place}/home/* /proc/1/root{place}/home/*"),
    Attack(
        "secret of the state",
        "cat {place}/state/secret {place}/state/loose; find {place}/state -type f -exec cat {} +",
    ),
    Attack(
        "secrets by links",
        "ln -s {place}/state /tmp/state; ln -s {place}/home/loose /tmp/loose; "
        "cat /tmp/state/* /tmp/loose /proc/self/root{place}/state/*",
    ),
    Attack(
        "password of root",
        "echo x | timeout 1 su root -c id; timeout 1 passwd -d root; timeout 1 chsh -s /tmp/x",
        ("uid=0",),
    ),
    Attack("all secrets", "grep -rs canary-of-the {place} /home /root /run /tmp /dev/shm"),
    Attack(
        "loopback", "exec 3<> /dev/tcp/127.0.0.1/{port} && echo connected", ("connected",), True
    ),
    Attack(
        "network",
        "grep -v lo: /proc/net/dev | grep : && echo device; ip link add d type dummy",
        ("device",),
    ),
    Attack(
        "unix socket",
        _python("import socket\nsocket.socket(socket.AF_UNIX).connect('{place}/socket')"),
    ),
    Attack(
        "abstract socket",
        _python("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0pvemcp-{mark}')"),
    ),
    Attack(
        "vsock",
        _python("import socket\nsocket.socket(40, socket.SOCK_STREAM)\nprint('opened')"),
        ("opened",),
    ),
]
_LEFT = [
    Attack("background", "sleep {mark} & disown -a"),
    Attack("setsid", "setsid sleep {mark} > /dev/null 2>&1 < /dev/null &"),
    Attack("nohup", "nohup setsid nohup sleep {mark} > /dev/null 2>&1 &"),
    Attack(
        "double fork",
        _python(
            "import os\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n"
            "  os.closerange(0, 99); os.execvp('sleep', ['sleep', '{mark}'])"
        ),
    ),
    Attack(
        "first process",
        "setsid sleep {mark} & kill -9 1; kill -STOP 1; kill -9 $PPID",
        (),
        True,
    ),
]
_BOMBS = [
    Attack("fork bomb", ":(){ :|:& };:; sleep {mark}", (), True),
    Attack(
        "more processes",
        _python(
            "import os\ntry:\n  for count in range(160):\n"
            "    os.fork() or os.execlp('sleep', 'sleep', '{mark}')\n"
            "except OSError: print('bounded', count)\nelse: print('many')"
        ),
        ("many",),
        True,
    ),
    Attack(
        "memory",
        _python("import mmap\nmmap.mmap(-1, 5 << 30)\nprint('taken')"),
        ("taken",),
        True,
    ),
    Attack(
        "fill folders",
        "d='/tmp /var/tmp /dev/shm /run /dev /home'; for d in $d; do for i in 1 2 3 4 5; do "
        "head -c 60M /dev/zero > $d/x$i; done; done 2> /dev/null; "
        "cat {/tmp,/var/tmp,/dev/shm,/run,/dev,/home}/x? 2> /dev/null | wc -c "
        "| grep -E '^([2-9].{8}|.{10,})$' && echo filled",
        ("filled",),
        False,
    ),
    Attack("large file", "head -c 90M /dev/zero > /tmp/f && echo large", ("large",)),
    Attack(
        "descriptors",
        _python("import os\nfor _ in range(2000): os.open('/dev/null', 0)\nprint('opened')"),
        ("opened",),
    ),
]
ATTACKS = (*_WRITES, *_KERNEL, *_OTHERS, *_LEFT, *_BOMBS)
