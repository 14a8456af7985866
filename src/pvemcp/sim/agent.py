"""The QEMU guest agent: commands and facts from inside a VM."""

from __future__ import annotations

import base64
import errno
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.agent_bridge import bridge
from pvemcp.sim.declare import (
    Ask,
    Endpoint,
    Handler,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
    whole,
)
from pvemcp.sim.guests import agent_enabled, the_guest
from pvemcp.sim.refusal import Refusal, failed
from pvemcp.sim.world import Guest, System

_AGENT = "/nodes/{node}/qemu/{vmid}/agent"
_LOOK = perm("/vms/{vmid}", "VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted", any_of=True)
_RUN = perm("/vms/{vmid}", "VM.GuestAgent.Unrestricted")
_INDEX = (
    "exec", "exec-status", "file-read", "file-write", "fsfreeze-freeze", "fsfreeze-status",
    "fsfreeze-thaw", "fstrim", "get-fsinfo", "get-host-name", "get-memory-block-info",
    "get-memory-blocks", "get-osinfo", "get-time", "get-timezone", "get-users", "get-vcpus",
    "info", "network-get-interfaces", "ping", "set-user-password", "shutdown", "suspend-disk",
    "suspend-hybrid", "suspend-ram",
)  # fmt: skip
_READ_LIMIT = 16 << 20
_READ_FILES = perm(
    "/vms/{vmid}", "VM.GuestAgent.FileRead", "VM.GuestAgent.Unrestricted", any_of=True
)
_WRITE_FILES = perm(
    "/vms/{vmid}", "VM.GuestAgent.FileWrite", "VM.GuestAgent.Unrestricted", any_of=True
)
_KERNEL = "6.12.48+deb13-amd64"
_VERSION = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.48-1 (2025-09-20)"


def _with_agent(ask: Ask) -> Guest:
    guest = the_guest(ask, "qemu")
    if not guest.running:
        raise failed(f"VM {guest.vmid} is not running")
    if not agent_enabled(guest):
        raise failed("No QEMU guest agent configured")
    if not guest.agent_running:
        raise failed("QEMU guest agent is not running")
    return guest


def _real_or(name: str, simulated: Handler) -> Handler:
    """Return the handler of an endpoint that a real agent answers when the guest has one."""

    def handle(ask: Ask) -> Any:
        guest = _with_agent(ask)
        return bridge(ask, guest, name) if guest.agent_socket else simulated(ask)

    return handle


def _result(name: str, make: Callable[[Guest], Any]) -> Handler:
    return _real_or(name, lambda ask: {"result": make(_with_agent(ask))})


def _os_info(guest: Guest) -> dict[str, str]:
    if str(guest.config.get("ostype", "")).startswith("win"):
        return {"id": "mswindows", "name": "Microsoft Windows", "version-id": "2022"}
    return {
        "id": "debian",
        "kernel-release": _KERNEL,
        "kernel-version": _VERSION,
        "machine": "x86_64",
        "name": "Debian GNU/Linux",
        "pretty-name": "Debian GNU/Linux 13 (trixie)",
        "version": "13 (trixie)",
        "version-id": "13",
    }


def _interfaces(guest: Guest) -> list[dict[str, Any]]:
    mac = str(guest.config.get("net0", "")).partition("=")[2].partition(",")[0].lower()
    return [
        _interface("lo", "00:00:00:00:00:00", ("127.0.0.1/8", "::1/128")),
        _interface("eth0", mac, guest.addresses),
    ]


def _interface(name: str, mac: str, addresses: tuple[str, ...]) -> dict[str, Any]:
    directions = [f"{way}-{what}" for way in ("rx", "tx")
                  for what in ("bytes", "dropped", "errs", "packets")]  # fmt: skip
    return {
        "name": name,
        "hardware-address": mac,
        "ip-addresses": [_address(address) for address in addresses],
        "statistics": dict.fromkeys(directions, 0),
    }


def _address(cidr: str) -> dict[str, Any]:
    address, _, prefix = cidr.partition("/")
    kind = "ipv6" if ":" in address else "ipv4"
    return {"ip-address": address, "ip-address-type": kind, "prefix": int(prefix)}


def _info(_guest: Guest) -> dict[str, Any]:
    names = ("guest-ping", "guest-exec", "guest-exec-status", "guest-get-osinfo",
             "guest-network-get-interfaces", "guest-file-open", "guest-shutdown")  # fmt: skip
    commands = [{"enabled": True, "name": name, "success-response": True} for name in names]
    return {"supported_commands": commands, "version": "9.2.0"}


# Commands: a few programs, enough to see output, exit codes and time pass --------------------

