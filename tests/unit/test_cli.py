"""The command line as a person meets it: a process, its output, its exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pvemcp.access.grants import Grants
from pvemcp.audit import Audit
from pvemcp.call import ApiToken, Call, Effect, Principal, Step, Verdict
from pvemcp.listener import cannot_listen
from pvemcp.sim.tls import make_certificates
from pvemcp.store import Store
from tests.unit.certificates import certificate

SECRET = re.compile(r"pvemcp_[A-Za-z0-9_-]{43}")


class Commands:
    """Runs `pvemcp` with a state folder of its own and nothing else in the environment."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.env = {"PATH": os.environ["PATH"], "PVEMCP_STATE_DIR": str(self.state), "TZ": "UTC"}

    def __call__(
        self, *words: str, answer: int = 0, stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pvemcp", *words],
            input=stdin,
            capture_output=True,
            text=True,
            env={**self.env, **env},
            timeout=30,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == answer, done.stderr
        return done


@pytest.fixture
def pvemcp(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def test_a_grant_is_made_listed_used_and_revoked(pvemcp: Commands) -> None:
    made = pvemcp("grant", "create", "laptop", "--ceiling", "change", "--expires", "90d").stdout
    [secret] = set(SECRET.findall(made))
    header = f'--header "Authorization: Bearer {secret}"'
    assert f"claude mcp add --transport http pvemcp http://127.0.0.1:8080/mcp {header}" in made
    with Store(pvemcp.state) as store:
        grant = Grants(store).authenticate(secret)
        assert grant is not None
        assert grant.ceiling is Effect.CHANGE
        listed = pvemcp("grant", "list").stdout
        assert re.search(r"laptop +change +20\d\d-", listed)
        assert secret not in listed
        assert "revoked" in pvemcp("grant", "revoke", "laptop").stdout
        assert Grants(store).authenticate(secret) is None
    assert "There are no grants" in pvemcp("grant", "list").stdout


def test_a_refused_grant_is_not_stored_and_one_from_the_far_future_is_listed(
    pvemcp: Commands,
) -> None:
    pvemcp("grant", "create", "x", "--ceiling", "read", "--expires", "999999w", answer=2)
    pvemcp("grant", "create", "ten", "--ceiling", "read", "--expires", "3652d")
    with Store(pvemcp.state) as store:
        Grants(store).create("far", Effect.READ, expires=6e11)
    listed = pvemcp("grant", "list").stdout
    assert re.search(r"^far +read +in a distant year", listed, re.MULTILINE)
    assert not re.search(r"^x +read", listed, re.MULTILINE)


def test_the_usage_of_connect_names_its_argument_in_one_word(pvemcp: Commands) -> None:
    assert "[OPTIONS] CLIENT\n" in pvemcp("connect", "--help").stdout


def test_doctor_makes_no_state_folder(pvemcp: Commands) -> None:
    done = pvemcp("doctor", answer=1, PVEMCP_PVE_URL="http://127.0.0.1:1")
    assert "no database yet" in done.stdout
    assert "connection refused" in done.stdout
    assert "Errno" not in done.stdout
    assert not pvemcp.state.exists()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("other", "not made for this certificate"),
        ("locked", "has a password"),
        ("junk", "no cert"),
    ],
)
def test_serve_refuses_a_certificate_that_it_cannot_use(
    pvemcp: Commands, tmp_path: Path, kind: str, said: str
) -> None:
    (tmp_path / "other").mkdir()
    cert, key = certificate(tmp_path, days=9, password=b"x" if kind == "locked" else b"")
    if kind == "other":
        _, key = certificate(tmp_path / "other", days=9)
    if kind == "junk":
        cert.write_text("junk")
    token = {"PVEMCP_PVE_TOKEN_ID": "a@pve!b", "PVEMCP_PVE_TOKEN_SECRET": "s"}
    tls = ("--tls-cert", str(cert), "--tls-key", str(key), "--listen", "127.0.0.1:0")
    assert said in pvemcp("serve", *tls, answer=2, **token).stderr


