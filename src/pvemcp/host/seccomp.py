"""A filter of system calls for bubblewrap: what namespaces and missing capabilities leave open.

A read-only mount does not keep a process from connecting to a socket in it, so there are no Unix
sockets (socketpair works). io_uring would open them unseen. The keyring of the service is
inherited. The rest is what breaks out of kernels with a bug.
"""

from __future__ import annotations

import errno
import struct

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # <linux/bpf_common.h>
_NUMBER, _ARCHITECTURE, _FIRST = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_FAMILIES = (2, 10, 16)
"""AF_INET, AF_INET6, AF_NETLINK: they end at the sandbox's own, empty network."""
_X32 = 0x40000000

_X86_64 = {
    "socket": 41,
    "ptrace": 101,
    "mount": 165,
    "umount2": 166,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "pidfd_getfd": 438,
}
_AARCH64 = {
    "umount2": 39,
    "mount": 40,
    "unshare": 97,
    "ptrace": 117,
    "socket": 198,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "perf_event_open": 241,
    "open_by_handle_at": 265,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "bpf": 280,
    "userfaultfd": 282,
    "io_uring_setup": 425,
    "pidfd_getfd": 438,
}
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}


def program(machine: str) -> bytes:
    """Return the filter for `machine` as `uname -m` names it. Raises LookupError for others."""
    if machine not in _MACHINES:
        raise LookupError(f"there is no filter of system calls for {machine}")
    architecture, calls = _MACHINES[machine]
    refused = [number for name, number in calls.items() if name != "socket"]
    # Each test: code, operand, and the name of where to go if it holds and if not ("" is: on).
    rows: list[tuple[int, int, str, str]] = [
        (_LOAD, _ARCHITECTURE, "", ""),
        (_EQUAL, architecture, "", "refuse"),
        (_LOAD, _NUMBER, "", ""),
        (_AT_LEAST, _X32, "refuse", ""),
        *((_EQUAL, number, "refuse", "") for number in refused),
        (_EQUAL, calls["socket"], "", "allow"),
        (_LOAD, _FIRST, "", ""),
        *((_EQUAL, family, "allow", "") for family in _FAMILIES),
        (_RETURN, _REFUSE, "", ""),
        (_RETURN, _ALLOW, "", ""),
    ]
    place = {"refuse": len(rows) - 2, "allow": len(rows) - 1}
    return b"".join(
        struct.pack("<HBBI", code, *(place[to] - at - 1 if to else 0 for to in (yes, no)), operand)
        for at, (code, operand, yes, no) in enumerate(rows)
    )
