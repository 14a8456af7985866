"""The Debian package as a file: what `make deb` makes, before anything installs it."""

from __future__ import annotations

import filecmp
import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.host.install import QUICK, build, built
from tests.host.needs import suites

pytestmark = pytest.mark.skipif("bookworm" not in suites(), reason="once is enough")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's files, unpacked."""
    folder = tmp_path_factory.mktemp("content")
    subprocess.run(["dpkg-deb", "-x", built(), folder], check=True)
    return folder


@pytest.mark.timeout(180, func_only=True)
def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    assert filecmp.cmp(built(), build(tmp_path, options=QUICK), shallow=False)


@pytest.mark.timeout(180, func_only=True)
def test_lintian_finds_nothing_but_what_is_overridden_with_a_reason() -> None:
    assert shutil.which("lintian"), "apt-get install lintian"
    argv = ["lintian", "--allow-root", "--info", str(built())]
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert said.stdout == ""


def test_it_is_for_both_pythons_and_holds_nothing_that_only_builds(content: Path) -> None:
    place = content / "usr/lib/pvemcp/python"
    there = {path.name for path in place.iterdir()}
    assert {"mcp", "pydantic", "aiohttp", "pvemcp"} <= there
    assert not {"hatchling", "editables", "pathspec", "trove_classifiers", "bin"} & there
    for python in ("311", "313"):
        assert list(place.glob(f"_cffi_backend.cpython-{python}-*.so"))
    assert not list(place.rglob("__pycache__"))


def test_the_manual_tells_of_every_command(content: Path) -> None:
    page = gzip.decompress((content / "usr/share/man/man1/pvemcp.1.gz").read_bytes()).decode()
    for heading in ("serve [OPTIONS]", "grant create [OPTIONS] NAME", "doctor [OPTIONS]"):
        assert f'.SS "{heading}"' in page.replace("\\-", "-")


def test_a_word_of_the_command_line_is_completed(content: Path) -> None:
    script = content / "usr/share/bash-completion/completions/pvemcp"
    assert "_PVEMCP_COMPLETE=bash_complete" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)