def test_a_port_that_only_root_may_take_and_an_address_of_another_machine_are_explained() -> None:
    def said(number: int) -> str:
        fault = cannot_listen("h:443", OSError(number, "x"), other="Take another.")
        return str(fault)

    assert "CAP_NET_BIND_SERVICE. Take another." in said(errno.EACCES)
    assert "does not have that address" in said(errno.EADDRNOTAVAIL)
    assert "Cannot listen on h:443: address already in use." in said(errno.EADDRINUSE)


def test_a_grant_with_a_pve_token_of_its_own_takes_the_secret_from_stdin_or_a_file(
    pvemcp: Commands, tmp_path: Path
) -> None:
    words = ("--ceiling", "read", "--pve-token-id", "mcp@pve!laptop")
    pvemcp("grant", "create", "a", *words, stdin="one-secret\n")
    file = tmp_path / "secret"
    file.write_text("two-secret\n")
    file.chmod(0o600)
    pvemcp("grant", "create", "b", *words, "--pve-token-secret-file", str(file))
    with Store(pvemcp.state) as store:
        tokens = [grant.token for grant in Grants(store).list()]
    assert tokens == [ApiToken("mcp@pve!laptop", word) for word in ("one-secret", "two-secret")]
    listed = pvemcp("grant", "list", "--json").stdout
    assert [item["token_id"] for item in json.loads(listed)] == ["mcp@pve!laptop"] * 2
    assert "secret" not in listed
    assert "still exists in PVE" in pvemcp("grant", "revoke", "a").stdout
    file.chmod(0o644)
    refused = pvemcp("grant", "create", "c", *words, "--pve-token-secret-file", str(file), answer=2)
    assert "chmod o=" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("grant", "create", "Bad Name", "--ceiling", "read"), "cannot name a grant"),
        (("grant", "create", "x"), "--ceiling"),
        (("grant", "create", "x", "--ceiling", "root"), "read"),
        (("grant", "create", "x", "--ceiling", "read", "--expires", "soon"), "90d"),
        (("grant", "create", "x", "--ceiling", "read", "--expires", "0d"), "90d"),
        (("grant", "create", "x", "--ceiling", "read", "--expires", "999999w"), "10 years"),
        (("grant", "create", "x", "--ceiling", "read", "--expires", "3653d"), "10 years"),
        (("grant", "create", "x", "--ceiling", "read", "--pve-token-id", "root@pam"), "USER@REALM"),
        (("grant", "create", "x", "--ceiling", "read", "--pve-token-id", "a@pve!b"), "empty"),
        (("grant", "create", "x", "--ceiling", "read", "--pve-token-secret-file", "/x"), "needs"),
        (("grant", "revoke", "nobody"), "There are no grants"),
        (("audit", "--client", "nobody"), "No grant and no recorded call"),
        (("audit", "--since", "yesterday"), "2026-01-31"),
        (("audit", "--limit", "0"), "range"),
        (("connect", "emacs"), "claude-code"),
        (("connect", "json", "--helper"), "for claude-code"),
        (("connect", "json", "--url", "x"), "not an MCP URL"),
        (("--config", "/nowhere.toml", "grant", "list"), "/nowhere.toml"),
        (("serve",), "pve_token_id"),
        (("stdio", "--ceiling", "all"), "destroy"),
        (("demo", "--world", "moon"), "homelab"),
        (("frobnicate",), "frobnicate"),
    ],
)
def test_a_mistake_ends_with_one_line_that_helps(
    pvemcp: Commands, words: tuple[str, ...], said: str
) -> None:
    assert said in pvemcp(*words, answer=2).stderr


def test_a_fault_shows_its_message_and_its_hint(pvemcp: Commands) -> None:
    refused = pvemcp("grant", "list", answer=2, PVEMCP_PVE_TOKN_ID="x")
    assert refused.stdout == ""
    assert refused.stderr == (
        "pvemcp: Unknown setting PVEMCP_PVE_TOKN_ID.\nDid you mean PVEMCP_PVE_TOKEN_ID?\n"
    )


