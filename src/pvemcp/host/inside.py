"""The first process in the sandbox of a command: it starts the command and reports in frames.

It has the rights of the command and no others, so nothing that it says is trusted beyond the
command's own output. The root helper starts it in a transient unit, the bubblewrap executor in a
namespace. When it ends, systemd (or the kernel) ends whatever the command left behind.

A frame is one letter, a length (four bytes, big-endian) and that many bytes.

In:  R request (JSON), I input, E end of input, W window size (JSON), S signal (a name).
Out: B begun, O output, e error output, X how it ended (JSON, padded to END bytes).

Standard library only: it is run as `python3 -I -S inside.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping
from typing import Any

HEADER = struct.Struct(">cI")
READ, READ_FOR_LOG = 65536, 8192
END = 256
"""Bytes of the last frame's payload: a reader of a log finds it without reading the rest."""
MOST_INPUT = 8 << 20
"""Bytes of input that are held for a command which does not read."""
GRACE = 2.0
"""Seconds between SIGTERM and the end of everything, when the time is up."""
CANNOT_START = 126


class Command:
    """The running command: its process, its ends of the pipes, and what is to be sent to it."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.tty = bool(spec.get("tty"))
        self.pending = bytearray()
        self.input_ended = False
        self.pid, self.stdin, self.outputs = _start_on_tty(spec) if self.tty else _start(spec)
        self.pidfd = os.pidfd_open(self.pid)
        os.set_blocking(self.stdin, False)

    def feed(self, data: bytes) -> None:
        """Take input for the command; a command that never reads it is ended."""
        self.pending += data
        if len(self.pending) > MOST_INPUT:
            raise MemoryError

    def write(self) -> None:
        """Write what the command is ready to take, and close its input at the end."""
        try:
            while self.pending:
                del self.pending[: os.write(self.stdin, self.pending[:READ])]
        except BlockingIOError:
            return
        except OSError:  # the command has closed its input
            self.pending.clear()
        if self.input_ended and self.stdin >= 0 and not self.tty:
            os.close(self.stdin)
            self.stdin = -1

    def signal(self, number: int) -> None:
        """Signal the process group; on a terminal, the one in the foreground.

        A command that has only just been forked has neither yet, and is signalled itself: group 0
        would be our own.
        """
        group = self.pid
        if self.tty:
            with contextlib.suppress(OSError):
                group = os.tcgetpgrp(self.stdin) or self.pid
        try:
            os.killpg(group, number)
        except OSError:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, number)

    def resize(self, size: Mapping[str, Any]) -> None:
        """Tell the terminal its size."""
        if self.tty:
            fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, _window(size))


def _window(size: Mapping[str, Any]) -> bytes:
    return struct.pack("HHHH", int(size["rows"]), int(size["columns"]), 0, 0)


def _start(spec: Mapping[str, Any]) -> tuple[int, int, dict[int, bytes]]:
    stdin, to_child = os.pipe()
    out, child_out = os.pipe()
    err, child_err = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(spec, (stdin, child_out, child_err))
    for fd in (stdin, child_out, child_err):
        os.close(fd)
    return pid, to_child, {out: b"O", err: b"e"}


def _start_on_tty(spec: Mapping[str, Any]) -> tuple[int, int, dict[int, bytes]]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, _window(spec["tty"]))
    pid = os.fork()
    if pid == 0:
        _become(spec, (slave, slave, slave))
    os.close(slave)
    return pid, master, {master: b"O"}


def _become(spec: Mapping[str, Any], streams: tuple[int, int, int]) -> None:
    """Turn this forked process into the command. Never returns."""
    try:
        os.setsid()
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        os.closerange(3, 64)
        if spec.get("tty"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, a command must not
            signal.signal(number, signal.SIG_DFL)
        environment = dict(os.environ) | dict(spec.get("env") or {})
        if spec.get("cwd"):
            os.chdir(spec["cwd"])
            environment["PWD"] = spec["cwd"]
        argv = _argv(spec)
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - its whole purpose
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start: {error}\n".encode("utf-8", "replace"))
    os._exit(CANNOT_START)


def _argv(spec: Mapping[str, Any]) -> list[str]:
    if "argv" in spec:
        return [str(part) for part in spec["argv"]]
    shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
    if spec.get("tty"):
        return [shell, "--norc", "--noprofile", "-i"] if shell.endswith("bash") else [shell, "-i"]
    return [shell, "-c", str(spec["shell"])]


class Session:
    """Carries frames between the caller (descriptors 0 and 1) and one command."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.command = Command(spec)
        self.started = time.monotonic()
        self.deadline = self.started + float(spec["timeout"])
        self.detached = bool(spec.get("detached"))
        self.room = int(spec["output"])
        self.dropped = 0
        self.why = ""
        """Why it was ended from here: timeout, output, gone or input."""
        self.incoming = bytearray()
        self.listening = True

    def run(self) -> int:
        """Serve until the command has ended; return its exit code as a shell would."""
        _send(b"B", b"")  # from now on, silence means that somebody killed this process
        while not self._turn():
            pass
        if self.why:
            self.command.signal(signal.SIGKILL)
            signal.pidfd_send_signal(self.command.pidfd, signal.SIGKILL)
        _, status = os.waitpid(self.command.pid, 0)
        if self.why == "gone":
            return CANNOT_START
        self._drain()
        end: dict[str, Any] = {"seconds": round(time.monotonic() - self.started, 3)}
        code = os.waitstatus_to_exitcode(status)
        if self.why:
            end["why"] = self.why
        if code < 0:
            end["signal"] = signal.Signals(-code).name
        else:
            end["code"] = code
        if self.dropped:
            end["dropped"] = self.dropped
        _send(b"X", json.dumps(end).encode().ljust(END))
        return code if code >= 0 else 128 - code

    def _turn(self) -> bool:
        """Wait for one thing to happen and deal with it; True when the command has ended."""
        command = self.command
        command.write()
        reading = [command.pidfd, *command.outputs, *([0] if self.listening else [])]
        writing = [command.stdin] if command.pending and command.stdin >= 0 else []
        left = self.deadline - time.monotonic()
        if left <= 0:
            return self._time_is_up()
        ready, _, _ = select.select(reading, writing, [], left)
        if 0 in ready and not self._listen():
            self.why = "gone"
            return True
        for fd in [fd for fd in command.outputs if fd in ready]:
            self._forward(fd)
        return command.pidfd in ready or bool(self.why and self.why != "timeout")

    def _time_is_up(self) -> bool:
        if self.why:
            return True
        self.why = "timeout"
        self.deadline += GRACE
        self.command.signal(signal.SIGTERM)
        self.command.signal(signal.SIGCONT)
        return False

    def _listen(self) -> bool:
        """Take what the caller sent; False when the caller has gone."""
        data = os.read(0, READ)
        if not data:
            self.listening, self.command.input_ended = False, True
            return self.detached
        self.incoming += data
        while len(self.incoming) >= HEADER.size:
            kind, length = HEADER.unpack_from(self.incoming)
            if len(self.incoming) < HEADER.size + length:
                break
            payload = bytes(self.incoming[HEADER.size : HEADER.size + length])
            del self.incoming[: HEADER.size + length]
            self._obey(kind, payload)
        return True

    def _obey(self, kind: bytes, payload: bytes) -> None:
        match kind:
            case b"I":
                try:
                    self.command.feed(payload)
                except MemoryError:
                    self.why = "input"
            case b"E":
                self.command.input_ended = True
            case b"W":
                self.command.resize(json.loads(payload))
            case b"S":
                self.command.signal(signal.Signals["SIG" + payload.decode()])

    def _forward(self, fd: int) -> bool:
        """Pass on what the command wrote; False when there is nothing more for now."""
        try:
            data = os.read(fd, READ_FOR_LOG if self.detached else READ)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose last user has gone
            data = b""
        if not data:
            del self.command.outputs[fd]
            return False
        kept = data[: self.room]
        self.room -= len(kept)
        if kept:
            _send(self.command.outputs[fd], kept)
        if len(kept) < len(data):
            self.dropped += len(data) - len(kept)
            if not self.detached:
                self.why = "output"
        return True

    def _drain(self) -> None:
        """Pass on what is in the pipes already; who holds them open longer is not waited for."""
        for fd in list(self.command.outputs):
            os.set_blocking(fd, False)
            while self.why != "output" and fd in self.command.outputs and self._forward(fd):
                pass


def _send(kind: bytes, payload: bytes) -> None:
    data = HEADER.pack(kind, len(payload)) + payload
    while data:
        data = data[os.write(1, data) :]


def _receive() -> bytes:
    head = _exactly(HEADER.size)
    kind, length = HEADER.unpack(head)
    if kind != b"R":
        sys.exit("no request")
    return _exactly(length)


def _exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(0, count - len(data))
        if not more:
            sys.exit(0)  # it was kept ready, and is not needed any more
        data += more
    return data


if __name__ == "__main__":
    sys.exit(Session(json.loads(_receive())).run())
