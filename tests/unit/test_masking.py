"""Masking: no secret in what goes out, and nothing else touched."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from itertools import count, pairwise
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pvemcp.access.grants import Grants
from pvemcp.access.held import held
from pvemcp.call import ApiToken, Effect
from pvemcp.errors import Unavailable
from pvemcp.masking import HELD, LogMask, Masker, Secrets
from pvemcp.redaction import MASK
from pvemcp.store import Store

TOKEN = "5f0c1b9e-7a52-4d0e-9b3a-c0ffee15dead"
UUID = "123e4567-e89b-12d3-a456-426614174000"
PASSPHRASE = 'pass/w"örd ü8'
KEY = bytes(range(32))
SECRETS = Secrets(lambda: [TOKEN, PASSPHRASE, KEY, "short"])
NONE = Secrets(list)

BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
PEM = f"-----BEGIN {{0}}PRIVATE KEY-----\n{BODY}\n{BODY}\nAb12==\n-----END {{0}}PRIVATE KEY-----"
PGP = (
    f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n{BODY}\n=Ab12\n"
    "-----END PGP PRIVATE KEY BLOCK-----"
)
UNFINISHED = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,0\n\n{BODY}"
HASH = "S3cr3t" * 15

MASKED = [
    (PEM.format(""), BODY),
    (PEM.format("OPENSSH "), "Ab12"),
    (PEM.format("RSA ").replace("\n", "\\n"), BODY),
    (PEM.format("EC ").replace("\n", "\n    "), "Ab12"),
    (f"cert.key: {PEM.format('ENCRYPTED ')}", BODY),
    (UNFINISHED, BODY),
    (PGP, "Ab12"),
    (f"Authorization: PVEAPIToken=root@pam!mcp={UUID}", UUID),
    (f"apitoken=PVEAPIToken=root@pam!mcp={UUID},host=10.0.0.1", UUID),
    (f"root@pam!mcp {UUID}", UUID),
    (f"│ value        │ {UUID} │", UUID),
    (f'{{"full-tokenid" : "root@pam!mcp", "value" : "{UUID}"}} made', UUID),
    ("PVE:root@pam:66AABBCC::abcdefghijklmnop+/=", "abcdefgh"),
    ("PVEVNC:66AABBCC::abcdefghijklmnop+/=", "abcdefgh"),
    ("Cookie: PVEAuthCookie=PVE%3Aroot@pam%3A66AABBCC", "66AABBCC"),
    ("CSRFPreventionToken: 66AABBCC:nq9+abcdefghijklm", "nq9"),
    ("Authorization: Bearer abc.def", "abc.def"),
    ("-H 'Authorization: Basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
    ("sent Bearer abcdefghij0123456789 to it", "abcdefghij"),
    ("the grant pvemcp_" + "Zq9-" * 10 + "abc", "Zq9-"),
    ("postgres://app:gei1Ahgh@db:5432/app", "gei1Ahgh"),
    ("redis://:gei1Ahgh@cache", "gei1Ahgh"),
    ("cipassword: gei1Ahgh", "gei1Ahgh"),
    (f"cipassword: $5$saltsalt${HASH[:43]}", HASH[:20]),
    ("cifs: nas\n\tserver 10.0.0.1\n\tusername bob\n\tpassword gei1 Ahgh", "gei1 Ahgh"),
    ("\tpassword hunter", "hunter"),
    ("gotify: alarm\n\ttoken AbCdEf.12\n", "AbCdEf"),
    ("server=10.0.0.1,password=gei1,Ahgh,share=backup", "Ahgh"),
    (f"root:$6$abc${HASH[:86]}:19000:0:99999:7:::", HASH[:20]),
    (f"root:$y$j9T$abcdefgh${HASH[:43]}:19000", HASH[:20]),
    (f"bob:$2b$12${HASH[:53]}", HASH[:20]),
    ("db: $argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$" + HASH[:43], HASH[:20]),
    ("DB_PASSWORD=correct horse battery", "battery"),
    ("export API_TOKEN='gei1 Ahgh'", "Ahgh"),
    ('declare -x MY_SECRET="gei1Ahgh"', "gei1Ahgh"),
    ("HOME=/root\x00GITHUB_TOKEN=gei1 Ahgh\x00PATH=/bin", "Ahgh"),
    ('  "DB_PASSWD=gei1 Ahgh",', "Ahgh"),
    ("Environment=AWS_SECRET_ACCESS_KEY=wJalr/XUtnFEMI A=b", "XUtnFEMI"),
    ("MY_PRIVATE_KEY=gei1Ahgh", "gei1Ahgh"),
    ("APP_CREDENTIALS=gei1Ahgh", "gei1Ahgh"),
    ("SMTP_PASS=gei1Ahgh", "gei1Ahgh"),
    ("X_API_KEY=gei1Ahgh", "gei1Ahgh"),
    ("DB_PASSWORD=12345", "12345"),
    ("PGPASSWORD=gei1Ahgh psql -h db", "gei1Ahgh"),
    ("DB_\x1b[01;31m\x1b[KPASSWORD\x1b[m\x1b[K=gei1Ahgh", "gei1Ahgh"),
    ("password = gei1Ahgh", "gei1Ahgh"),
    ("CF_Token=gei1Ahgh", "gei1Ahgh"),
    ('{"access_token": "gei1Ahgh"', "gei1Ahgh"),
    ("{'apiKey':'gei1Ahgh', 'a': 1", "gei1Ahgh"),
    (r"{\"password\":\"gei1Ahgh\"", "gei1Ahgh"),
    (r'"description":"x\nDB_PASSWORD=gei1 Ahgh\nY=1"', "Ahgh"),
    ("root password: hunter", "hunter"),
    ("root password: mypassword", "mypassword"),
    ("token=AbCdEfGhIjKlMnOpQrStUv", "AbCdEf"),
    ("**Password:** `hunter`", "hunter"),
    ("Password: gei1-Ahgh (changed in May)", "gei1"),
    ("token: abcdef0123456789", "abcdef"),
    ("| Password | gei1Ahgh |", "gei1Ahgh"),
    ("[wg]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "yAnz5"),
    ("PresharedKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "yAnz5"),
    ("\tkey = AQBvBvabcdefghijklmnopqrstuvwxyz012345==", "vabcdef"),
    ("machine example.org login bob password hunter", "hunter"),
    ("db.lan:5432:app:bob:gei1:Ahgh", "gei1:Ahgh"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    ("ghp_" + "a1B2" * 9, "a1B2"),
    ("github_pat_" + "a1B2_" * 9, "a1B2"),
    ("xoxb-123456789012-abcdefABCDEF0123456789", "abcdefABCDEF"),
    ("sk-proj-" + "a1B2" * 9, "a1B2"),
    ("glpat-a1B2c3D4e5F6g7H8i9J0", "a1B2c3D4"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r_wW", "dBjft"),
    ("mysql -uroot -pgei1Ahgh app", "gei1Ahgh"),
    ("sshpass -p gei1Ahgh ssh host", "gei1Ahgh"),
    ("curl -s -u bob:gei1Ahgh https://x", "gei1Ahgh"),
    ("pveum user add --password gei1Ahgh", "gei1Ahgh"),
    ("echo 'root:gei1Ahgh' | chpasswd", "gei1Ahgh"),
    ("openssl rsa -in k -passin pass:gei1Ahgh", "gei1Ahgh"),
    ('curl -H "X-Api-Key: gei1Ahgh" https://x', "gei1Ahgh"),
    ("requirepass gei1Ahgh", "gei1Ahgh"),
]

KEPT = [
    "password: string, optional",
    "  password (string, optional): The password. At least 5 characters.",
    "password: string",
    "- password: unknown argument\n- token: is required",
    "Password authentication is disabled",
    "password requisite pam_pwquality.so retry=3",
    "passwd: files systemd",
    "tokens=5",
    "max_token=4096 secret=0",
    "key: value",
    "keyboard: de",
    "PWD=/root\nOLDPWD=/tmp\nPASSWORD_FILE=/run/secrets/db\nTOKEN_ID=root@pam!mcp",
    "PASSWORD=$DB_PASSWORD\nTOKEN=${TOKEN}\nSECRET=$(cat file)",
    "password=<string> token=<token>",
    "api-token=PVEAPIToken=USER@REALM!NAME=UUID",
    "return replace(settings, pve_token_secret=secret)",
    "if token == expected or secret != other:",
    "token = request.headers.get('x')",
    "login(name, password=new_password, token=self.token)",
    'NAME = "DB_PASSWORD"',
    "LoadCredential=sysctl.extra",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPnFDfTFdbmDsWbXYG4s7Xqj5uJ2UQ0dxkqrB2Nf8Vo root@pve",
    "sshkeys: ssh-rsa%20AAAAB3NzaC1yc2EAAAADAQABAAABgQC7%2Bfoo%20bob%40laptop%0A",
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG\n-----END CERTIFICATE-----",
    f"smbios1: uuid={UUID}",
    f"vmgenid: {UUID}",
    f'{{"key":"vmgenid","value":"{UUID}"}}',
    "digest: 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
    "AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89",
    "SHA256:uNiVztksCsDhcc0u9e8BrslPF9wXz6Y2nOQh6T4JnGM",
    "encryption-key 1",
    "local-lvm:vm-100-disk-0,size=32G,ssd=1",
    "net0: virtio=AA:BB:CC:DD:EE:FF,bridge=vmbr0,firewall=1",
    "UPID:pve1:00001234:00005678:66AABBCC:qmstart:100:root@pam:",
    "token:root@pam!mcp:0:1::",
    "PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "https://localhost:8006/api2/json",
    "https://pve1:8006,https://pve2:8006 root@pam",
    "root:x:0:0:root:/root:/bin/bash",
    "main.py:12:34:error:unexpected",
    "2001:5432:5678:9abc:def0:1:2:3",
    "cost is $5 and $1$ more; awk '{print $1$2}'",
    "docker run -u 1000:1000 -p 8080:80 image",
    "mkdir -p /srv/data; ssh -p 22 host",
    "risk-averse task-1234567890123456789012",
    "see pvemcp_state_dir and PVEMCP_PVE_TOKEN_SECRET_FILE",
    "bearer authentication, basic authentication",
    "Europe/Berlin Asia/Tokyo",
    '{"password":{"type":"string","optional":1},"description":"The secret: a password."}',
    f"\x1b[32mgreen\x1b[0m\r\x1b[2K {'=' * 60}> 100% caf\xe9",
]


@pytest.mark.parametrize(("text", "hidden"), MASKED)
def test_a_secret_does_not_come_out_whatever_stands_around_it(text: str, hidden: str) -> None:
    for whole in (text, f"before\n{text}\nafter", json.dumps({"a": [text]}, ensure_ascii=False)):
        masked = NONE.answer(whole)
        assert hidden not in masked
        assert MASK in masked
        if whole.startswith("before"):
            assert masked.startswith("before\n")
            assert masked.endswith("\nafter") or text is UNFINISHED


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_secret_is_not_touched(text: str) -> None:
    assert NONE.answer(text) == text
    assert NONE.answer(f"a line\n{text}\n") == f"a line\n{text}\n"
    inside = json.dumps({"name": text}, ensure_ascii=False)
    assert NONE.answer(inside) == inside


def written(value: str) -> list[str]:
    """Return the ways to write a value that are recognised, within other text."""
    raw = value.encode()
    coded = [base64.b64encode(b"x" * n + raw + b"yz").decode() for n in range(3)]
    plain = json.dumps(value, ensure_ascii=False)
    return [f"a {value} b", quote(value, safe=""), json.dumps(value), plain, *coded]


@pytest.mark.parametrize("value", [TOKEN, PASSPHRASE])
def test_a_known_value_is_masked_in_every_way_of_writing_it(value: str) -> None:
    for text in written(value):
        masked = SECRETS.mask(f"x {text} y")
        assert MASK in masked
        assert len(masked) <= len(MASK) + 14, masked
        assert SECRETS.known(text) == SECRETS.answer(text)


def test_a_raw_key_is_masked_in_hex_and_base64() -> None:
    for text in (KEY.hex(), KEY.hex().upper(), base64.b64encode(KEY).decode()):
        assert len(SECRETS.mask(text)) <= len(MASK) + 4


def test_a_thousand_values_are_known_too() -> None:
    many = Secrets(lambda: [f"{number:04}-secret-of-a-grant" for number in range(1000)])
    assert many.known("0999-secret-of-a-grant") == MASK
    assert many.mask("x 0000-secret-of-a-grant") == f"x {MASK}"


def test_a_short_value_is_a_word_and_not_masked() -> None:
    assert SECRETS.mask("a short text") == "a short text"


def test_json_stays_json_and_only_the_secrets_in_it_change() -> None:
    answer = {
        "password": 'q"u\\ote',
        "n": 1.50,
        "list": [TOKEN, f"a\n{PEM.format('')}\nb", None],
        "notes": f'{PASSPHRASE}\nDB_TOKEN=gei1 "Ahgh"\n',
        TOKEN: "ü",
        "token": {"password": "required", "secret": ""},
    }
    for text in (json.dumps(answer), json.dumps(answer, indent=1, ensure_ascii=False)):
        assert json.loads(SECRETS.answer(text)) == {
            "password": MASK,
            "n": 1.5,
            "list": [MASK, f"a\n{MASK}\nb", None],
            "notes": f"{MASK}\nDB_TOKEN={MASK}\n",
            MASK: "ü",
            "token": {"password": "required", "secret": ""},
        }


def test_a_text_that_only_looks_like_json_is_masked_as_text() -> None:
    assert SECRETS.answer(f"[client]\npassword = {TOKEN}\n") == f"[client]\npassword = {MASK}\n"


PIECES = [
    TOKEN, f"PASSWORD={TOKEN}", "DB_PASSWORD=a b c", "password: hunter", "ordinary text", "é", "ü—",
    "\n", "\n", "\n", " ", "\r\n", "\x1b[0m", "=", "token: ", "{", '"', "\\n", "----", "x" * 40,
    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", BODY, "Ab12==", "$ ", "key",
    base64.b64encode(TOKEN.encode()).decode(),
]  # fmt: skip


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=25).map("".join),
    st.lists(st.integers(0, 10_000), max_size=12),
)
@example(f"a\n{PEM.format('RSA ')}\nb", list(range(300)))
def test_however_output_is_cut_it_is_masked_as_if_it_had_come_at_once(
    text: str, places: list[int]
) -> None:
    data = text.encode("utf-8", "surrogatepass")
    text = data.decode("utf-8", "surrogateescape")
    masker = Masker(SECRETS)
    shown = b"".join([*map(masker.feed, cut(data, places)), masker.flush()])
    assert shown.decode("utf-8", "surrogateescape") == SECRETS.mask(text)
    assert TOKEN not in SECRETS.mask(text)
    assert masker.flush() == b""


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_bytes_that_hold_no_secret_come_out_as_they_went_in(data: bytes, places: list[int]) -> None:
    masker = Masker(NONE)
    shown = b"".join([*map(masker.feed, cut(data, places)), masker.flush()])
    assert shown == data or MASK.encode() in shown


@given(st.integers(0, 3 * HELD), st.integers(1, 3000), st.booleans())
def test_a_known_value_in_an_endless_line_never_comes_out(at: int, size: int, blank: bool) -> None:
    data = (b"x " if blank else b"xy") * (2 * HELD)
    data = data[:at] + TOKEN.encode() + data[at:]
    masker = Masker(SECRETS)
    shown = b""
    for start in range(0, len(data), size):
        shown += masker.feed(data[start : start + size])
        assert start - len(shown) <= 2 * HELD + size
    shown += masker.flush()
    assert shown == data.replace(TOKEN.encode(), MASK.encode())


@pytest.mark.parametrize("padding", [0, HELD - 700, HELD - 100])
def test_a_private_key_in_an_endless_line_never_comes_out(padding: int) -> None:
    key = PEM.format("RSA ").replace(BODY, f"{BODY}\n" * 20).replace("\n", "\\n")
    data = f'{{"x":"{"x " * (padding // 2)}","key":"{key}","y":"{"y " * HELD}"}}\n'.encode()
    masker = Masker(SECRETS)
    shown = b"".join(masker.feed(data[at : at + 100]) for at in range(0, len(data), 100))
    assert BODY[:20].encode() not in shown
    assert MASK.encode() in shown


def test_a_line_that_somebody_waits_for_is_shown_once() -> None:
    masker = Masker(SECRETS)
    assert masker.feed(b"one\nPass") == b"one\n"
    assert masker.feed(b"word: ") == b""
    assert masker.flush() == b"Password: "
    assert masker.flush() == b""
    assert masker.feed(b"\ndone\n") == b"\ndone\n"


def test_a_private_key_is_hidden_however_often_it_is_flushed() -> None:
    masker = Masker(SECRETS)
    shown = b""
    for byte in PEM.format("OPENSSH ").encode() + b"\n$ ":
        shown += masker.feed(bytes([byte])) + masker.flush()
    assert b"MII" not in shown
    assert b"Ab12" not in shown
    assert shown.endswith(b"\n$ ")


def test_a_text_that_only_speaks_of_a_private_key_goes_on_after_it() -> None:
    text = "It begins with -----BEGIN PRIVATE KEY----- and more.\nThen come lines.\n"
    assert NONE.mask(text) == f"It begins with {MASK} and more.\nThen come lines.\n"
    assert NONE.mask("-----BEGIN PRIVATE KEY-----\nNot a key.\n") == f"{MASK}\nNot a key.\n"


def test_new_values_are_known_within_a_second_and_a_failure_keeps_the_old_ones() -> None:
    values, now, version = ["first-secret"], [0.0], [1]

    def current() -> list[str]:
        if not values:
            raise Unavailable("locked")
        return values

    secrets = Secrets(current, lambda: version[0], clock=lambda: now[0])
    values.append("second-secret")
    version[0] += 1
    assert secrets.mask("first-secret second-secret") == f"{MASK} second-secret"
    now[0] += 1.0
    assert secrets.mask("first-secret second-secret") == f"{MASK} {MASK}"
    values.clear()
    version[0] += 1
    now[0] += 1.0
    assert secrets.mask("first-secret second-secret") == f"{MASK} {MASK}"


def test_what_the_database_holds_is_known(tmp_path: Path) -> None:
    with Store(tmp_path) as store, Store(tmp_path) as other:
        secrets = held(store, "configured-secret")
        secrets._clock = count(1e9).__next__  # always the next second
        assert secrets.mask("configured-secret") == MASK
        key = store.key("a")
        assert secrets.mask(key.hex()) == MASK
        token = ApiToken("a@pve!b", TOKEN)
        Grants(other).create("laptop", Effect.READ, token=token)
        assert secrets.mask(f"it is {TOKEN}") == f"it is {MASK}"


def test_the_log_shows_no_known_value_not_even_in_a_traceback() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(LogMask(SECRETS.mask))
    log = logging.Logger("test")  # noqa: LOG001 - one of its own
    log.addHandler(handler)
    log.warning("%s and %d", TOKEN, 1)
    log.warning("%d", TOKEN)
    try:
        raise ValueError(TOKEN)
    except ValueError:
        log.exception("failed", stack_info=True)
    assert TOKEN not in stream.getvalue()
    assert f"{MASK} and 1\n" in stream.getvalue()
    assert f"ValueError: {MASK}" in stream.getvalue()


@pytest.mark.parametrize(
    "piece",
    ["password", "password=", "token: ", "a-", "://a:", '"a', "-----BEGIN PRIVATE KEY-----", "=",
     "curl ", "mysql -", "eyJ", "echo a", "login a password", "$6$", "A_PASSWORD", '"password":"'],
)  # fmt: skip
def test_a_hostile_line_costs_no_more_than_its_length(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    SECRETS.answer(text)
    assert time.process_time() - started < 2.0  # about 0.1 s; quadratic would be minutes