def test_serve_takes_the_listening_address_from_its_option(pvemcp: Commands) -> None:
    token = {"PVEMCP_PVE_TOKEN_ID": "a@pve!b", "PVEMCP_PVE_TOKEN_SECRET": "s"}
    refused = pvemcp("serve", "--listen", "0.0.0.0:1", answer=2, **token)
    assert "tls_cert" in refused.stderr


def recorded(state: Path) -> None:
    who = Principal("laptop", Effect.CHANGE, ApiToken("a@pve!b", "s"), "g1", "192.0.2.1")
    with Store(state) as store:
        audit = Audit(store, None)
        old = Call(who, "guest_get", {"guest": 1}, started=1_000_000.0)
        old.close("ok")
        audit.record(old)
        call = Call(who, "guest_power", {"guest": 100, "evil": "\x1b[2J"}, effect=Effect.CHANGE)
        step = Step("POST", "/nodes/pve1/x", Effect.CHANGE, Verdict.ALLOW, 200, 1.0, upid="UPID:1")
        call.steps += [Step("GET", "/cluster", Effect.READ, Verdict.ALLOW, 200, 1.0), step]
        call.close("task_failed", "no space \x1b[31m left\non the disk")
        audit.record(call)


def test_the_audit_is_shown_for_a_person_and_as_json(pvemcp: Commands) -> None:
    recorded(pvemcp.state)
    shown = pvemcp("audit").stdout
    assert "laptop@192.0.2.1  guest_power  task_failed" in shown
    assert "POST /nodes/pve1/x change 200 UPID:1" in shown
    assert "GET /cluster" not in shown
    assert "\n    on the disk\n" in shown
    assert "\x1b" not in shown
    lines = [json.loads(line) for line in pvemcp("audit", "--json").stdout.splitlines()]
    assert [line["tool"] for line in lines] == ["guest_get", "guest_power"]
    assert len(lines[1]["steps"]) == 2


def test_the_audit_is_chosen_by_time_client_and_limit(pvemcp: Commands) -> None:
    recorded(pvemcp.state)
    assert "guest_get" not in pvemcp("audit", "--since", "1h").stdout
    assert "guest_get" in pvemcp("audit", "--since", "1970-01-02").stdout
    assert "laptop" in pvemcp("audit", "--client", "latpop", answer=2).stderr
    assert "guest_get" in pvemcp("audit", "--client", "laptop").stdout
    pvemcp("grant", "create", "new", "--ceiling", "read")
    assert "No calls are recorded" in pvemcp("audit", "--client", "new").stderr
    assert len(pvemcp("audit", "--limit", "1", "--json").stdout.splitlines()) == 1


def test_connect_prints_only_what_is_to_be_copied_on_stdout(pvemcp: Commands) -> None:
    made = pvemcp("connect", "json", "--url", "https://pve1:8080/mcp", "--name", "lab")
    assert json.loads(made.stdout)["mcpServers"]["lab"]["url"] == "https://pve1:8080/mcp"
    assert all(line.startswith("# ") for line in made.stderr.splitlines())


def test_connect_gives_the_authority_to_trust(pvemcp: Commands, tmp_path: Path) -> None:
    made = make_certificates(tmp_path, names=["pve1"])
    cert, key = str(made.chain_file), str(made.key_file)

    def connect(*options: str) -> subprocess.CompletedProcess[str]:
        return pvemcp("connect", *options, PVEMCP_TLS_CERT=cert, PVEMCP_TLS_KEY=key)

    given = connect("json", "--ca-out", "-")
    assert (given.stdout, given.stderr) == (made.ca_pem, "")
    file = tmp_path / "out.pem"
    said = connect("claude-code", "--ca-out", str(file))
    assert file.read_text() == made.ca_pem
    assert f"It is in {file}" in said.stderr
    assert "https://127.0.0.1:8080/mcp" in said.stdout
    assert "no certificate" in pvemcp("connect", "json", "--ca-out", "-", answer=2).stderr


def test_doctor_says_first_that_the_settings_are_wrong(pvemcp: Commands) -> None:
    done = pvemcp("doctor", answer=1, PVEMCP_LISTEN="nowhere")
    assert "FAIL  settings  listen" in done.stdout


