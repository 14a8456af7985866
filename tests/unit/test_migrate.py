"""From the old .env file: what its settings become, and what remains to be cleaned up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvemcp.errors import Invalid
from pvemcp.setup import dotenv
from pvemcp.setup.leftovers import leftovers
from pvemcp.setup.migration import KEYS, REFUSED, Old, translate

VALUE = "0aa1b2c3-dead-beef-0000-123456789abc"
OLD = f"""\
# the old one
export SSH_TARGET="proxmox"
SSH_HOST=10.0.0.5   # the host
SSH_USER='claude user'
SSH_PORT = 22
ENABLE_SSH=true
SSH_KEY_PATH=~/.ssh/nowhere
PROXMOX_HOST=10.0.0.5
PROXMOX_USER=root@pam
PROXMOX_TOKEN_NAME=mcp
PROXMOX_TOKEN_VALUE="{VALUE}"
PROXMOX_VERIFY_SSL=False
ENABLE_PROXMOX_API=true
ENABLE_DANGEROUS_COMMANDS=yes
ENABLE_LOCAL_EXECUTION=0
OTHER={VALUE}
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A='x\ny'", "x\ny"),
        ("A=b", "b"), ("A = b c ", "b c"), ("export A=b", "b"), ("A='b # c'", "b # c"),
        ('A="b\\"c\\n"', 'b"c\n'), ("A=b # c", "b"), ("A=b#c", "b#c"), ("A=", ""),
        ("#A=1\nA=2", "2"), ("A=1\nA=2", "2"), ("\ufeffB=1\nA=b\r\n", "b"), ("A=# c", ""),
    ],
)  # fmt: skip
def test_the_file_is_read_as_shells_and_libraries_read_it(text: str, value: str) -> None:
    assert dotenv.parse(text)["A"] == value


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"A=1\n" * 100_000)
    (tmp_path / "bin").write_bytes(b"\xff\xfe")
    for name in ("big", "bin", "absent"):
        with pytest.raises(Invalid):
            dotenv.read(tmp_path / name)


def test_every_setting_is_told_and_what_is_unsafe_is_refused_with_what_is_safe() -> None:
    old = Old(dotenv.parse(OLD))
    told = {one.name: one for one in translate(old, client="claude", role="operator", here=False)}
    assert set(KEYS) <= set(told)
    assert VALUE not in repr(told)
    assert VALUE not in repr(old)
    refused = {name for name, one in told.items() if one.text.startswith(REFUSED)}
    assert refused == {
        "PROXMOX_USER", "PROXMOX_TOKEN_NAME", "PROXMOX_VERIFY_SSL", "ENABLE_DANGEROUS_COMMANDS",
    }  # fmt: skip
    assert "pvemcp@pve!claude" in told["PROXMOX_USER"].text
    assert "--pve-ca-file" in told["PROXMOX_VERIFY_SSL"].text
    assert told["PROXMOX_HOST"].text == "pve_url = https://10.0.0.5:8006"
    assert old.token == "root@pam!mcp"
    assert old.is_here(("pve1", "10.0.0.5"))
    here = {one.name: one.text for one in translate(old, client="c", role="admin", here=True)}
    assert here["SSH_HOST"].startswith("nothing")
    assert not here["ENABLE_DANGEROUS_COMMANDS"].startswith(REFUSED)


@pytest.mark.parametrize(
    ("values", "url", "token"),
    [
        ({"PROXMOX_HOST": "https://pve1:8006/"}, "https://pve1:8006", ""),
        ({"PROXMOX_HOST": "pve1:443"}, "https://pve1:443", ""),
        ({"PROXMOX_HOST": "[2001:db8::1]"}, "https://[2001:db8::1]:8006", ""),
        (
            {"PROXMOX_HOST": "h", "PROXMOX_USER": "a@pve!t", "PROXMOX_TOKEN_NAME": "t"},
            "https://h:8006",
            "a@pve!t",
        ),
        (
            {"PROXMOX_HOST": "h", "PROXMOX_USER": "a@pve", "PROXMOX_TOKEN_NAME": "a@pve!t"},
            "https://h:8006",
            "a@pve!t",
        ),
    ],
)
def test_hosts_and_tokens_are_understood_in_their_usual_forms(
    values: dict[str, str], url: str, token: str
) -> None:
    old = Old(values)
    assert (old.url, old.token) == (url, token)


def test_what_remains_is_found_and_nothing_is_touched(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "opt" / "proxmox-mcp"
    key = tmp_path / "old_key"
    Path(f"{key}.pub").write_text("ssh-ed25519 AAAAold claude@laptop\n")
    for path, text in {
        "etc/sudoers.d/claude": "# x\nclaude ALL=(ALL) NOPASSWD: ALL\n",
        "etc/sudoers": "root ALL=(ALL:ALL) ALL\n# a NOPASSWD: ALL\n",
        "root/.ssh/authorized_keys": "# c\nssh-ed25519 AAAAmine me\nssh-ed25519 AAAAold x\n",
        "etc/systemd/system/old.service": f"[Service]\nExecStart={folder}/run --key {VALUE}\n",
        "etc/systemd/system/other.service": "[Service]\nExecStart=/bin/true\n",
        "root/.claude.json": json.dumps(
            {"projects": {"/x": {"mcpServers": {"pve": {"command": "/x/proxmox-mcp.sh"}}}}}
        ),
        "proc/77/cmdline": f"python3\0{folder}/server.py\0--token={VALUE}\0",
        "proc/78/cmdline": "sleep\0001\0",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for pid in ("77", "78"):
        (root / "proc" / pid / "cwd").symlink_to("/")
    folder.mkdir(parents=True)
    values = dotenv.parse(OLD) | {"SSH_USER": "root", "SSH_KEY_PATH": str(key)}
    found = {one.what: one.repair for one in leftovers(Old(values), folder / ".env", root)}
    assert VALUE not in repr(found)
    text = "\n".join(f"{what} => {repair}" for what, repair in found.items())
    for expected in (
        "etc/sudoers.d/claude, line 2", "authorized_keys, line 3 => sed -i 3d", "old.service",
        "claude mcp remove pve", "process, 77", "pveum user token remove root@pam mcp",
    ):  # fmt: skip
        assert expected in text
    for wrong in ("AAAAmine", "other.service", "process, 78", "etc/sudoers, line"):
        assert wrong not in text


def test_the_command_says_it_all_without_the_secret(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text(OLD)
    done = subprocess.run(
        [sys.executable, "-m", "pvemcp", "migrate", str(env), "--dry-run"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        timeout=30,
        check=True,
    )
    assert VALUE not in done.stdout + done.stderr
    assert "becomes refused: a token of root@pam" in done.stdout
    assert "claude mcp remove" in done.stdout
    assert env.read_text() == OLD
