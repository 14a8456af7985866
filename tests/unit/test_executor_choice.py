"""Where commands run is decided by the settings, and never falls back to something weaker."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvemcp.errors import Unavailable
from pvemcp.host.executor import Helper, Nowhere
from pvemcp.host.ssh import Ssh
from pvemcp.running import executor
from pvemcp.settings import Settings

ELSEWHERE = "https://pve1.example.org:8006"


@pytest.fixture
def helper_socket(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "helper.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        yield path


async def refusal(chosen: object) -> Unavailable:
    """Return the one fault that everything asked of Nowhere ends in."""
    assert isinstance(chosen, Nowhere)
    with pytest.raises(Unavailable) as ready:
        await chosen.ready()
    with pytest.raises(Unavailable) as opened:
        await chosen.open({"do": "run", "profile": "read", "shell": "true"})
    with pytest.raises(Unavailable) as allowed:
        await chosen.allowed()
    assert str(ready.value) == str(opened.value) == str(allowed.value)
    return ready.value


@pytest.mark.parametrize("url", ["https://localhost:8006", ELSEWHERE])
def test_the_helper_whose_socket_is_here_runs_them(helper_socket: Path, url: str) -> None:
    chosen = executor(Settings(helper_socket=helper_socket, pve_url=url))
    assert isinstance(chosen, Helper)
    assert chosen.place == socket.gethostname().partition(".")[0]


def test_a_host_that_is_named_wins_over_the_helper_that_is_here(
    helper_socket: Path, tmp_path: Path
) -> None:
    settings = Settings(
        helper_socket=helper_socket, ssh_host="pve1.example.org", ssh_key_path=tmp_path / "key"
    )
    chosen = executor(settings)
    assert isinstance(chosen, Ssh)
    assert chosen.place == "pve1.example.org over SSH"


async def test_elsewhere_without_a_host_the_setting_is_named(tmp_path: Path) -> None:
    fault = await refusal(executor(Settings(helper_socket=tmp_path / "none", pve_url=ELSEWHERE)))
    assert "pvemcp is not on the PVE host" in fault.message
    assert "ssh_host" in fault.hint


async def test_on_the_host_without_helper_and_sandbox_the_reason_is_given(tmp_path: Path) -> None:
    # No sandbox can hide that state folder, whether bubblewrap is installed or not.
    settings = Settings(helper_socket=tmp_path / "none", state_dir=Path("/var/lib"))
    fault = await refusal(executor(settings))
    assert "the root helper is not here, and " in fault.message
    assert "Install the package" in fault.hint


async def test_a_helper_that_does_not_answer_is_not_replaced(helper_socket: Path) -> None:
    chosen = executor(Settings(helper_socket=helper_socket))
    with pytest.raises(Unavailable, match="does not answer") as refused:
        await chosen.open({"do": "run", "profile": "read", "shell": "true"})
    assert "pvemcp-helper.socket" in refused.value.hint
