"""What pvesh of a real PVE 9.2 printed, as set-up reads it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pvemcp.errors import Conflict, Fault, Invalid, Missing, Rejected
from pvemcp.setup.pvesh import Pvesh


def pvesh(folder: Path, *, out: str = "", err: str = "", code: int = 0) -> Pvesh:
    """Return a pvesh that prints this, and writes down what it was called with."""
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    program = folder / "pvesh"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/argv\ncat {folder}/out\n'
        f"cat {folder}/err >&2\nexit {code}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Pvesh(program)


def test_parameters_are_single_words_and_booleans_ones_and_zeros(tmp_path: Path) -> None:
    made = pvesh(tmp_path, out='{"value":"x","full-tokenid":"t@pve!lap"}\n')
    answer = made.post("/access/users/t@pve/token/lap", privsep=True, comment="-x y", expire=None)
    assert answer["value"] == "x"
    assert (tmp_path / "argv").read_text().splitlines() == [
        "create", "/access/users/t@pve/token/lap", "--privsep=1", "--comment=-x y",
        "--output-format", "json",
    ]  # fmt: skip
    assert pvesh(tmp_path).put("/access/acl", delete=True) is None


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "text"),
    [
        (255, "create role failed: role 'MCPTest' already exists\n", Conflict, "already exists"),
        (
            255,
            (
                "400 Parameter verification failed.\nprivs: invalid format - invalid privilege "
                "'VM.Nope'\n\npvesh create <api_path> --roleid <string> [OPTIONS]\n"
            ),
            Invalid,
            "Parameter verification",
        ),
        (
            255,
            (
                "400 Parameter verification failed.\ntokenid: Token already exists.\npvesh create "
                "<api_path> [OPTIONS] [FORMAT_OPTIONS]\n"
            ),
            Conflict,
            "Token already exists",
        ),
        (255, "no such user ('zz@pve')\n", Missing, "no such user"),
        (
            2,
            "user config - ignore invalid acl token 't@pve!lap'\ndelete user failed: reason\n",
            Rejected,
            "delete user failed: reason",
        ),
        (1, "", Fault, "no reason was given"),
    ],
)
def test_refusals_are_faults(
    tmp_path: Path, code: int, stderr: str, kind: type[Fault], text: str
) -> None:
    with pytest.raises(kind, match=text):
        pvesh(tmp_path, err=stderr, code=code).get("/access/roles")


def test_the_firewalls_options_are_read_where_pvesh_cannot(tmp_path: Path) -> None:
    err = (
        "unknown schema type (not an object?)\nCompilation failed in require at /usr/bin/pvesh "
        "line 6.\nBEGIN failed--compilation aborted at /usr/bin/pvesh line 6.\n"
    )
    pvesh(tmp_path, err=err, code=2)
    asked = Pvesh(tmp_path / "pvesh", tmp_path / "cluster.fw")
    assert asked.get("/cluster/firewall/options") == {}
    (tmp_path / "cluster.fw").write_text("[OPTIONS]\n\nenable: 1\n# x\n\n[RULES]\nIN ACCEPT: 1\n")
    assert asked.get("/cluster/firewall/options") == {"enable": "1"}
    with pytest.raises(Rejected):
        asked.get("/cluster/other")


def test_without_pvesh_it_says_how_else(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="not on this machine") as refused:
        Pvesh(tmp_path / "none").get("/version")
    assert "--pve-url" in refused.value.hint
