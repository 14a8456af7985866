"""What a secret looks like in output: the shapes that are masked wherever they stand in a line.

Output is everything that a host, a guest or PVE says: tables, configurations, descriptions, source
code. So these shapes are narrower than those of `redaction`: a name must be followed by what can
only be its value, and a value that says of itself that it is none ("string", "<token>", "$VAR", a
small number) stays. Public keys, fingerprints, digests and UUIDs are no secrets.

Every pattern stays within one line and is linear in it. Most text holds none of them, which must
cost next to nothing to see. `re` and `in` have no fast search for many words at once; the regex
engine inside pydantic has (3 us for 1.5 KB instead of 50), so it looks first: see `finder`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from pydantic_core import SchemaValidator, core_schema

from pvemcp.redaction import COMMANDS, MASK

__all__ = ["finders", "hide", "is_secret", "suspects"]

Replacement = str | Callable[[re.Match[str]], str]
Shape = tuple[tuple[str, ...], re.Pattern[str], Replacement]
"""Words of which the line holds one, in lower case; the pattern; what stands there instead."""

_PW = r"passw(?:or)?d|passphrase|passwort|passcode"
_OPAQUE = (
    r"secret|(?<!pveapi)token|credentials?|(?<![a-z])pass|(?<![a-z])psk"
    r"|(?:api|private|preshared|secret|access|account|auth|signing|master)[ _-]?key"
)
_NAME = rf"(?:{_PW}|{_OPAQUE})(?![a-z])[\w.-]{{0,40}}"
_ENV = (
    r"[A-Z0-9_]{0,60}(?:PASSWORD|PASSWD|PASSPHRASE|PASS|SECRET|TOKEN|CREDENTIAL|API_?KEY"
    r"|PRIVATE_?KEY|ACCESS_?KEY)[A-Z0-9_]{0,40}"
)
_ANSI = r"(?:\x1b\[[0-9;]{0,12}[A-Za-z]){0,4}"
_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_QUOTE = r"(?P<quote>\\?[\"'])"
_QUOTED = r"(?P<quoted>(?:\\.|[^\\])*?)(?=(?P=quote)|$)"
_BARE = r"(?P<bare>(?:[^\s\"'\\;&,\x00-\x1f]|,(?![\w-]+=)|\\(?![nrtu\"']))+)"

_ABOUT = re.compile(  # PASSWORD_FILE and TOKEN_ID are not secrets themselves
    r"(?i)[_.-](?:file|path|dir|ur[il]|name|id|type|ttl|len|length|min|max|count|limit|age|days|"
    r"expir[a-z]*|lifetime|timeout|user|host|port|policy|enabled|required|auth[a-z]*|"
    r"prefix|var|variable|env|header|field|param|format|regex|label)\b"
)
_HARMLESS = re.compile(
    r"""(?ix)
    [*.x…•-]+ | <[a-z][\w ,.-]*>?.* | \[[a-z -]*\]? | \{[\w .|{}-]* | \([\w ,.]*\)?
    | %(?:[a-z]|\(\w+\)s|\{\w+\}|\w+%) | \$(?:\{.*|\(.*|[A-Z_][A-Z0-9_]*|[0-9@])
    | [a-z_][a-z_.]{3,}[(\[][a-z_.,]*[)\]]?[),;:{]*
    | (?-i:[A-Z0-9_]*(?:PASSW|TOKEN|SECRET|KEY)[A-Z0-9_]*)
    | (?:your|the)[_-][a-z_-]+
    | (?:the|an?|your|is|was|not|in|from|and|or|with|for|of|to|must|may|can|will)
    | p(?:ve|bs|mg)apitoken=.*
    | string|str|text|int(?:eger)?|bool(?:ean)?|object|array|number|float|bytes|char
    | required|optional|default|unset|set|empty|none|null|nil|undefined|missing|unknown|invalid
    | incorrect|wrong|expired|changed|unchanged|hidden|redacted|masked|disabled|enabled|ok|failed
    | true|false|yes|no|on|off|never|always|auto|prompt|plain|ask|stdin|file|env|files|compat|sss
    | systemd|ldap|nis|db|winbind|value|secret|token|passw(?:or)?d|passphrase|pass|pw|key
    | api[_-]?key|credentials?|uuid|todo|changed?me
    """
)
_CLOSING = ",;.:>)]}`\"'"
"""What may follow a value in running text."""
_STRONG = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z]).{8,}|(?=.*[a-z])(?=.*[A-Z])[\w+=.~-]{20,}")
_MIXED = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])(?=.*[A-Z!-/:-@\[-`{-~]).{8,}")
_NAME_IN_CODE = re.compile(r"[A-Za-z_.:()\[\]{}*|-]{1,40}|\w{1,40}\[\d\]")
_PASS_IN_CODE = re.compile(r"[a-z_.]*[_.]passw[a-z_.]*")
_RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])[A-Za-z-]{20,}")
_PATH = re.compile(r"(?:~|\.{1,2})?/(?:[a-z][\w.@-]*/)+[\w.@-]+", re.ASCII)
_NOT_A_WORD = re.compile(r"[^a-z]")
_COMMAND_FOLLOWS = re.compile(r"\s(?:--?\w|[|&;<>]|\S*/)|,[\w-]+=")
_PASS_ALONE = re.compile(rf"(?i)(?:{_PW})$")
_SECRET_NAME = re.compile(rf"(?i)(?P<name>{_NAME})$")


def is_secret(name: str, value: str) -> bool:
    """Tell whether a mapping's value is secret, going by its key."""
    found = _SECRET_NAME.search(name)
    return found is not None and bool(value) and not _kept(found["name"], value)


def _kept(name: str, value: str) -> bool:
    """Whether the value of an assignment says of itself, or its name does, that it is no secret."""
    value = value.rstrip(_CLOSING) or value
    if _HARMLESS.fullmatch(value) or _ABOUT.search(name):
        return True
    if _PASS_ALONE.search(name):
        return False
    return (value.isdigit() and len(value) < 10) or _PATH.fullmatch(value) is not None


def _spoken(name: str, value: str) -> bool:
    """Whether an unquoted value is a name in a program: `token=token`, `LoadCredential=a.b`."""
    value = value.rstrip(_CLOSING)
    if _PASS_ALONE.search(name):
        return not value or _PASS_IN_CODE.fullmatch(value) is not None
    in_code = not name.isupper() and _NAME_IN_CODE.fullmatch(value)
    return len(value) < 4 or (bool(in_code) and not _RANDOM.fullmatch(value))


def _assigned(found: re.Match[str]) -> str:
    quoted = found["quoted"]
    value = found["bare"] if quoted is None else quoted
    if not value or _kept(found["name"], value):
        return found[0]
    if quoted is None and _spoken(found["name"], value):
        return found[0]
    return found["head"] + (MASK if quoted is None else f"{found['quote']}{MASK}")


def _env_line(found: re.Match[str]) -> str:
    """`env` writes values without quotes: all of the line is the value, unless it is a command."""
    value = found["value"].rstrip()
    if _kept(found["name"], value) or _COMMAND_FOLLOWS.search(value):
        return found[0]
    return found["head"] + MASK + found["value"][len(value) :]


def _said(found: re.Match[str]) -> str:
    """`password: VALUE`, where VALUE must not be the first word of a sentence."""
    name, value = found["name"], found["value"]
    if _kept(name, value):
        return found[0]
    last = not found.string[found.end() :].strip("\"'`*,; \t\r")
    password = _PASS_ALONE.search(name) is not None
    if password and (last or _MIXED.fullmatch(value)):
        return found["head"] + MASK
    spaced = found["gap"] != ""
    return found["head"] + MASK if last and spaced and _STRONG.fullmatch(value) else found[0]


def _telling(found: re.Match[str]) -> str:
    """A value after a blank is one only when it is no ordinary word."""
    value = found["value"]
    plain = _HARMLESS.fullmatch(value) or not _NOT_A_WORD.search(value)
    return found[0] if plain else found["head"] + MASK


def _word(found: re.Match[str]) -> str:
    value = found["value"].rstrip(_CLOSING)
    return found[0] if not value or _HARMLESS.fullmatch(value) else found["head"] + MASK


def _shape(words: str, pattern: str, replacement: Replacement) -> Shape:
    return tuple(words.split()), re.compile(pattern, re.ASCII), replacement


_NAMES = "pass secret token key cred"

_SHAPES: tuple[Shape, ...] = (
    _shape(
        "token",
        r"(?i)(?P<head>\bP(?:VE|BS|MG)APIToken[=:]\s?[^\s=:]{1,200}[=:])(?P<value>[^\s,;\"'\\]+)",
        _word,
    ),
    _shape("auth", r"(?i)\b(P(?:VE|BS|MG)AuthCookie(?:=|%3D))[^\s;\"'\\]{12,}", rf"\1{MASK}"),
    _shape(
        "auth",
        r"(?i)(?P<head>authorization\\?[\"']?\s?[:=]\s?\\?[\"']?(?:bearer|basic|digest|token)\s+)"
        r"(?P<value>[^\s\"',;\\]+)",
        _word,
    ),
    _shape("pvemcp_", r"\bpvemcp_[A-Za-z0-9_-]{32,}", MASK),
    _shape("glpat-", r"\bglpat-[A-Za-z0-9_.-]{20,}", MASK),
    _shape(
        "@",
        r"(?P<head>://[^\s/:@\"'<>]{0,100}:)(?P<value>(?!\d{1,5}[,;)\]])[^\s/@?#\"'<>]{1,200})(?=@)",
        _word,
    ),
    _shape(  # crypt(5), and what databases and directories make of it
        "$",
        r"\$(?:(?:1|apr1|5|6|md5)\$(?:rounds=\d{1,9}\$)?[./A-Za-z0-9]{0,16}\$[./A-Za-z0-9]{20,}"
        r"|2[abxy]\$\d\d\$[./A-Za-z0-9]{50,}|g?y\$[./A-Za-z0-9]{1,12}\$[./A-Za-z0-9]{1,90}\$"
        r"[./A-Za-z0-9]{20,}|7\$[./A-Za-z0-9]{10,90}\$[./A-Za-z0-9]{20,}"
        r"|argon2i?d?\$[^\s\"':]{20,300})",
        MASK,
    ),
    _shape("!", rf"(![A-Za-z][\w.-]{{0,100}}[ \t=:]\s?){_UUID}", rf"\1{MASK}"),
    _shape("token", rf"(full-tokenid.{{0,300}}?\bvalue\b\W{{1,12}}){_UUID}", rf"\1{MASK}"),
    _shape("│", rf"^([│|]\s{{0,40}}value\s{{0,40}}[│|]\s{{0,40}}){_UUID}", rf"\1{MASK}"),
    _shape(
        _NAMES,
        r"(?P<head>^\s{0,40}(?:(?:export|readonly|local|setenv|(?:declare|typeset) -\w+)\s+"
        r"|- |# ?)?"
        rf"(?P<name>{_ENV})=)(?P<value>[^\s\"'\x00][^\r\n\x00]*)",
        _env_line,
    ),
    _shape(
        _NAMES,
        rf"(?P<head>(?:\x00|\\n|\\u0000)(?P<name>{_ENV})=)(?P<value>[^\r\n\x00\"\\]+)",
        _env_line,
    ),
    _shape(
        _NAMES,
        rf"(?P<head>\\?[\"'](?P<name>{_ENV})=)(?P<value>[^\s\"'\\][^\"'\\]*)",
        _env_line,
    ),
    _shape(
        _NAMES,
        rf"(?i)(?P<head>(?P<name>{_NAME})[ \t]{{0,8}}{_ANSI}"
        rf"(?<![!<>=]):?=(?![=~>])[ \t]{{0,8}}{_ANSI})"
        rf"(?:{_QUOTE}{_QUOTED}|{_BARE})",
        _assigned,
    ),
    _shape(
        _NAMES,
        rf"(?i)(?P<head>(?P<mark>\\?[\"'])[\w .-]{{0,60}}(?P<name>{_NAME})(?P=mark)\s{{0,8}}:"
        rf"\s{{0,8}}){_QUOTE}{_QUOTED}(?P<bare>)",
        _assigned,
    ),
    _shape(
        "pass secret token key",
        rf"(?i)(?P<head>(?P<name>{_NAME})[`*]{{0,4}}[ \t]?(?::|%3A)[`*]{{0,3}}"
        r"(?P<gap>[ \t]{0,40})[\"'`]?)"
        r"(?P<value>[^\s\"'`]+)",
        _said,
    ),
    _shape(
        _NAMES,
        rf"(?i)(?P<head>[|│][ \t]{{1,40}}(?P<name>{_NAME})[ \t]{{0,40}}[|│][ \t]{{1,40}})"
        r"(?P<value>[^\s|│]+)",
        _telling,
    ),
    # A section of PVE's files: storage.cfg, domains.cfg, notifications.cfg, status.cfg.
    _shape(
        _NAMES,
        r"(?P<head>^\t(?:password|token|secret|client-key|psk)[ \t]{1,8})(?P<value>\S.*)",
        _word,
    ),
    _shape("pass", r"(?P<head>^\s{1,40}password\s{1,8})(?P<value>\S+)(?=\s*$)", _telling),
    _shape(
        "pass",
        r"(?P<head>\blogin\s{1,8}(?!and\b|or\b|name\b|with)\S{1,100}\s{1,8}password\s{1,8})"
        r"(?P<value>\S+)",
        _word,
    ),
    _shape("pass", r"(?P<head>^\s{0,40}requirepass\s{1,8})(?P<value>\S+)", _word),
    _shape(  # .pgpass
        ":54 :*:",
        r"^([A-Za-z*][\w.*-]{0,100}:(?:54\d\d|\*):[^:\s]{1,64}:[^:\s]{1,64}:)\S+",
        rf"\1{MASK}",
    ),
    _shape(
        "--",
        r"(?i)(?P<head>\s--(?:[a-z]{1,20}-)?(?:password|passwd|passphrase|pass|secret|token)[ \t]+"
        r"[\"']?)(?P<value>[^\s\"'-][^\s\"']*)",
        _telling,
    ),
    *((anchors, pattern, rf"\g<head>{MASK}") for anchors, pattern in COMMANDS),
    _shape(
        "::",
        r"\b(?:PVE|PBS|PMG)(?:VNC|TERM)?:(?:[^\s:\"']{1,100}:)?[0-9A-F]{8}::[A-Za-z0-9+/=]{16,}",
        MASK,
    ),
    _shape(
        "bearer",
        r"(?i)\b(bearer\s+)(?=[a-z._~+/=-]{0,100}[0-9])[A-Za-z0-9._~+/=-]{16,}",
        rf"\1{MASK}",
    ),
    _shape("eyj", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,3}", MASK),
    _shape("akia asia", r"\bA[KS]IA[0-9A-Z]{16}\b", MASK),
    _shape(
        "gh github_pat_", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})", MASK
    ),
    _shape("xox xapp-", r"\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}", MASK),
    _shape(
        "sk- k_live_ k_test_",
        r"(?<![\w-])(?:sk-|[sr]k_(?:live|test)_)(?=[A-Za-z_-]{0,100}[0-9])[A-Za-z0-9_-]{20,}",
        MASK,
    ),
    _shape("aiza", r"\bAIza[A-Za-z0-9_-]{35}", MASK),
    _shape("npm_ hvs.", r"\b(?:npm_[A-Za-z0-9]{36}|hvs\.[A-Za-z0-9_-]{24,})", MASK),
    _shape("tskey-", r"\btskey-[a-z]{2,12}-[A-Za-z0-9-]{16,}", MASK),
    _shape("age-s", r"\bAGE-SECRET-KEY-1[0-9A-Z]{50,}", MASK),
    _shape("hooks.s", r"(\bhooks\.slack\.com/services/)[A-Za-z0-9/]{20,}", rf"\1{MASK}"),
    # Ceph: type 1, a time, a length, 16 bytes.
    _shape("==", r"(?<![A-Za-z0-9+/=])AQ[A-Za-z0-9+/]{36}==(?![A-Za-z0-9+/=])", MASK),
)
_FIRST_SIGNS = """
passw passp passc pass= pass: pass␣ pass_ pass" secret token credential authori authcookie bearer
apikey api_key api-key api␣key privatekey private_key private-key private␣key presharedkey
preshared_key accesskey access_key access-key accountkey account_key authkey auth_key auth-key
signing_key signing-key master_key master-key static␣key -key: psk mysql mariadb curl ://
$1$ $5$ $6$ $7$ $y$ $gy$ $2a$ $2b$ $2x$ $2y$ $apr1$ $md5$ $argon @pam! @pve! │␣value
:5432: :5433: :*: pve: pvevnc: pbs: pmg: pvemcp_ glpat- eyj akia asia ghp_ gho_ ghu_ ghs_ ghr_
github_pat_ xox xapp- sk-proj- sk-ant- sk-svc ␣sk- =sk- :sk- "sk- 'sk- k_live_ k_test_ aiza npm_
hvs. tskey- age-secret hooks.slack ==
"""


_MOST = 200
"""Words that the engine finds at once without getting slow."""


def literally(words: Iterable[str]) -> str:
    """Return the pattern of any of the words, in the syntax that `finder` takes."""
    return "|".join("".join(f"\\x{{{ord(char):x}}}" for char in word) for word in words)


def finder(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a pattern of Rust's regex syntax is found in a text."""
    schema = core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")
    found = SchemaValidator(schema).isinstance_python

    def find(text: str) -> bool:
        # A lone surrogate is no valid text to it, and would count as not found.
        return found(text if text.isascii() else text.encode("utf-8", "replace").decode())

    return find


def finders(words: Sequence[str]) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Return what finds any of the words, and what finds any of them or a sign of a shape."""
    begins = [word[:64].encode("utf-8", "replace").decode() for word in words]
    parts = [literally(begins[at : at + _MOST]) for at in range(0, len(begins), _MOST)]
    first, *more = parts or [r"[^\s\S]"]
    others = [finder(part) for part in more]
    first_word, first_sign = finder(first), finder(f"{GATE}|{first}")
    if not others:
        return first_word, first_sign
    return (
        lambda text: first_word(text) or any(find(text) for find in others),
        lambda text: first_sign(text) or any(find(text) for find in others),
    )


_SIGNS = [word.replace("␣", " ") for word in _FIRST_SIGNS.split()]
GATE = rf"(?i:^sk-|\nsk-|{literally(_SIGNS)})"
"""Finds every text that a shape could match, and some more. Words alone keep it that fast."""
suspects = finder(GATE)


def hide(line: str) -> str:
    """Mask the secrets of one line."""
    lowered = line.lower()
    for anchors, pattern, replacement in _SHAPES:
        for anchor in anchors:
            if anchor in lowered:
                line = pattern.sub(replacement, line)
                break
    return line