Output = tuple[int, str, str]


def _exec(ask: Ask) -> dict[str, int]:
    guest = _with_agent(ask)
    argv = ask.args["command"] or [""]
    if guest.system is not None:
        try:
            return {"pid": guest.system.start(_sent(argv), _input(ask))}
        except OSError:
            raise Refusal(596, "Broken pipe", body="none") from None  # as below
    outcome = _run(guest, argv, ask.args.get("input-data", ""))
    if outcome is None:
        # Seen on PVE 9.1: the agent's complaint holds a non-ASCII quote, which kills pvedaemon.
        raise Refusal(596, "Broken pipe", body="none")
    pid = 800 + len(guest.runs)
    wait = argv[1] if argv[0].endswith("sleep") and len(argv) > 1 else ""
    seconds = float(wait) if wait.isascii() and wait.isdecimal() else 0.0
    code, out, err = outcome
    guest.runs[pid] = {
        "ends": ask.world.clock.now() + seconds, "exitcode": code, "out": out, "err": err,
    }  # fmt: skip
    return {"pid": pid}


def _run(guest: Guest, argv: list[str], stdin: str) -> Output | None:
    program, *rest = argv
    name = program.rpartition("/")[2]
    if name in {"sh", "bash"} and rest[:1] == ["-c"] and len(rest) > 1:
        return _shell(guest, rest[1], stdin)
    simple: Mapping[str, Callable[[], Output]] = {
        "true": lambda: (0, "", ""),
        "false": lambda: (1, "", ""),
        "sleep": lambda: (0, "", ""),
        "hostname": lambda: (0, f"{guest.name}\n", ""),
        "id": lambda: (0, "uid=0(root) gid=0(root) groups=0(root)\n", ""),
        "echo": lambda: (0, " ".join(rest) + "\n", ""),
        "printf": lambda: (0, " ".join(rest), ""),
        "cat": lambda: _cat(guest, rest, stdin),
        "uname": lambda: (0, f"Linux {guest.name} {_KERNEL} {_VERSION} x86_64 GNU/Linux\n", ""),
    }
    return simple[name]() if name in simple else None


def _cat(guest: Guest, names: list[str], stdin: str) -> Output:
    if not names:
        return 0, stdin, ""
    if names == ["/etc/hostname"]:
        return 0, f"{guest.name}\n", ""
    return 1, "", f"cat: {names[0]}: No such file or directory\n"


def _shell(guest: Guest, script: str, stdin: str) -> Output:
    """Run commands parted by `;`, and `exit N`: no more of a shell than tests need."""
    out = err = ""
    code = 0
    for command in filter(None, (part.strip() for part in script.split(";"))):
        try:
            argv = shlex.split(command)
        except ValueError:
            return 2, out, err + "sh: 1: Syntax error: Unterminated quoted string\n"
        if argv[0] == "exit":
            return int(argv[1]) if len(argv) > 1 and argv[1].isdecimal() else code, out, err
        to_stderr = argv[-1] in {">&2", "1>&2"}
        outcome = _run(guest, argv[:-1] if to_stderr else argv, stdin)
        code, text_, complaint = outcome or (127, "", f"sh: 1: {argv[0]}: not found\n")
        out, err = (out, err + text_) if to_stderr else (out + text_, err)
        err += complaint
    return code, out, err


def _sent(words: list[str]) -> list[str]:
    """Refuse what wedges a real agent: two bytes more than there are characters (PVE 9.2)."""
    if sum(len(word.encode()) - len(word) for word in words) > 1:
        raise failed("VM qga command 'guest-exec' failed - got timeout")
    return words


def _input(ask: Ask) -> bytes:
    try:
        return str(ask.args.get("input-data", "")).encode("latin-1")
    except UnicodeEncodeError:
        raise failed("Wide character in subroutine entry") from None


def _real_status(system: System, pid: int) -> dict[str, Any]:
    found = system.status(pid)
    if found is None:
        raise failed("Agent error: PID ld does not exist")
    if not found:
        return {"exited": 0}
    code, signal, out, err = found
    ended = {"exitcode": code} if signal == 0 else {"signal": signal}
    streams = {"out": out, "err": err}
    shown = {f"{key}-data": data.decode("latin-1") for key, data in streams.items() if data}
    cut = {f"{key}-truncated": 0 for key, data in streams.items() if data}
    return {"exited": 1, **ended, **shown, **cut}


