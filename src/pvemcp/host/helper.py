"""The root helper: runs what the root-owned exec.toml allows, each command in a unit of its own.

systemd starts it at the first connection to its socket; it ends when nobody has asked for a while.
A connection carries one request: a frame R with JSON (frames: see inside.py). Then bytes pass
between caller and unit, unread; closing the connection kills the unit. Only root and the socket's
user may ask. Every request leaves a line in the journal. Standard library only, nothing of pvemcp.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import socket
import stat
import struct
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

HEADER = struct.Struct(">cI")
REQUEST_LIMIT, CHUNK, MOST, IDLE = 1 << 20, 1 << 16, 96, 300
"""Bytes of a request, of a read; commands at once; seconds without a request until it ends."""
INSIDE = ("/usr/bin/python3", "-I", "-S", str(Path(__file__).resolve().with_name("inside.py")))
BOUND = ("-pBindsTo=pvemcp-helper.service", "-pRuntimeMaxSec=1d")
TMP, parsed = Path("/run/pvemcp-tmp"), functools.lru_cache(1)(tomllib.loads)
COMMAND, ABOUT = ("shell", "cwd", "env", "tty"), ("owner", "title", "profile")
NOTED = ("do", "call", "owner", "profile", "name", "timeout")
Spec = dict[str, Any]


class Refused(Exception):  # noqa: N818 - it travels to the caller, as a frame F
    """A request that is not carried out. `code` is invalid, denied, busy or broken."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.frame = frame(b"F", {"code": code, "message": message, "hint": hint})


def need(good: object, message: str, hint: str = "", code: str = "invalid") -> None:
    if not good:
        raise Refused(code, message, hint)


def frame(kind: bytes, content: Spec) -> bytes:
    payload = json.dumps(content).encode()
    return HEADER.pack(kind, len(payload)) + payload


def load(path: Path) -> Spec:
    """Read exec.toml. Refuses links, and a file or folder that anybody but root can change."""
    try:
        with os.fdopen(os.open(path, os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = {path: os.fstat(file.fileno())} | {up: up.lstat() for up in path.parents}
            for place, status in found.items():
                safe = status.st_uid == os.geteuid() and not status.st_mode & 0o022
                need(safe, f"others than root can change {place}", f"chmod go-w {place}", "broken")
            need(stat.S_ISREG(found[path].st_mode), f"{path} is not a file", "", "broken")
            return parsed(file.read().decode())
    except (OSError, ValueError) as error:
        raise Refused("broken", f"{path} cannot be used: {error}") from None


def profile_of(config: Spec, name: object) -> Spec:
    """Return the named profile, if anything may run in it."""
    found: Spec = config["profiles"].get(name, {}) if isinstance(name, str) else {}
    need(found, f"there is no profile {name!r:.40}", f"There are: {', '.join(config['profiles'])}.")
    hint = f"An administrator sets enabled = true under [profiles.{name}] in exec.toml."
    need(found.get("enabled", True), f"the profile {name} is off", hint, "denied")
    return {**found, "name": name}


def checked(name: str, value: Any, rule: Spec) -> list[str]:
    """Return a parameter's value as words for the command."""
    if rule["type"] == "integer":
        good = type(value) is int and rule["min"] <= value <= rule["max"]
        need(good, f"{name}: {rule['min']} to {rule['max']}")
    elif rule["type"] == "words":
        need(value and all("\0" not in word for word in value), f"{name}: a list of texts")
        return [*value]
    else:
        text = value if isinstance(value, str) and not value.startswith("-") else ""
        need(len(text) <= 256 and re.fullmatch(rule["pattern"], text), f"{name}: {rule['about']}")
    return [str(value)]


def command_of(operation: Spec, params: Spec) -> list[str]:
    """Fill parameters into an operation's argv. A list in it is left out without its values."""
    rules: Spec = operation.get("parameters", {})
    need(set(params) <= set(rules), f"its parameters: {', '.join(rules) or 'none'}")
    given = {name: rule["default"] for name, rule in rules.items() if "default" in rule} | params
    lacking = [name for name in rules if name not in given and not rules[name].get("optional")]
    need(not lacking, f"required: {', '.join(lacking)}")
    values = {name: checked(name, value, rules[name]) for name, value in given.items()}
    argv: list[str] = []
    for part in operation["argv"]:
        words = [part] if isinstance(part, str) else part
        if set(re.findall(r"\{(\w+)\}", " ".join(words))) <= set(values):
            for word in words:
                whole = values.get(word[1:-1]) if word[:1] == "{" else None
                argv += whole or [re.sub(r"\{(\w+)\}", lambda m: values[m[1]][0], word)]
    return argv


def spec_of(request: Spec, profile: Spec, argv: list[str] | None) -> Spec:
    """Return what inside.py is told. It has the unit's rights only, so it may judge the rest."""
    kind = "job" if request["do"] == "job" else "session" if "tty" in request else "timeout"
    seconds, most = request.get("timeout", 60), profile[kind]
    need(type(seconds) in (int, float) and 0 < seconds <= most, f"timeout: up to {most} seconds")
    spec: Spec = {"timeout": seconds, "output": profile["output"], "cwd": profile["cwd"]}
    given = {name: request[name] for name in COMMAND if request.get(name)}
    spec |= given if argv is None else {"argv": argv}
    return spec | {"env": profile["env"] | spec.get("env", {})}


def own_addresses() -> list[str]:
    """Return this host's addresses, as the kernel lists them."""
    trie, v6 = Path("/proc/net/fib_trie"), Path("/proc/net/if_inet6")
    found = set(re.findall(r"([0-9.]+)\n\s+/32 host LOCAL", trie.read_text("ascii")))
    for row in v6.read_text("ascii").splitlines() if v6.exists() else ():
        found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[:32])))
    return sorted(found)


