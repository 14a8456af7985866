"""Backups are closed to a passphrase or to a key, in the format of age.

age proves that nobody changed a file, and not who made it: anybody who knows the recipient can make
one. So the host also signs (`signing.py`), and the key file names who may have signed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pvemcp.errors import Denied, Invalid
from pvemcp.settings.files import refuse_open_file
from pvemcp.settings.values import RECIPIENT_FORMAT

FIRST_LINE = b"age-encryption.org/v1\n"
SHORTEST_PASSPHRASE = 12
KEY_FILE_LIMIT = 16 * 1024
_IDENTITY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}")
_SIGNER = re.compile(r"# *signed by: *([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who can open a backup: the public half of a key, `age1…`."""

    text: str


@dataclass(frozen=True, slots=True)
class Passphrase:
    """What both closes and opens a backup."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """The secret half of a key, `AGE-SECRET-KEY-1…`, and who signs what it opens."""

    text: str = field(repr=False)
    signer: str = ""
    """Public key of the host that signs, in hexadecimal; empty when the key file does not say."""


def seal(content: bytes, lock: Recipient | Passphrase) -> bytes:
    """Encrypt. Raises Invalid for a bad recipient or a short passphrase."""
    age = _age()
    if isinstance(lock, Passphrase):
        if len(lock.text) < SHORTEST_PASSPHRASE:
            raise Invalid(
                f"The passphrase has less than {SHORTEST_PASSPHRASE} characters.",
                hint="Whoever has the file can try passphrases without end: use a few words.",
            )
        return bytes(age.passphrase.encrypt(content, lock.text))
    try:
        return bytes(age.encrypt(content, [age.x25519.Recipient.from_str(lock.text)]))
    except age.RecipientError:
        raise Invalid(
            f"{lock.text} is not an age recipient.",
            hint="Make a key and its recipient: pvemcp backup init",
        ) from None


def unseal(sealed: bytes, key: Identity | Passphrase) -> bytes:
    """Decrypt. Raises Denied for a wrong key, Invalid for what is damaged or no backup."""
    if not sealed.startswith(FIRST_LINE):
        raise Invalid("This is not a backup: it does not begin as an age file does.")
    by_passphrase = sealed.startswith(FIRST_LINE + b"-> scrypt ")
    if by_passphrase != isinstance(key, Passphrase):
        needed = "passphrase" if by_passphrase else "key file"
        raise Denied(f"This backup is opened by a {needed}.", hint=_HOW[needed])
    age = _age()
    try:
        if isinstance(key, Passphrase):
            return bytes(age.passphrase.decrypt(sealed, key.text))
        return bytes(age.decrypt(sealed, [age.x25519.Identity.from_str(key.text)]))
    except age.IdentityError:
        raise Invalid("The key is damaged: it is not an age identity.") from None
    except age.DecryptError as exc:
        # The library has no classes for them: "No matching keys found", "Decryption failed".
        if re.search(r"matching|failed$", str(exc)):
            raise Denied(
                "The backup does not open with this key or passphrase.",
                hint="Use the key file of the host that made it; its name is in the file's name.",
            ) from None
        raise Invalid(
            "The backup is damaged: it was cut short or changed.", hint="Take another copy."
        ) from None


_HOW = {"passphrase": "Leave --key out, or use --passphrase-file.", "key file": "Use --key FILE."}


def new_identity() -> tuple[Identity, Recipient]:
    """Make a key."""
    made = _age().x25519.Identity.generate()
    return Identity(str(made)), Recipient(str(made.to_public()))


def key_file(identity: Identity, recipient: Recipient, host: str, made: datetime) -> str:
    """Return the text of a key file, which age itself reads, too."""
    return (
        f"# Key of the backups of {host}, made {made:%Y-%m-%d}. Keep it away from that host.\n"
        f"# recipient: {recipient.text}\n# signed by: {identity.signer}\n{identity.text}\n"
    )


def parse_key(text: str) -> Identity:
    """Read a key file, or the line of it that counts. Raises Invalid."""
    found = _IDENTITY.findall(text)
    if len(set(found)) != 1:
        raise Invalid(
            "There is no age identity in it." if not found else "It holds more than one identity.",
            hint="A key file has one line AGE-SECRET-KEY-1…, as pvemcp backup init showed it.",
        )
    signer = _SIGNER.search(text)
    return Identity(found[0], signer[1] if signer else "")


def read_key(path: Path) -> Identity:
    """Read a key file. Raises Misconfigured when others can read it, Invalid when it has none."""
    return parse_key(_read_secret(path))


def read_passphrase(path: Path) -> Passphrase:
    """Read the first line of a file. Raises Misconfigured when others can read it."""
    return Passphrase(_read_secret(path).split("\n")[0].rstrip("\r"))


def refuse_bad_recipient(text: str) -> None:
    """Raise Invalid for what is not a recipient, checksum included."""
    if not RECIPIENT_FORMAT.fullmatch(text):
        raise Invalid(f"{text} is not an age recipient.", hint="It begins with age1.")
    seal(b"", Recipient(text))


def _read_secret(path: Path) -> str:
    refuse_open_file("the key or passphrase file", path)
    try:
        with path.open("rb") as file:
            return file.read(KEY_FILE_LIMIT).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        raise Invalid(f"{path} cannot be read as text.", hint="Name the key file.") from None


def _age() -> Any:
    import pyrage  # type: ignore[import-untyped]  # noqa: PLC0415 - 9 MB that only backups need

    return pyrage
