"""What a plan shows of arguments: secrets are masked, but nothing that could be a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.legible import WHOLE, legible, masked, unhidden
from pvemcp.masking import Secrets
from pvemcp.redaction import MASK

KEY = "A1b2" * 16
BEGIN, END = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"


def shown(text: str) -> str:
    """Return a command as a plan shows it."""
    secrets = Secrets(lambda: ["known-to-the-service"])
    return masked(legible(text), secrets.answer, known=secrets.known)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ('echo "TOKEN=" ; reboot ; echo ""', "; reboot ;"),
        ('TOKEN="$(reboot)" true', "$(reboot)"),
        ("PASSWORD=x|reboot", "x|reboot"),
        ("PASSWORD=`reboot`", "`reboot`"),
        ("TOKEN= reboot", "reboot"),
        ('env "TOKEN=" reboot ""', "reboot"),
        ("echo x; reboot | chpasswd", "reboot"),
        ("chpasswd <<< x; reboot", "reboot"),
        ("mysql -px;reboot", "reboot"),
        ("curl -u a:x;reboot", "reboot"),
        ("echo hi # -----BEGIN X PRIVATE KEY\nreboot", "\nreboot"),
        (f"true\n{BEGIN}\n{KEY}\nreboot\n{END}", "\nreboot\n"),
        (f"true\n{BEGIN}\n{KEY}\nreboot {KEY}\n{END}", "reboot "),
        ("echo " + "x" * 5000 + "\nreboot", "\nreboot"),
        ("https://a:$(reboot)@b", "$(reboot)"),
    ],
)
def test_nothing_that_could_be_a_command_is_masked(command: str, code: str) -> None:
    assert code in shown(command)


@pytest.mark.parametrize(
    "text",
    [
        "mysql -pS3cretValue -e x",
        "PASSWORD=S3cretValue true",
        "export API_TOKEN='S3cretValue'",
        'curl -H "X-Api-Key: S3cretValue" x',
        "sshpass -p S3cretValue ssh x",
        "echo 'a:S3cretValue' | chpasswd",
        "curl -u alice:S3cretValue https://x",
        f"cat > key <<E\n{BEGIN}\n{KEY}S3cretValue\n{KEY}\n{END}\nE",
    ],
)
def test_what_is_a_secret_alone_is_masked(text: str) -> None:
    assert "S3cretValue" not in shown(text)
    assert MASK in shown(text)


def test_what_the_service_knows_is_masked_whatever_stands_around_it() -> None:
    assert "known-to" not in shown('TOKEN="; known-to-the-service; "')


def test_names_of_secrets_hide_their_values_but_not_what_a_command_reads() -> None:
    given_ = {
        "cipassword": "x", "env": {"API_KEY": "y"}, "n": 1, "on": True,
        "command": ["pveum", "--password", "z", "--comment", "c"], "input-data": "reboot",
    }  # fmt: skip
    assert legible(given_) == {
        "cipassword": MASK, "env": {"API_KEY": MASK}, "n": 1, "on": True,
        "command": ["pveum", "--password", MASK, "--comment", "c"], "input-data": "reboot",
    }  # fmt: skip


def test_what_is_too_long_says_so() -> None:
    assert legible("x" * WHOLE) == "x" * WHOLE
    assert legible("x" * (WHOLE + 1)).endswith("… (only 64,000 of 64,001 characters)")


@given(st.text("aT=O;\n [redct]"), st.text("aT=O;\n [redct]"))
def test_a_mask_that_does_not_fit_its_text_hides_no_command(text: str, hidden: str) -> None:
    assert unhidden(text, hidden).count(";") == text.count(";")
