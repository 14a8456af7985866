"""Settings: where they come from, and everything that is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import Misconfigured
from pvemcp.settings import Settings, require_safe_listen, require_token

FINGERPRINT = ":".join(["AB"] * 32)
TOKEN = {"PVEMCP_PVE_TOKEN_ID": "mcp@pve!laptop", "PVEMCP_PVE_TOKEN_SECRET": "s3"}


def load(env: Mapping[str, str] | None = None, *, toml: Path | None = None) -> Settings:
    return Settings.load(toml, {"PVEMCP_STATE_DIR": "/tmp/x", **(env or {})})


def refused(env: Mapping[str, str] | None = None, *, toml: Path | None = None) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(env, toml=toml)
    assert caught.value.hint, "every refusal says how to repair it"
    return str(caught.value)


def file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_nothing_set_gives_the_documented_defaults() -> None:
    settings = load()
    assert settings.pve_url == "https://localhost:8006"
    assert settings.address == ("127.0.0.1", 8080)
    assert settings.loopback_only


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    toml = file(tmp_path / "a.toml", 'listen = "127.0.0.1:1"\npve_concurrency = 3\n')
    settings = load({"PVEMCP_LISTEN": "127.0.0.1:2"}, toml=toml)
    assert (settings.listen, settings.pve_concurrency) == ("127.0.0.1:2", 3)


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    toml = file(tmp_path / "a.toml", 'log_level = "debug"')
    assert load({"PVEMCP_LOG_LEVEL": "", "PVEMCP_TLS_CERT": " "}, toml=toml).log_level == "debug"


def test_the_variable_names_the_file_and_the_option_wins_over_it(tmp_path: Path) -> None:
    one = file(tmp_path / "one.toml", 'listen = "127.0.0.1:1"')
    two = file(tmp_path / "two.toml", 'listen = "127.0.0.1:2"')
    by_variable = load({"PVEMCP_CONFIG": str(one)})
    assert (by_variable.address[1], by_variable.source) == (1, one)
    assert load({"PVEMCP_CONFIG": str(one)}, toml=two).address[1] == 2


def test_lists_come_from_toml_and_from_commas(tmp_path: Path) -> None:
    toml = file(tmp_path / "a.toml", 'allowed_hosts = ["a", "b:8080"]')
    assert load(toml=toml).allowed_hosts == ("a", "b:8080")
    assert load({"PVEMCP_ALLOWED_HOSTS": "a, b:8080,"}).allowed_hosts == ("a", "b:8080")


def test_an_ipv6_address_listens_without_its_brackets() -> None:
    assert load({"PVEMCP_LISTEN": "[::1]:8080"}).address == ("::1", 8080)


def test_the_fingerprint_is_accepted_in_every_usual_spelling() -> None:
    for text in (FINGERPRINT, FINGERPRINT.lower(), "ab" * 32):
        assert load({"PVEMCP_PVE_FINGERPRINT": text}).pve_fingerprint == FINGERPRINT


def test_a_trailing_slash_of_the_url_does_not_matter() -> None:
    assert load({"PVEMCP_PVE_URL": "https://pve1:8006/"}).pve_url == "https://pve1:8006"


def test_unknown_names_are_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    toml = file(tmp_path / "a.toml", 'pve_ulr = "https://pve1:8006"')
    assert "Did you mean pve_url?" in refused(toml=toml)
    assert "PVEMCP_PVE_FINGERPRINT" in refused({"PVEMCP_PVE_FINGERPRNT": "x"})
    assert "Known are" in refused({"PVEMCP_QQQQQQQQ": "x"})
    variable = file(tmp_path / "b.toml", 'PVEMCP_LISTEN = "127.0.0.1:1"')
    assert "Did you mean listen?" in refused(toml=variable)
    assert "Did you mean PVEMCP_LISTEN?" in refused({"PVEMCP_listen": "x"})


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"PVEMCP_PVE_URL": "pve1:8006"}, "pve_url"),
        ({"PVEMCP_PVE_URL": "https://pve1:port"}, "pve_url"),
        ({"PVEMCP_PVE_URL": "https://[::1"}, "pve_url"),
        ({"PVEMCP_PVE_URL": "https://pve1:8006/api2/json"}, "https://pve1:8006."),
        ({"PVEMCP_PVE_URL": "http://pve1:8006"}, "https://pve1:8006"),
        ({"PVEMCP_PVE_URL": "http://127.0.0.1:1", "PVEMCP_PVE_FINGERPRINT": FINGERPRINT}, "http"),
        ({"PVEMCP_PVE_FINGERPRINT": FINGERPRINT, "PVEMCP_PVE_CA_FILE": "/x"}, "Keep one"),
        ({"PVEMCP_PVE_FINGERPRINT": "AB:CD"}, "pve_fingerprint"),
        ({"PVEMCP_PVE_TOKEN_ID": "mcp@pve!laptop"}, "pve_token_secret"),
        ({"PVEMCP_PVE_TOKEN_ID": "root@pam", "PVEMCP_PVE_TOKEN_SECRET": "x"}, "USER@REALM!NAME"),
        ({"PVEMCP_PVE_TOKEN_SECRET": "x"}, "pve_token_id"),
        ({**TOKEN, "PVEMCP_PVE_TOKEN_SECRET_FILE": "/nowhere"}, "pve_token_secret_file"),
        ({"PVEMCP_TLS_CERT": "/nowhere"}, "tls_key"),
        ({"PVEMCP_TLS_KEY": "/nowhere"}, "tls_cert"),
        ({"PVEMCP_TLS_KEY": "/nowhere", "PVEMCP_TLS_CERT": "/nowhere"}, "does not exist"),
        ({"PVEMCP_PVE_CA_FILE": "/nowhere"}, "pve_ca_file"),
        ({"PVEMCP_PVE_CA_FILE": "~nobody-here/x"}, "whole path"),
        ({"PVEMCP_LISTEN": ":8080"}, "listen"),
        ({"PVEMCP_LISTEN": "::1:8080"}, "listen"),
        ({"PVEMCP_LISTEN": "localhost:70000"}, "listen"),
        ({"PVEMCP_PVE_CONCURRENCY": "0"}, "1 to 64"),
        ({"PVEMCP_PVE_CONCURRENCY": "many"}, "whole number"),
        ({"PVEMCP_BODY_LIMIT": "1M"}, "whole number"),
        ({"PVEMCP_LOG_LEVEL": "loud"}, "debug, info, warning, error"),
        ({"PVEMCP_ALLOWED_HOSTS": "https://a"}, "scheme"),
        ({"PVEMCP_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
        ({"PVEMCP_SSH_HOST": "pve1"}, "ssh_key_path"),
        ({"PVEMCP_SSH_HOST": "pve1", "PVEMCP_SSH_KEY_PATH": "/nowhere"}, "does not exist"),
        ({"PVEMCP_SSH_KEY_PATH": "/nowhere"}, "ssh_host"),
        ({"PVEMCP_SSH_USER": "mcp"}, "ssh_user is set"),
        ({"PVEMCP_SSH_PORT": "2222"}, "ssh_port is set"),
        ({"PVEMCP_SSH_PORT": "0"}, "1 to 65535"),
        ({"PVEMCP_SSH_KNOWN_HOSTS": "/nowhere"}, "ssh_known_hosts is set"),
    ],
)
def test_a_wrong_or_contradictory_setting_is_refused_by_name(
    env: dict[str, str], named: str
) -> None:
    assert named in refused(env)


@pytest.mark.parametrize(
    "text",
    ["pve_url = 5", "pve_concurrency = true", "allowed_hosts = 5", "= x", "\x00"],
)
def test_a_file_with_wrong_types_or_syntax_is_refused(tmp_path: Path, text: str) -> None:
    refused(toml=file(tmp_path / "a.toml", text))


def test_a_relative_state_dir_is_refused_with_the_whole_path() -> None:
    assert str(Path("state").absolute()) in refused({"PVEMCP_STATE_DIR": "state"})
    assert load({"PVEMCP_STATE_DIR": "~/state"}).state_dir == Path("~/state").expanduser()


@pytest.mark.parametrize("name", ["PVE_TOKEN_SECRET_FILE", "PVE_CA_FILE", "TLS_CERT", "TLS_KEY"])
def test_a_folder_in_the_place_of_a_file_is_called_a_folder(tmp_path: Path, name: str) -> None:
    pem = str(file(tmp_path / "pem", ""))
    env = {"PVEMCP_TLS_CERT": pem, "PVEMCP_TLS_KEY": pem, "PVEMCP_PVE_TOKEN_ID": "mcp@pve!l"}
    if name != "PVE_TOKEN_SECRET_FILE":
        env["PVEMCP_PVE_TOKEN_SECRET"] = "x"
    message = refused({**env, f"PVEMCP_{name}": str(tmp_path)})
    assert f"{name.lower()}: {tmp_path} is a folder" in message


def test_an_empty_state_dir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="state_dir: is empty"):
        Settings.load(file(tmp_path / "a.toml", 'state_dir = ""'), {})


@pytest.mark.parametrize(
    ("url", "local"),
    [("https://localhost:8006", True), ("https://[::1]:1", True), ("https://pve1", False)],
)
def test_a_pve_on_this_machine_is_recognised(url: str, local: bool) -> None:
    assert load({"PVEMCP_PVE_URL": url}).pve_is_local == local


def test_the_secret_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    secret = file(tmp_path / "secret", "1-2-3\r\n", 0o640)
    settings = load(
        {"PVEMCP_PVE_TOKEN_ID": "mcp@pve!l", "PVEMCP_PVE_TOKEN_SECRET_FILE": str(secret)}
    )
    assert require_token(settings) == ("mcp@pve!l", "1-2-3")
    assert "1-2-3" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "mode"), [("ok", 0o644), ("ok", 0o602), ("", 0o600), ("x" * 5000, 0o600)]
)
def test_a_secret_file_that_is_open_empty_or_too_large_is_refused(
    tmp_path: Path, content: str, mode: int
) -> None:
    secret = file(tmp_path / "my secret", content, mode)
    env = {"PVEMCP_PVE_TOKEN_ID": "mcp@pve!l", "PVEMCP_PVE_TOKEN_SECRET_FILE": str(secret)}
    message = refused(env)
    assert "pve_token_secret_file" in message
    if mode & 0o007:
        assert f"chmod o= '{secret}'" in message


def test_a_settings_file_with_a_secret_must_not_be_open_to_everybody(tmp_path: Path) -> None:
    text = 'pve_token_id = "mcp@pve!l"\npve_token_secret = "s3cr3t"\n'
    assert "chmod o=" in refused(toml=file(tmp_path / "a.toml", text, 0o644))
    assert load(toml=file(tmp_path / "a.toml", text, 0o640)).pve_token_secret == "s3cr3t"


def test_a_token_id_that_holds_the_secret_is_refused_without_repeating_it() -> None:
    message = refused({"PVEMCP_PVE_TOKEN_ID": "PVEAPIToken=mcp@pve!l=123-456"})
    assert "123-456" not in message
    assert "mcp@pve!l" in message


def test_swapped_id_and_secret_are_refused_without_repeating_them() -> None:
    message = refused({"PVEMCP_PVE_TOKEN_ID": "123-456", "PVEMCP_PVE_TOKEN_SECRET": "a@pve!b"})
    assert "123-456" not in message


def test_commands_that_need_no_files_work_while_they_are_missing(tmp_path: Path) -> None:
    env = {
        "PVEMCP_PVE_TOKEN_ID": "mcp@pve!l",
        "PVEMCP_PVE_TOKEN_SECRET_FILE": "/nowhere",
        "PVEMCP_STATE_DIR": str(tmp_path),
    }
    assert Settings.load(None, env, files=False).state_dir == tmp_path


def test_the_state_folder_follows_systemd_then_the_user(tmp_path: Path) -> None:
    under_systemd = Settings.load(None, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"})
    assert under_systemd.state_dir == Path("/var/lib/a")
    home = Settings.load(None, {"HOME": str(tmp_path)}).state_dir
    expected = tmp_path / ".local/state/pvemcp"
    assert home == (Path("/var/lib/pvemcp") if os.geteuid() == 0 else expected)


def test_no_token_says_how_to_make_one() -> None:
    with pytest.raises(Misconfigured, match="API Tokens"):
        require_token(load())


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "pve1:80"])
def test_listening_beyond_loopback_needs_tls(listen: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="tls_cert"):
        require_safe_listen(load({"PVEMCP_LISTEN": listen}))
    pem = str(file(tmp_path / "pem", "", 0o600))
    require_safe_listen(
        load({"PVEMCP_LISTEN": listen, "PVEMCP_TLS_CERT": pem, "PVEMCP_TLS_KEY": pem})
    )


@pytest.mark.parametrize("listen", ["localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1"])
def test_loopback_needs_no_tls(listen: str) -> None:
    require_safe_listen(load({"PVEMCP_LISTEN": listen}))


def test_ssh_needs_a_key_that_is_closed_to_others_and_the_usual_values_count_as_not_set(
    tmp_path: Path,
) -> None:
    usual = {"PVEMCP_SSH_USER": "pvemcp", "PVEMCP_SSH_PORT": "22"}
    assert not load(usual).ssh_host
    key = file(tmp_path / "key", "x")
    env = {**usual, "PVEMCP_SSH_HOST": "pve1", "PVEMCP_SSH_KEY_PATH": str(key)}
    assert load(env).ssh_key_path == key
    key.chmod(0o644)
    assert "ssh_key_path" in refused(env)


def test_every_setting_is_described() -> None:
    described = list(Settings.describe())
    settings = [item.name for item in fields(Settings) if item.name != "source"]
    assert [item.name for item in described] == settings
    assert all(item.help.endswith(".") for item in described)


@given(
    st.dictionaries(
        st.sampled_from([item.env for item in Settings.describe() if "FILE" not in item.env]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    )
)
def test_any_environment_gives_settings_or_a_misconfigured(env: dict[str, str]) -> None:
    with suppress(Misconfigured):
        Settings.load(None, env)
