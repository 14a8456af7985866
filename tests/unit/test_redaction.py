"""Redaction: no secret in what is written down, and no cost that a caller can drive up."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.redaction import MASK, STRING_LIMIT, redact, redact_text

UUID = "123e4567-e89b-12d3-a456-426614174000"
PEM = "-----BEGIN {}PRIVATE KEY-----\nMIIEsecret\n-----END {}PRIVATE KEY-----"


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "new-password",
        "cipassword",
        "confirmation-password",
        "secret",
        "clientSecret",
        "token",
        "access_token",
        "apiKey",
        "key",
        "private-key",
        "sshkeys",
        "ssh-public-keys",
        "ticket",
        "otp",
        "Authorization",
        "CSRFPreventionToken",
        "encryption-key",
    ],
)
def test_the_value_of_a_secret_name_is_masked_at_any_depth(name: str) -> None:
    hidden = "gei1Ahgh"
    arguments = {"params": {name: hidden, "list": [{name: [hidden]}, (hidden[:0],)]}}
    assert hidden not in json.dumps(redact(arguments))
    assert redact({name: None}) == {name: None}


@pytest.mark.parametrize("name", ["tokenid", "keyboard", "vmid", "node", "pathkey_x", "userid"])
def test_names_that_only_look_similar_are_kept(name: str) -> None:
    assert redact({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"PVEAPIToken=root@pam!x={UUID}", UUID),
        (f"curl -H 'Authorization: PVEAPIToken=root@pam!x={UUID}'", UUID),
        ("authorization: bearer abc.def-ghi", "abc.def"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("see pvemcp_" + "A" * 43, "AAAA"),
        ("PVEAuthCookie=PVE:root@pam:6", "root@pam:6"),
        ("ticket is PVE:root@pam:66AABBCC::abc+/=", "abc+/="),
        (f"secret was ={UUID}", UUID),
        ("server=1.2.3.4,password=gei1Ahgh,share=x", "gei1Ahgh"),
        ("password=gei1,Ahgh", "Ahgh"),
        ("PASSWORD='gei1 Ahgh'", "Ahgh"),
        ("export DB_PASSWORD=gei1Ahgh; run", "gei1Ahgh"),
        ("dbpassword: gei1Ahgh", "gei1Ahgh"),
        ("user: x\npassword:gei1Ahgh\nchpasswd: y", "gei1Ahgh"),
        ("password: gei1Ahgh\nuser: x", "gei1Ahgh"),
        ('{"password": "gei1Ahgh"}', "gei1Ahgh"),
        ("{'api_key':'gei1Ahgh'}", "gei1Ahgh"),
        ("mysql --password gei1Ahgh -e x", "gei1Ahgh"),
        ("smb://user:gei1Ahgh@host/share", "gei1Ahgh"),
        (PEM.format("", ""), "MIIEsecret"),
        ("x " + PEM.format("RSA ", "RSA "), "MIIEsecret"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nMIIEsecret and no end", "MIIEsecret"),
        ("PVEVNC:66AABBCC::abc+/=", "abc+/="),
        ("mysql -uroot -pgei1Ahgh app", "gei1Ahgh"),
        ("mysqldump --all-databases -p'gei1 x'", "gei1"),
        ("curl -sS -u user:gei1Ahgh https://x", "gei1Ahgh"),
        ("curl --user=user:gei1Ahgh https://x", "gei1Ahgh"),
        ("mariadb-dump --password gei1Ahgh", "gei1Ahgh"),
        ("PGPASSWORD=gei1Ahgh psql", "gei1Ahgh"),
        ("sshpass -p gei1Ahgh ssh root@x", "gei1Ahgh"),
        ("sshpass -p 'gei1 Ahgh' ssh root@x", "Ahgh"),
        ("echo root:gei1Ahgh | chpasswd", "gei1Ahgh"),
        ("printf 'root:gei1Ahgh' | sudo chpasswd -e", "gei1Ahgh"),
        ("chpasswd <<< root:gei1Ahgh", "gei1Ahgh"),
        ("echo gei1Ahgh | passwd --stdin bob", "gei1Ahgh"),
        ("openssl rsa -in k.pem -passin pass:gei1Ahgh", "gei1Ahgh"),
        ('curl -H "X-Api-Key: gei1Ahgh" https://x', "gei1Ahgh"),
        ("curl -H 'PRIVATE-TOKEN: gei1 Ahgh' https://x", "Ahgh"),
    ],
)
def test_a_secret_is_recognised_by_its_shape_inside_any_text(text: str, hidden: str) -> None:
    masked = redact_text(text)
    assert hidden not in masked
    assert MASK in masked
    assert hidden not in json.dumps(redact({"command": ["sh", "-c", text], text: 1}))


@pytest.mark.parametrize(
    "text",
    [
        "virtio=AA:BB:CC:DD:EE:FF,bridge=vmbr0,firewall=1",
        "local-lvm:vm-100-disk-0,size=32G",
        "UPID:pve1:00001234:00005678:66AABBCC:qmstart:100:root@pam:",
        "Permission check failed (/vms/102, VM.PowerMgmt)",
        "/nodes/pve1/qemu/100/config",
        "a description: with words",
        "mkdir -p /srv/data && ssh -p 22 host",
        "docker run -u 1000:1000 -p 80:80 mysql",
        "curl -s https://localhost:8006/",
        "echo done | tee log; passwd -S root",
        "guest_get: wrong arguments\n- password: unknown argument\n- token: is required",
    ],
)
def test_ordinary_pve_values_are_kept_as_they_are(text: str) -> None:
    assert redact_text(text) == text


def test_the_rest_of_a_property_string_is_kept() -> None:
    assert redact_text("password=x,server=1.2.3.4") == f"password={MASK},server=1.2.3.4"


def test_a_password_in_a_command_list_or_a_labelled_value_is_masked() -> None:
    redacted = redact(
        {
            "command": ["pveum", "--password", "gei1"],
            "pair": [{"name": "password", "value": "gei1"}],
        }
    )
    assert "gei1" not in json.dumps(redacted)


@pytest.mark.parametrize(
    "command",
    [
        ["mysql", "-pgei1"],
        ["/usr/bin/sshpass", "-p", "gei1", "ssh"],
        ["curl", "-u", "bob:gei1"],
        ["openssl", "rsa", "-passin", "pass:gei1"],
        ["env", "PGPASSWORD=gei1", "psql"],
    ],
)
def test_what_a_program_takes_as_a_secret_is_masked_in_a_list(command: list[str]) -> None:
    redacted = json.dumps(redact({"command": command}))
    assert "gei1" not in redacted
    assert all(word in redacted for word in command if "gei1" not in word)


def test_a_known_value_is_masked_in_names_and_values_even_across_the_cut() -> None:
    def known(text: str) -> str:
        return text.replace("Oh7oofie", MASK)

    long = "x" * (STRING_LIMIT - 4) + "Oh7oofie"
    redacted = json.dumps(redact({"a Oh7oofie": ["Oh7oofie", {"b": long}]}, known))
    assert "Oh7" not in redacted
    assert "Oh7" not in redact_text(long, known)


def test_a_secret_across_the_cut_is_masked_and_the_cut_is_said() -> None:
    text = "x" * (STRING_LIMIT - 20) + " " + PEM.format("", "") + "y" * 5000
    masked = redact_text(text)
    assert "MIIE" not in masked
    assert masked.endswith(f"[cut, {len(text):,} characters in all]")
    assert len(masked) < STRING_LIMIT + 60


def test_wide_and_deep_values_are_cut_and_it_is_said() -> None:
    deep: dict[str, object] = {}
    inner = deep
    for _ in range(50):
        inner["next"] = inner = {}
    redacted = redact(
        {"list": list(range(500)), "map": {str(n): n for n in range(500)}, "deep": deep}
    )
    assert redacted["list"][-1] == "[400 more left out]"
    assert redacted["map"]["…"] == "[400 more left out]"
    assert "too deep" in json.dumps(redacted["deep"])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), JSON))
def test_anything_becomes_json_and_redacting_twice_changes_nothing(
    arguments: dict[str, object],
) -> None:
    once = redact(arguments)
    assert json.dumps(redact(once)) == json.dumps(once)


@given(st.text(), st.text())
def test_a_grant_secret_never_survives(before: str, after: str) -> None:
    secret = "pvemcp_" + "Zq9-" * 10 + "abc"
    assert secret not in redact_text(f"{before} {secret} {after}")


@pytest.mark.parametrize(
    "piece",
    [
        "basic ",
        "password",
        "a-",
        "://a:",
        '"a',
        "-----BEGIN PRIVATE KEY",
        "=",
        "token=",
        "a_",
        ",a",
        "mysql -",
        "curl ",
        "echo a",
    ],
)
def test_a_hostile_string_of_a_megabyte_costs_milliseconds(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    redact_text(text)
    assert time.process_time() - started < 1.0  # about 0.02 s; quadratic would be minutes