def test_the_version_is_shown(pvemcp: Commands) -> None:
    assert pvemcp("--version").stdout.startswith("pvemcp ")


def test_commands_that_read_the_database_import_nothing_slow() -> None:
    program = "import sys, pvemcp.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"mcp", "pydantic", "aiohttp", "uvicorn", "starlette", "asyncio", "ssl"}


def test_a_backup_is_made_checked_and_listed(pvemcp: Commands, tmp_path: Path) -> None:
    pvemcp("grant", "create", "laptop", "--ceiling", "read")
    assert "nothing to encrypt" in pvemcp("backup", answer=2).stderr
    assert "Backups are off" in pvemcp("backup", "--scheduled").stdout
    config = tmp_path / "pvemcp.toml"
    config.touch(0o600)
    made = pvemcp("--config", str(config), "backup", "init")
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(made.stdout)
    path = pvemcp("--config", str(config), "backup", "--scheduled").stdout.rpartition(" (")[0]
    assert Path(path).parent == pvemcp.state / "backups"
    assert Path(path).name in pvemcp("--config", str(config), "backup", "list").stdout
    checked = pvemcp("backup", "verify", path, "--key", str(key)).stdout
    assert "maker known" in checked
    assert "database.sqlite" in checked
    assert "Name it: --key" in pvemcp("backup", "verify", path, answer=2).stderr
    assert "is not a backup" in pvemcp("backup", "verify", str(key), answer=2).stderr


def test_a_backup_that_fails_has_an_exit_code_and_is_listed_as_failed(
    pvemcp: Commands, tmp_path: Path
) -> None:
    pvemcp("grant", "create", "laptop", "--ceiling", "read")
    config = tmp_path / "pvemcp.toml"
    config.touch(0o600)
    pvemcp("--config", str(config), "backup", "init")
    words = ("--config", str(config), "backup", "--scheduled", "--to-storage", "nas")
    assert "is not on this machine" in pvemcp(*words, answer=2).stderr
    assert "The last backup failed" in pvemcp("--config", str(config), "backup", "list").stderr


def test_a_backup_is_restored_where_nothing_was(pvemcp: Commands, tmp_path: Path) -> None:
    made = pvemcp("grant", "create", "laptop", "--ceiling", "read").stdout
    [secret] = set(SECRET.findall(made))
    phrase = tmp_path / "phrase"
    phrase.touch(0o600)
    phrase.write_text("a horse and a battery\n")
    path = pvemcp("backup", "--passphrase-file", str(phrase)).stdout.rpartition(" (")[0]
    options = ("restore", path, "--passphrase-file", str(phrase))
    second = tmp_path / "second"
    shown = pvemcp(*options, "--dry-run", PVEMCP_STATE_DIR=str(second)).stdout
    assert f"make {second}/pvemcp.db" in shown
    assert not second.exists()
    assert "Restored." in pvemcp(*options, "--yes", PVEMCP_STATE_DIR=str(second)).stdout
    with Store(second) as store:
        assert Grants(store).authenticate(secret) is not None
    assert "nothing to take back" in pvemcp("restore", "--recover").stdout
    pvemcp(*options, answer=130)  # nobody said yes


def test_a_restore_works_while_the_settings_are_broken(pvemcp: Commands, tmp_path: Path) -> None:
    pvemcp("grant", "create", "laptop", "--ceiling", "read")
    config = tmp_path / "pvemcp.toml"
    config.write_text('log_level = "debug"\n')
    phrase = tmp_path / "phrase"
    phrase.touch(0o600)
    phrase.write_text("a horse and a battery\n")
    words = ("--config", str(config))
    path = pvemcp(*words, "backup", "--passphrase-file", str(phrase)).stdout.rpartition(" (")[0]
    config.write_text("nonsense")
    pvemcp(*words, "restore", path, "--passphrase-file", str(phrase), "--yes")
    assert config.read_text() == 'log_level = "debug"\n'


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone sees the rules")
def test_a_service_on_loopback_has_nothing_to_guard(pvemcp: Commands) -> None:
    assert "nothing has to guard it" in pvemcp("firewall", "status").stdout
