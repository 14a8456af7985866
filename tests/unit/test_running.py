"""Where commands run: what the settings choose, and what the doctor says about it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.policy import permit
from pvemcp.call import ApiToken, Call, Effect, Principal, Unplanned
from pvemcp.errors import Denied, Unavailable
from pvemcp.health.commands import check_commands
from pvemcp.host.bubblewrap import Bubblewrap
from pvemcp.host.executor import Helper, Nowhere
from pvemcp.host.frames import Link
from pvemcp.host.runner import Runner
from pvemcp.host.ssh import Ssh
from pvemcp.host.transcript import Unmasked
from pvemcp.running import executor
from pvemcp.settings import Settings
from tests.scenarios.unboxed import EXEC
from tests.unit.stand_in_helper import node, serving

ELSEWHERE = "https://pve1.example.org:8006"


def settings(folder: Path, **given: Any) -> Settings:
    """Settings under which nothing of this machine is found."""
    usual = {"helper_socket": folder / "helper.sock", "state_dir": folder}
    return Settings(**(usual | given))


async def test_an_ssh_host_is_chosen_before_a_helper_that_is_here_too(tmp_path: Path) -> None:
    async with serving(tmp_path / "helper.sock"):
        given = settings(tmp_path, ssh_host="pve1", ssh_key_path=tmp_path / "key")
        chosen = executor(given)
        assert isinstance(chosen, Ssh)
        assert chosen.place == "pve1 over SSH"
        assert chosen.node == ""
        assert isinstance(executor(settings(tmp_path)), Helper)


def test_without_a_helper_a_pve_elsewhere_needs_ssh(tmp_path: Path) -> None:
    chosen = executor(settings(tmp_path, pve_url=ELSEWHERE))
    assert isinstance(chosen, Nowhere)


def test_without_a_helper_a_pve_here_has_bubblewrap_or_nothing(tmp_path: Path) -> None:
    assert isinstance(executor(settings(tmp_path)), Bubblewrap | Nowhere)


async def test_nowhere_is_a_warning_that_says_what_to_set(tmp_path: Path) -> None:
    check = await check_commands(settings(tmp_path, pve_url=ELSEWHERE))
    assert check.ok
    assert "pvemcp is not on the PVE host" in check.message
    assert "ssh_host" in check.repair


async def test_the_doctor_runs_a_command_and_says_how_long_it_took(tmp_path: Path) -> None:
    async with serving(tmp_path / "helper.sock") as started:
        check = await check_commands(settings(tmp_path))
        assert (check.ok, check.repair, len(started)) == (True, "", 1)
        assert check.message.startswith(f"run on {node()}: `true` took ")
        assert check.message.endswith(" ms")


@pytest.mark.parametrize(
    ("instead", "said"),
    [("exit 3", "exit 3"), ("kill -9 $$", "SIGKILL"), ("kill -9 $PPID", "vanished")],
)
async def test_a_command_that_does_not_end_well_must_be_repaired(
    tmp_path: Path, instead: str, said: str
) -> None:
    async with serving(tmp_path / "helper.sock", {"true": instead}):
        check = await check_commands(settings(tmp_path))
    assert not check.ok
    assert check.message == f"`true` did not run on {node()}: {said}"
    assert "journalctl -u pvemcp-helper" in check.repair


async def test_a_helper_that_does_not_answer_must_be_repaired(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "helper.sock"))
    check = await check_commands(settings(tmp_path))
    assert not check.ok
    assert "does not answer" in check.message
    assert "systemctl status pvemcp-helper.socket" in check.repair


async def test_a_host_that_ssh_does_not_reach_must_be_repaired(tmp_path: Path) -> None:
    given = settings(tmp_path, ssh_host="pve1.invalid", ssh_key_path=tmp_path / "none")
    check = await check_commands(given)
    assert not check.ok
    assert "ssh_key_path names a private key" in check.repair


class Late:
    """An executor that learns its node when it is asked to be ready, or never."""

    place = "elsewhere"

    def __init__(self, learns: str) -> None:
        self.node = ""
        self._learns = learns

    async def ready(self) -> None:
        if not self._learns:
            raise Unavailable("no answer", hint="Try later.")
        self.node = self._learns

    async def open(self, request: Mapping[str, Any]) -> Link:  # noqa: ARG002 - an Executor
        raise AssertionError("nothing may be run")

    async def allowed(self) -> str:
        return ""

    async def close(self) -> None:
        """Nothing is kept open."""


async def test_the_node_is_known_before_pve_is_asked_about_it() -> None:
    asked: list[str] = []

    async def guard(call: Call, effect: Effect, node: str) -> None:
        asked.append(node)
        raise Denied("not on this node")

    who = Principal("laptop", Effect.READ, ApiToken("mcp@pve!x", "secret"))
    host = Runner(Late("pve1"), permit, guard, Unmasked).bind(
        Call(who, "host_run", {}, license=Unplanned())
    )
    with pytest.raises(Denied, match="not on this node"):
        await host.run({"do": "run"}, effect=Effect.READ, label="host/shell")
    assert asked == ["pve1"]
    unknown = Runner(Late(""), permit, guard, Unmasked).bind(
        Call(who, "host_run", {}, license=Unplanned())
    )
    with pytest.raises(Unavailable, match="no answer"):
        await unknown.run({"do": "run"}, effect=Effect.READ, label="host/shell")
    assert asked == ["pve1"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("[operations.commit-state]", "[operations.kept]"), ("cluster-firewall|", "")],
)
async def test_an_own_older_exec_file_is_told(tmp_path: Path, old: str, new: str) -> None:
    own = tmp_path / "exec.toml"
    text = EXEC.read_text("utf-8")
    async with serving(tmp_path / "helper.sock"):
        own.write_text(text)
        assert not (await check_commands(settings(tmp_path, exec_file=own))).repair
        assert old in text
        own.write_text(text.replace(old, new))
        check = await check_commands(settings(tmp_path, exec_file=own))
    assert check.ok
    assert "commit-" in check.message
    assert "Take these operations over from" in check.repair
