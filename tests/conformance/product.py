"""Start and stop the product as a process, the way its users run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 5


def say(title: str, *, passed: bool) -> None:
    """Print the line of one check."""
    print(f"{'passed' if passed else 'FAILED'}  {title}", flush=True)  # noqa: T201


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers at `url` to holders of `token`; `home` is a folder to work in."""

    url: str
    token: str
    home: Path

    @property
    def state(self) -> Path:
        """The folder of its database."""
        return self.home / "state"

    def exceptions(self) -> list[str]:
        """Return the first exception that the service logged, if there is one."""
        _, found, said = (self.home / "stderr").read_text().partition("Traceback")
        return [f"the service logged an exception:\n{found}{said[:3000]}"] if found else []


@contextmanager
def running(*options: str) -> Iterator[Running]:
    """Serve the product with the options of `tests.conformance.serve` while the context is open.

    Exits with what the service said when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="pvemcp-conformance-") as folder:
        home, state = Path(folder), Path(folder, "state")
        state.mkdir(mode=0o700)
        with (home / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.conformance.serve", str(state), *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # so that Ctrl-C reaches it from here, once
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                sys.exit(f"the service did not start:\n{(home / 'stderr').read_text()}")
            yield Running(**json.loads(line), home=home)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        sys.exit(f"the service did not stop within {STOP_SECONDS} s")
