"""What belongs to the service is not there for commands, by whatever name and whenever it comes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pvemcp.host.bubblewrap import Bubblewrap, find
from pvemcp.host.frames import Link
from pvemcp.running import executor
from pvemcp.settings import Settings
from tests.unit.test_host_bubblewrap import REASON, VISIBLE, follow, run

SECRET = "the-token-of-the-service"
pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=REASON),
    pytest.mark.skipif(VISIBLE is None, reason="only root has a place that every sandbox sees"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix=".secrets-", dir=VISIBLE))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def loose(path: Path, text: str = SECRET) -> Path:
    """Make a file that nothing but the sandbox keeps from being read."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def sandbox(*hidden: Path) -> Bubblewrap:
    made = find(*hidden)
    assert isinstance(made, Bubblewrap)
    return made


@pytest.mark.parametrize("name", ["source", "pve_token_secret_file", "tls_key"])
async def test_the_files_with_secrets_that_settings_name_are_not_there(
    place: Path, name: str
) -> None:
    own, other = loose(place / "own" / "file"), loose(place / "other" / "file", "no secret")
    bare = Settings(helper_socket=place / "none", state_dir=place / "state")
    named: dict[str, Any] = {name: own}
    box = executor(replace(bare, **named))
    assert isinstance(box, Bubblewrap)
    ran = await run(box, f"cat {own} {other}; grep -rs . {place}")
    await box.close()
    assert b"no secret" in ran.out
    assert SECRET.encode() not in ran.out


async def test_the_settings_file_that_was_read_is_not_there(place: Path) -> None:
    toml = loose(place / "own" / "pvemcp.toml", f'helper_socket = "{place}/none"')
    box = executor(Settings.load(toml, {"PVEMCP_STATE_DIR": str(place / "state")}))
    assert isinstance(box, Bubblewrap)
    ran = await run(box, f"cat {toml}")
    await box.close()
    assert ran.out == b""
    assert ran.end["code"] != 0


async def test_a_secret_that_is_renewed_stays_hidden_from_a_running_command(place: Path) -> None:
    own = loose(place / "own" / "key")
    box = sandbox(own)
    request = {"do": "run", "profile": "read", "shell": f"echo begun; read x; cat {own}; echo end"}
    link: Link = await box.open(request)
    while (frame := await link.receive()) and frame.kind != "O":
        pass
    loose(place / "own" / "new").replace(own)  # as whoever renews certificates does it
    await link.send_input(b"go\n", last=True)
    ran = await follow(link)
    await box.close()
    assert ran.out == b"end\n"


async def test_a_link_to_a_secret_leads_nowhere(place: Path) -> None:
    own = loose(place / "own" / "key")
    (place / "by-name").symlink_to(own)
    box = sandbox(place / "by-name")
    ran = await run(
        box, f"ln -s {own} /tmp/x; cat /tmp/x {own} {place}/by-name /proc/1/root{own}; echo end"
    )
    await box.close()
    assert ran.out == b"end\n"


@pytest.mark.parametrize("folder", ["/", "/var/lib", "/etc"])
def test_a_state_folder_that_holds_the_system_means_no_sandbox(folder: str) -> None:
    said = find(Path(folder))
    assert isinstance(said, str)
    assert f"{folder} cannot be hidden" in said


async def test_a_setuid_program_gives_nobody_its_owner(place: Path) -> None:
    program = place / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o6755)
    box = sandbox(place / "state")
    ran = await run(box, f"stat -c %a {program}; {program}")
    await box.close()
    assert ran.out.startswith(b"6755\n")
    assert b"uid=0" not in ran.out
    assert b"euid" not in ran.out
    assert os.geteuid() != 0 or b"uid=65534" in ran.out
