"""The script that runs what a person approved as root: once, exactly that, and not too late."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pvemcp.host import approved

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the script as the helper does, on a folder of its own."""

    def once(id_: str) -> subprocess.CompletedProcess[str]:
        place = str(Path(approved.__file__).parent)
        code = f"import sys, pathlib; sys.path.insert(0, {place!r}); import approved; "
        code += f"sys.exit(approved.main({id_!r}, pathlib.Path({str(tmp_path)!r})))"
        argv = [sys.executable, "-I", "-S", "-c", code]
        return subprocess.run(
            argv, input="not read", capture_output=True, text=True, timeout=20, check=False
        )

    return once


def approve(folder: Path, id_: str, shell: str, *, seconds: float = 60.0) -> None:
    """Put down what a person approved."""
    what = {"shell": shell, "cwd": str(folder), "env": {"WHO": "root"}, "timeout": 60}
    (folder / f"{id_}.json").write_text(json.dumps({**what, "expires": time.time() + seconds}))


def test_it_runs_what_was_approved_once(run: Run, tmp_path: Path) -> None:
    approve(tmp_path, "ap-1", "echo $WHO; pwd; cat")
    done = run("ap-1")
    assert (done.returncode, done.stdout) == (0, f"root\n{tmp_path}\n")
    again = run("ap-1")
    assert (again.returncode, again.stdout) == (approved.REFUSED, "")
    assert list(tmp_path.iterdir()) == []


def test_an_expired_approval_runs_nothing_and_is_gone(run: Run, tmp_path: Path) -> None:
    approve(tmp_path, "ap-1", "echo ran", seconds=-1)
    done = run("ap-1")
    assert (done.returncode, done.stdout) == (approved.REFUSED, "")
    assert run("ap-1").returncode == approved.REFUSED


def test_of_two_at_once_one_runs(run: Run, tmp_path: Path) -> None:
    approve(tmp_path, "ap-1", f"echo ran >> {tmp_path}/out")
    with ThreadPoolExecutor() as pool:
        codes = sorted(each.returncode for each in pool.map(run, ["ap-1"] * 4))
    assert codes == [0, *[approved.REFUSED] * 3]
    assert (tmp_path / "out").read_text() == "ran\n"