def _file_read(ask: Ask) -> dict[str, Any]:
    guest, [path] = _with_agent(ask), _sent([ask.args["file"]])
    offset, count = ask.args.get("offset", 0), ask.args.get("count", _READ_LIMIT)
    try:
        data = _contents(guest, path)[offset:]
    except OSError as error:
        about = f"failed to open file '{path}' (mode: 'r'): {error.strerror}"
        raise failed(f"Agent error: {about}") from None
    kept = data[:count]
    plain = ask.args.get("decode", True)
    content = kept.decode("latin-1") if plain else base64.b64encode(kept).decode()
    cut = {"truncated": 1} if len(kept) < len(data) else {}
    return {"content": content, "bytes-read": len(kept), **cut}


def _contents(guest: Guest, path: str) -> bytes:
    if guest.system is not None:
        return guest.system.read(path)
    if path == "/etc/hostname":  # the one file that every simulated guest has
        return f"{guest.name}\n".encode()
    raise FileNotFoundError(errno.ENOENT, "No such file or directory")


def _file_write(ask: Ask) -> None:
    system, [path] = _system(ask), _sent([ask.args["file"]])
    content = str(ask.args["content"]).encode("latin-1")
    if not ask.args.get("encode", True):
        content = base64.b64decode(content)
    try:
        system.write(path, content)
    except OSError as error:
        about = f"failed to open file '{path}' (mode: 'w+'): {error.strerror}"
        raise failed(f"Agent error: {about}") from None


def _system(ask: Ask) -> System:
    system = _with_agent(ask).system
    if system is None:
        raise Refusal(501, "this simulated guest has no files")
    return system


def _exec_status(ask: Ask) -> dict[str, Any]:
    guest, pid = _with_agent(ask), ask.args["pid"]
    if guest.system is not None:
        return _real_status(guest.system, pid)
    run = guest.runs.get(pid)
    if run is None:
        raise failed("Agent error: Invalid parameter 'pid'")
    if run["ends"] > ask.world.clock.now():
        return {"exited": 0}
    status: dict[str, Any] = {"exited": 1, "exitcode": run["exitcode"]}
    for key in ("out", "err"):
        if run[key]:
            # The agent's bytes arrive as Latin-1 characters.
            status[f"{key}-data"] = run[key].encode().decode("latin-1")
    return status


def _facts(name: str, about: str, make: Callable[[Guest], Any]) -> Endpoint:
    return endpoint(
        "GET", f"{_AGENT}/{name}", _result(name, make), about=about, permissions=_LOOK,
        protected=True, returns="object",
    )  # fmt: skip


ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", _AGENT, listing(*_INDEX, key="name"), about="What there is.",
             returns=index("name")),
    endpoint("POST", f"{_AGENT}/ping", _result("ping", lambda _guest: {}),
             about="Whether it answers.", permissions=_LOOK, protected=True, returns="object"),
    endpoint("POST", f"{_AGENT}/exec", _real_or("exec", _exec),
             about="Start a program in the guest.", permissions=_RUN, protected=True,
             returns="object", parameters=(
                 Parameter("command", "array", description="Program and its arguments.",
                           items={"type": "string"}),
                 text("input-data", "Standard input.", max_length=65536))),
    endpoint("GET", f"{_AGENT}/exec-status", _real_or("exec-status", _exec_status),
             about="State of a started program.", permissions=_RUN, protected=True,
             returns="object", parameters=(whole("pid", "What exec returned.", optional=False),)),
    endpoint("GET", f"{_AGENT}/file-read", _real_or("file-read", _file_read),
             about="Read a file of the guest.", permissions=_READ_FILES, protected=True,
             returns="object",
             parameters=(text("file", "Its path.", optional=False),
                         whole("count", "Bytes to read.", minimum=1, maximum=_READ_LIMIT),
                         whole("offset", "Where to begin.", minimum=0),
                         flag("decode", "Not in base64."))),
    endpoint("POST", f"{_AGENT}/file-write", _real_or("file-write", _file_write),
             about="Write a file of the guest.", permissions=_WRITE_FILES, protected=True,
             parameters=(text("file", "Its path.", optional=False),
                         text("content", "What to write.", optional=False, max_length=61440),
                         flag("encode", "The content is not in base64."))),
    _facts("network-get-interfaces", "Interfaces and addresses of the guest.", _interfaces),
    _facts("get-osinfo", "System of the guest.", _os_info),
    _facts("get-host-name", "Host name of the guest.", lambda guest: {"host-name": guest.name}),
    _facts("info", "What the agent can do.", _info),
    _facts("get-timezone", "Time zone of the guest.", lambda _guest: {"offset": 0, "zone": "UTC"}),
    _facts("get-users", "Who is logged in.", lambda _guest: []),
    _facts("get-fsinfo", "File systems of the guest.", lambda _guest: []),
)  # fmt: skip
