"""Keep secrets out of what goes to a client: tool answers, output of commands, the log.

Two nets again, as in `redaction`: values that this service knows to be secret, however they are
written (base64, percent-encoded), and the shapes of `output_shapes`. Neither can find a secret
that looks like any other word, one that is cut into lines, or one that was encoded to hide it: this
protects honest callers, and is no wall against one who may run commands.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

from pvemcp.output_shapes import finders, hide, is_secret, suspects
from pvemcp.redaction import MASK
from pvemcp.unseen import clean

SHORTEST = 8
"""Characters of the shortest value that is masked as a known one: a shorter one could be a word."""
HELD = 8 * 1024
"""Characters of an unfinished line that `Masker` holds back."""
REFRESH_EVERY = 1.0
"""Seconds between two looks for new values."""
_URL_SAFE = str.maketrans("+/", "-_")
_ESCAPED = "surrogateescape"

_KIND = r"(?:[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?|OpenVPN Static key V1)"
_BEGIN = re.compile(rf"-{{4,5}} ?BEGIN {_KIND} ?-{{4,5}}")
_MARK = re.compile(rf"-{{4,5}} ?(?:BEGIN|(?P<end>END)) {_KIND} ?-{{4,5}}")
_LONGEST_BEGIN = 80
_BODY = re.compile(  # a line of a key, a short last one, one of its headers, an empty one
    r"[^\n]{0,200}?(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{32,}={0,2}[\s\"',\\]{0,40}"
    r"|[\s\d:|>+.\"'#-]{0,40}[A-Za-z0-9+/=]{0,76}[\s\"',\\]{0,40}"
    r"|\s{0,40}(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset):[^\n]*",
    re.ASCII,
)
_KEY_TEXT = re.compile(r"[A-Za-z0-9+/=]{20}")
_LITERAL = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?', re.DOTALL)


class Secrets:
    """The values that are known to be secret, and the masking of whole texts.

    `current` returns them (text, or the bytes of a key), `version` something that changes when
    they do; it is asked at most once a second. When either fails later on, the last known values
    stay: an answer must not go out unmasked because a database is locked.
    """

    def __init__(
        self,
        current: Callable[[], Iterable[str | bytes]],
        version: Callable[[], object] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._current = current
        self._version = version
        self._clock = clock
        self._next = clock() + REFRESH_EVERY
        self._seen = version()
        self._learn(self._values())

    def known(self, text: str) -> str:
        """Mask the known values alone."""
        self._refresh()
        return self._without(text) if self._holds_value(text) else text

    def mask(self, text: str) -> str:
        """Mask the known values, and whatever has the shape of a secret."""
        self._refresh()
        return masked_lines(self._without(text))[0] if self._suspects(text) else text

    def answer(self, text: str) -> str:
        """Mask the answer of a tool: JSON stays JSON, with its values masked one by one."""
        self._refresh()
        if not self._suspects(text):
            return text
        if text.startswith(("{", "[")) and _is_json(text):
            return self._masked_json(text)
        return masked_lines(self._without(text))[0]

    def _masked_json(self, text: str) -> str:
        name = ""

        def mask(found: re.Match[str]) -> str:
            nonlocal name
            literal = found[1]
            value = json.loads(literal, strict=False) if "\\" in literal else literal[1:-1]
            is_key, held_by = found[2] is not None, name
            name = value if is_key else ""
            if held_by and not is_key and is_secret(held_by, value):
                return f'"{MASK}"'
            if not self._suspects(value):
                return found[0]
            masked, _ = masked_lines(self._without(value))
            if masked == value:
                return found[0]
            return json.dumps(masked, ensure_ascii=False) + (found[2] or "")

        return _LITERAL.sub(mask, text)

    def _without(self, text: str) -> str:
        for needle in self._needles:
            if needle in text:
                text = text.replace(needle, MASK)
        return text

    def _refresh(self) -> None:
        if (now := self._clock()) < self._next:
            return
        self._next = now + REFRESH_EVERY
        with contextlib.suppress(Exception):
            if (version := self._version()) != self._seen:
                if (needles := self._values()) != self._needles:
                    self._learn(needles)
                self._seen = version

    def _values(self) -> tuple[str, ...]:
        forms = {form for value in self._current() for form in _forms(value)}
        return tuple(sorted(forms, key=lambda form: (-len(form), form)))

    def _learn(self, needles: tuple[str, ...]) -> None:
        self._needles = needles
        self._holds_value, self._suspects = finders(needles)
        self.longest = max(map(len, needles), default=0)
        """Characters of the longest form of a value."""


class Masker:
    """Masks output while it arrives, by whole lines.

    An unfinished line is held back until its end comes, it is longer than 8 KiB, or `flush` asks
    for it. Bytes that are not masked come out as they went in.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._held = b""
        self._inside = False
        """Inside a private key."""
        self._begun = ""
        """The end of what has been shown of a line that is not finished."""

    def feed(self, chunk: bytes) -> bytes:
        """Take output and return what may be shown by now."""
        if b"\n" not in chunk and len(self._held) + len(chunk) <= HELD:
            self._held += chunk
            return b""
        whole, newline, self._held = (self._held + chunk).rpartition(b"\n")
        shown = self._masked(whole + newline)
        return shown + self._overflow() if len(self._held) > HELD else shown

    def flush(self) -> bytes:
        """Return the unfinished line, masked: a person waits for it, or the output has ended."""
        held, self._held = self._held, b""
        return self._masked(held)

    def _masked(self, data: bytes) -> bytes:
        if not data:
            return b""
        text = self._secrets.known(data.decode("utf-8", _ESCAPED))
        resumed = self._begun != ""
        before, text = self._resumed(text) if resumed else ("", text)
        self._begun = "" if text.endswith("\n") else (self._begun + text)[-_LONGEST_BEGIN:]
        shown, self._inside = masked_lines(text, inside=self._inside, resumed=resumed)
        return (before + shown).encode("utf-8", _ESCAPED)

    def _resumed(self, text: str) -> tuple[str, str]:
        """Notice a private key that begins across a flush; return what to show, and what is left.

        Its first line has been shown in part by then, which tells nothing.
        """
        length = len(self._begun)
        begin = _BEGIN.search(self._begun + text[:_LONGEST_BEGIN])
        if begin is None or not begin.start() < length < begin.end():
            return "", text
        self._inside = True
        return MASK, text[begin.end() - length :]

    def _overflow(self) -> bytes:
        """Let the head of a line go that is too long, but nothing that the next bytes complete.

        A known value that is not complete yet begins among the last characters; and a name should
        not be parted from its value.
        """
        text = self._secrets.known(self._held.decode("utf-8", _ESCAPED))
        latest = max(0, len(text) - self._secrets.longest)
        blank = text.rfind(" ", max(0, latest - HELD // 2), latest)
        cut = blank if blank > 0 else latest
        self._held = text[cut:].encode("utf-8", _ESCAPED)
        return self._masked(text[:cut].encode("utf-8", _ESCAPED))


class LogMask(logging.Filter):
    """Masks what a handler of the process's own log writes, tracebacks too.

    No text in a record makes a line that looks like another record: a message is one line, and
    the lines of a traceback begin with a bar.
    """

    def __init__(self, mask: Callable[[str], str]) -> None:
        super().__init__()
        self._mask = mask
        self._formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place; none is dropped."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"a line of {record.name} that cannot be formatted: {record.msg!s}"
        record.msg, record.args = clean(self._mask(message)).replace("\n", "\\n"), None
        if record.exc_info:
            record.exc_text = self._barred(self._formatter.formatException(record.exc_info))
        if record.stack_info:
            record.stack_info = self._barred(record.stack_info)
        return True

    def _barred(self, text: str) -> str:
        return "\n".join(f"| {line}" for line in clean(self._mask(text)).split("\n"))


def masked_lines(text: str, *, inside: bool = False, resumed: bool = False) -> tuple[str, bool]:
    """Mask the shapes of a text.

    It may begin `inside` a private key, and within a line, `resumed`. The second result says
    whether it ends inside a key.
    """
    if not (inside or suspects(text)):
        return text, False
    lines = text.split("\n")
    shown: list[str] = []
    for number, line in enumerate(lines, 1):
        last = number == len(lines)
        if last and not line:
            break
        kept = line
        if inside or suspects(line):
            kept, inside = _without_keys(line, inside=inside, resumed=resumed and number == 1)
            kept = hide(kept)
        shown.append(kept if inside or last else f"{kept}\n")
    return "".join(shown), inside


def _without_keys(line: str, *, inside: bool, resumed: bool) -> tuple[str, bool]:
    """Return what a line shows outside private keys, and whether it ends inside one.

    The line break before what follows a key comes with it: a key is gone with all its lines.
    """
    shown, start = "", 0
    for mark in (*_MARK.finditer(line), None):
        piece = line[start : mark.start() if mark else None]
        ends = mark is not None and mark["end"] is not None
        whole = start == 0 and not resumed
        if inside and (ends or _belongs_to_key(piece, whole=whole)):
            inside = not ends
        else:  # outside a key, or the text only spoke of one
            shown += f"\n{piece}" if inside and whole else piece
            shown += mark[0] if mark and ends else ""
            inside = False
        if mark is not None and not ends:
            shown += "" if inside else MASK
            inside = True
        start = mark.end() if mark else 0
    return shown, inside


def _belongs_to_key(piece: str, *, whole: bool) -> bool:
    return bool(_BODY.fullmatch(piece)) or (not whole and bool(_KEY_TEXT.search(piece)))


def _forms(value: str | bytes) -> Iterator[str]:
    """How a value may be written, in base64 at each of its three alignments."""
    if len(value) < SHORTEST:
        return
    if isinstance(value, str):
        raw = value.encode("utf-8", _ESCAPED)
        yield from (value, quote(raw, safe=""))
        yield from (json.dumps(value, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False))
    else:
        raw = value
        yield from (raw.hex(), raw.hex().upper())
    for shift, first in enumerate((0, 2, 3)):
        coded = base64.b64encode(b"\0" * shift + raw).decode("ascii")
        whole = coded[first : (shift + len(raw)) * 8 // 6]
        yield from (whole, whole.translate(_URL_SAFE))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
