"""The commands in README and the guides exist and take the options that are shown."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pvemcp.cli import commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HAND_WRITTEN = [page for page in PAGES if page.parent.name != "reference"]


def shown(word: str) -> list[str]:
    """Return the command lines of all pages that begin with a word, without their comments."""
    found = []
    for page in HAND_WRITTEN:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            lines = [line.partition(" #")[0].strip() for line in block.split("\n")]
            found += [line for line in lines if line.startswith(f"{word} ")]
    return sorted(set(found))


@pytest.mark.parametrize("line", shown("make"))
def test_every_make_command_has_its_target(line: str) -> None:
    target = shlex.split(line)[1]
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", shown("pvemcp"))
def test_every_pvemcp_command_takes_what_is_shown(line: str) -> None:
    arguments = shlex.split(line)[1:]
    said = CliRunner().invoke(commands, [*arguments, "--help"])
    assert said.exit_code == 0, said.output
    for option in (word for word in arguments if word.startswith("--")):
        assert option in said.output


def test_the_two_commands_are_there() -> None:
    assert {"make demo", "make test"} <= set(shown("make"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
