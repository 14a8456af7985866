"""What a person copies into a client."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pvemcp.connect import (
    CLIENTS,
    FILES,
    SECRET_VARIABLE,
    TEXTS,
    claude_code_command,
    service_url,
    snippet,
)
from pvemcp.errors import Invalid
from pvemcp.settings import CONFIG_VARIABLE, Settings

URL = "https://pve1.example.org:8080/mcp"


def document(client: str, url: str = URL, **options: Any) -> Any:
    return json.loads(snippet(client, url=url, **options).text)


def test_claude_code_gets_a_command_that_a_shell_reads_as_meant() -> None:
    command = claude_code_command(URL, "pvemcp_x")
    assert shlex.split(command) == [
        *("claude", "mcp", "add", "--transport", "http", "pvemcp", URL),
        *("--header", "Authorization: Bearer pvemcp_x"),
    ]
    assert snippet("claude-code", url=URL, name="lab").text.startswith(
        f"claude mcp add --transport http lab {URL} "
    )


def test_the_helper_keeps_the_secret_out_of_the_configuration(tmp_path: Path) -> None:
    made = snippet("claude-code", url=URL, helper=True)
    fake = tmp_path / "bin" / "claude"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    fake.chmod(0o700)
    env = {"HOME": str(tmp_path), "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", made.text],
        input="pvemcp_x\n",
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    *words, entry = done.stdout.splitlines()
    assert words == ["mcp", "add-json", "--scope", "user", "pvemcp"]
    helper = json.loads(entry)["headersHelper"]
    headers = subprocess.run([helper], capture_output=True, text=True, env=env, check=True)
    assert json.loads(headers.stdout) == {"Authorization": "Bearer pvemcp_x"}
    assert "pvemcp_x" not in entry
    folder = tmp_path / ".config" / "pvemcp"
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


def test_claude_desktop_reaches_a_remote_host_through_ssh_and_a_local_one_directly() -> None:
    remote = document("claude-desktop")["mcpServers"]["pvemcp"]
    assert remote["command"] == "ssh"
    assert remote["args"][-5:] == [
        "root@pve1.example.org",
        *("pvemcp", "stdio", "--ceiling", "read"),
    ]
    local = document(
        "claude-desktop", "http://127.0.0.1:8080/mcp", command=("/bin/pvemcp", "--config", "/c")
    )
    assert local["mcpServers"]["pvemcp"] == {
        "command": "/bin/pvemcp",
        "args": ["--config", "/c", "stdio", "--ceiling", "read"],
    }


def test_claude_desktop_gets_the_settings_of_the_shell_but_never_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = {
        "PVEMCP_PVE_URL": "https://pve1:8006",
        "PVEMCP_PVE_TOKEN_ID": "mcp@pve!claude",
        "PVEMCP_PVE_TOKEN_SECRET": "123-456",
        "PVEMCP_PVE_CA_FILE": "ca.pem",
        "PVEMCP_LISTEN": "127.0.0.1:9",
        "PVEMCP_CONFIG": "",
        "HOME": "/root",
    }
    made = snippet("claude-desktop", url="http://127.0.0.1:9/mcp", env=shell)
    assert json.loads(made.text)["mcpServers"]["pvemcp"]["env"] == {
        "PVEMCP_PVE_URL": "https://pve1:8006",
        "PVEMCP_PVE_TOKEN_ID": "mcp@pve!claude",
        "PVEMCP_PVE_CA_FILE": str(tmp_path / "ca.pem"),
    }
    notes = " ".join(made.notes)
    assert "PVEMCP_PVE_TOKEN_SECRET_FILE" in notes
    assert "123-456" not in made.text + notes
    remote = snippet("claude-desktop", url=URL, env=shell)
    assert "env" not in json.loads(remote.text)["mcpServers"]["pvemcp"]
    assert "/etc/pvemcp/pvemcp.toml" in " ".join(remote.notes)


def test_all_that_stdio_reads_from_the_environment_is_passed_on() -> None:
    of_http = {
        "listen",
        "allowed_hosts",
        "body_limit",
        "mirror_dir",
        "peer_port",
        "page",
        "page_url",
    }
    kinds = (
        "tls_", "audit_", "recordings_", "changes_", "backup_", "session", "call", "concurrent_",
        "request", "result_", "alert_", "metrics_",
    )  # fmt: skip
    known = {
        item.env
        for item in Settings.describe()
        if item.name not in of_http and not item.name.startswith(kinds)
    }
    assert {*FILES, *TEXTS} == known - {SECRET_VARIABLE} | {CONFIG_VARIABLE}


@pytest.mark.parametrize("url", ["https://pve1:8080", "https://pve1:8080/"])
def test_a_url_without_a_path_gets_the_one_of_mcp(url: str) -> None:
    assert document("json", url)["mcpServers"]["pvemcp"]["url"] == "https://pve1:8080/mcp"


def test_vs_code_asks_for_the_secret_and_cursor_takes_it_from_its_environment() -> None:
    vscode = document("vscode")
    assert vscode["inputs"][0]["password"] is True
    asked = f"Bearer ${{input:{vscode['inputs'][0]['id']}}}"
    assert vscode["servers"]["pvemcp"]["headers"]["Authorization"] == asked
    cursor = document("cursor")["mcpServers"]["pvemcp"]
    assert cursor["headers"]["Authorization"].startswith("Bearer ${env:")
    assert "PVEMCP_" not in cursor["headers"]["Authorization"], "pvemcp would refuse the name"


def test_plain_json_is_a_streamable_http_server() -> None:
    assert document("json")["mcpServers"]["pvemcp"]["type"] == "http"


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "claude-desktop"])
def test_the_notes_speak_of_the_private_authority_and_of_loopback(client: str) -> None:
    assert "NODE_EXTRA_CA_CERTS" in " ".join(snippet(client, url=URL).notes)
    local = snippet(client, url="http://localhost:8080/mcp")
    assert "ssh -N -L 8080:localhost:8080" in " ".join(local.notes)
    assert "use https" in " ".join(snippet(client, url="http://pve1:8080/mcp").notes)


@pytest.mark.parametrize(
    "url", ["pve1:8080", "ftp://x/mcp", "https://a b/mcp", "https://[::1/", "https://x/$(id)"]
)
def test_a_url_that_no_client_would_take_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        snippet("json", url=url)


@pytest.mark.parametrize("name", ["", "a b", "$(id)", "x" * 65])
def test_a_name_that_no_client_would_take_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        snippet("json", url=URL, name=name)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), "http://127.0.0.1:8080/mcp"),
        (Settings(listen="[::1]:1"), "http://[::1]:1/mcp"),
        (Settings(listen="0.0.0.0:1", allowed_hosts=("pve1:1",)), "http://pve1:1/mcp"),
        (Settings(listen="pve1:1", tls_cert=Path("/c")), "https://pve1:1/mcp"),
    ],
)
def test_the_url_follows_the_settings(settings: Settings, expected: str) -> None:
    assert service_url(settings) == expected