async def start(*argv: str) -> Any:
    return await asyncio.create_subprocess_exec(*argv, stdin=-1, stdout=-1, stderr=-1)


class Unit:
    """A transient unit in which inside.py waits for its request."""

    def __init__(self, profile: Spec, kind: str = "") -> None:
        self.name = f"pvemcp-{kind or profile['name']}-{secrets.token_hex(8)}"
        self.lines = [*profile["properties"], "KillSignal=SIGKILL"]
        if (network := profile["network"]) != "all":
            allowed = own_addresses() if network == "own" else []
            self.lines += ["IPAddressDeny=any", *(f"IPAddressAllow={place}" for place in allowed)]

    async def start(self, *options: str) -> Any:
        """Have systemd start it, with a folder of its own for /tmp."""
        self.tmp = TMP / self.name
        self.tmp.mkdir(mode=0o700)
        self.tmp.chmod(0o1777)  # for the unit's user; the folder above is root's alone
        lines = [f"--property={line.replace('{tmp}', str(self.tmp))}" for line in self.lines]
        unit = ("systemd-run", "--quiet", "--collect", f"--unit={self.name}")
        return await start(*unit, *lines, *options, "--", *INSIDE)

    async def hold(self) -> Unit:
        """Start it so that it ends with its pipes, and with the helper."""
        self.process = await self.start("--pipe", "--wait", *BOUND)
        return self

    async def end(self) -> None:
        """Kill whatever is in it, and wait until systemd-run has seen that."""
        while self.process.returncode is None:  # perhaps the unit is only being started
            await (await start("systemctl", "kill", "--signal=KILL", self.name)).communicate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), 0.2)
        await asyncio.to_thread(shutil.rmtree, self.tmp, ignore_errors=True)


