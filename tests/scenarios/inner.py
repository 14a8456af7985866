"""A real system behind a simulated guest: programs and files of this machine."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


@dataclass
class _Run:
    process: subprocess.Popen[bytes]
    streams: tuple[IO[bytes], IO[bytes]]


@dataclass
class Inner:
    """What the guest agent of a VM works with (a pvemcp.sim.world.System)."""

    runs: dict[int, _Run] = field(default_factory=dict)
    started: list[list[str]] = field(default_factory=list)
    """All commands, as they came."""

    def start(self, argv: list[str], stdin: bytes) -> int:
        """Start a program."""
        self.started.append(argv)
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        given = tempfile.TemporaryFile()  # noqa: SIM115
        given.write(stdin)
        given.seek(0)
        try:
            with given:
                process = subprocess.Popen(argv, stdin=given, stdout=out, stderr=err, cwd="/")
        except OSError:
            out.close()
            err.close()
            raise
        self.runs[process.pid] = _Run(process, (out, err))
        return process.pid

    def status(self, pid: int) -> tuple[int, int, bytes, bytes] | tuple[()] | None:
        """Look at a program; the answer that it has ended comes once."""
        run = self.runs.get(pid)
        if run is None:
            return None
        code = run.process.poll()
        if code is None:
            return ()
        del self.runs[pid]
        found = []
        for stream in run.streams:
            stream.seek(0)
            found.append(stream.read())
            stream.close()
        return max(code, 0), max(-code, 0), found[0], found[1]

    def read(self, path: str) -> bytes:
        """Read a file."""
        return Path(path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Write a file."""
        Path(path).write_bytes(content)

    def close(self) -> None:
        """End and forget what nobody asked for any more."""
        for run in self.runs.values():
            run.process.kill()
            run.process.wait()
            for stream in run.streams:
                stream.close()
        self.runs.clear()