async def copy(source: Any, to: Any) -> int:
    """Pass bytes on until the source ends or the target has gone; return how many."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while data := await source.read(CHUNK):
            count += len(data)
            to.write(data)
            await to.drain()
    return count


class Helper:
    """Serves the requests of one socket."""

    def __init__(self, config: Path, jobs: Path, uids: set[int]) -> None:
        self.path, self.jobs, self.uids = config, jobs, uids
        self.slots = asyncio.Semaphore(MOST)
        self.ready: dict[str, asyncio.Task[Unit]] = {}
        self.open, self.last = 0, time.monotonic()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        note, self.open = {"uid": struct.unpack("3i", peer)[1], "outcome": "ok"}, self.open + 1
        try:
            need(note["uid"] in self.uids, "this socket is not for you", "", "denied")
            request = await receive(reader)
            note |= {name: str(request[name])[:200] for name in NOTED if name in request}
            shell = str(request.get("shell", "")).encode("utf-8", "replace")
            note["sha256"] = hashlib.sha256(shell).hexdigest()
            await self.answer(request, reader, writer, note)
        except Exception as error:  # noqa: BLE001 - the caller hears that, the journal what
            note["outcome"] = f"{error!r:.300}"
            broken = Refused("broken", "the helper failed", "Its journal says why.")
            writer.write(getattr(error, "frame", broken.frame))
        finally:
            self.open, self.last = self.open - 1, time.monotonic()
            writer.close()
            sys.stderr.write(f"<6>{json.dumps({'event': 'request', **note})}\n")

    async def answer(self, request: Spec, reader: Any, writer: Any, note: Spec) -> None:
        """Find what is asked for, and do it."""
        config, argv = load(self.path), None
        need(request.get("do") in ("run", "job", "operation"), "unknown request")
        if request["do"] == "operation":
            found: Spec = config["operations"].get(str(request.get("name")), {})
            need(found, "there is no such operation", "host_diagnose lists them.")
            profile = profile_of(config, found["profile"])
            profile["properties"] = profile["properties"] + found.get("properties", [])
            argv = command_of(found, request.get("params") or {})
        else:
            profile = profile_of(config, request.get("profile"))
            # What the caller says about a person's approval would not be believed: approved.py.
            shell = profile.get("shell") and profile["name"] != "root"
            need(shell, f"{profile['name']} takes no shell text", "", "denied")
        spec = spec_of(request, profile, argv)
        need(not self.slots.locked(), "too many commands at once", "Try again.", "busy")
        async with self.slots:
            if request["do"] == "job":
                writer.write(frame(b"A", {"job": await self.keep(request, profile, spec)}))
            else:
                note["ended by"] = await self.run(profile, spec, reader, writer)

    async def run(self, profile: Spec, spec: Spec, reader: Any, writer: Any) -> str:
        """Run a command; return which side ended it: unit, caller or time."""
        unit = await self.take(profile)
        process = unit.process
        process.stdin.write(frame(b"R", spec))
        up = asyncio.create_task(copy(reader, process.stdin))
        down = asyncio.create_task(copy(process.stdout, writer))
        try:
            late = spec["timeout"] + 10
            await asyncio.wait((up, down), timeout=late, return_when="FIRST_COMPLETED")
            ended = "unit" if down.done() else "caller" if up.done() else "time"
        finally:
            up.cancel()
            await asyncio.shield(unit.end())
        if ended == "unit" and not down.result():
            said = (await process.stderr.read(2000)).decode("utf-8", "replace")
            raise Refused("broken", "the command's unit did not start", said)
        down.cancel()
        return ended

    async def take(self, profile: Spec) -> Unit:
        """Return a started unit: the one kept ready, if it is still as it should be."""
        new, waiting = Unit(profile), self.ready.pop(profile["name"], None)
        if profile.get("ready"):
            self.ready[profile["name"]] = asyncio.create_task(Unit(profile).hold())
        if waiting:
            if (unit := await waiting).lines == new.lines and unit.process.returncode is None:
                return unit
            await unit.end()
        return await new.hold()

    async def keep(self, request: Spec, profile: Spec, spec: Spec) -> str:
        """Start a job: a unit that nobody holds. jobs.py deals with what it leaves behind."""
        unit = Unit(profile, "job")
        place = self.jobs / unit.name
        place.mkdir(mode=0o700)
        about = {name: str(request.get(name, ""))[:200] for name in ABOUT}
        (place / "input").write_bytes(frame(b"R", {**spec, **about, "detached": True}))
        files = (f"-pStandardInput=file:{place}/input", f"-pStandardOutput=append:{place}/log")
        process = await unit.start(*files, f"-pRuntimeMaxSec={spec['timeout'] + 30:.0f}")
        said = (await process.communicate())[1].decode("utf-8", "replace")
        need(process.returncode == 0, "the job did not start", said[:2000], "broken")
        return unit.name


async def receive(reader: asyncio.StreamReader) -> Spec:
    """Read the frame that opens a connection."""
    try:
        async with asyncio.timeout(10):
            kind, size = HEADER.unpack(await reader.readexactly(HEADER.size))
            need(kind == b"R" and size <= REQUEST_LIMIT, "this is not a request")
            return dict(json.loads(await reader.readexactly(size)).items())
    except (TimeoutError, EOFError, ValueError, AttributeError, RecursionError):
        raise Refused("invalid", "this is not a request") from None


async def main(user: str, config: str, jobs: str) -> None:
    """Serve the socket that systemd passed (descriptor 3) until nobody asks any more."""
    helper = Helper(Path(config), Path(jobs), {os.geteuid(), pwd.getpwnam(user).pw_uid})
    listening: Spec = {"sock": socket.socket(fileno=3), "backlog": 512}
    async with await asyncio.start_unix_server(helper.serve, **listening):
        while helper.open or time.monotonic() - helper.last < IDLE:  # noqa: ASYNC110
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
