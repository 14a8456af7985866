"""The mirror: shows the service a few files of /etc/pve that only root may read.

Every two seconds it looks at a fixed list, and copies what has changed into a folder in /run that
the service's group can read and only root can write. Each copy appears whole, by a rename. A
certificate and its key are one file (tls.crt and tls.key are two names of it), so that no reader
gets halves of two pairs. What cannot be read, is not whole or does not fit keeps its last copy.

It opens no socket but systemd's own and starts no process. Standard library only, nothing of
pvemcp.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

PERIOD, GRACE = 2.0, 5
"""Seconds between two looks; looks that a custom pair gets to become whole, while it is renewed."""
LIMIT = 1 << 20
"""Bytes: the largest file that /etc/pve can hold."""
PAIRS = ("tls", "peer")
WARNING, INFO = "<4>", "<6>"


class Unusable(Exception):  # noqa: N818 - a finding, which ends in the journal
    """A file that is there, and that cannot be copied now."""


def read(path: Path) -> bytes | None:
    """Return a file of root's, or None when there is none. Raises Unusable."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise Unusable(f"{path} is not a file that only root can write")
        try:
            content = file.read(LIMIT + 1)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from None
    if len(content) > LIMIT:
        raise Unusable(f"{path} is larger than {LIMIT} bytes")
    return content


def pair(stem: Path) -> bytes | None:
    """Return STEM.key and STEM.pem as one, or None when there is neither. Raises Unusable."""
    cert, key = read(stem.with_suffix(".pem")), read(stem.with_suffix(".key"))
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise Unusable(f"{stem}: one of .pem and .key is missing")
    content = key.rstrip(b"\n") + b"\n" + cert
    held = os.memfd_create("pair")  # load_cert_chain reads files only
    try:
        with os.fdopen(os.dup(held), "wb") as file:
            file.write(content)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(f"/proc/self/fd/{held}", password=lambda: "")
    except (OSError, ValueError) as error:
        raise Unusable(f"{stem}: certificate and key cannot be used: {error}") from None
    finally:
        os.close(held)
    return content


def authority(path: Path) -> bytes | None:
    content = read(path)
    if content is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=content.decode("ascii")
            )
        except (OSError, ValueError) as error:
            raise Unusable(f"{path} is not a certificate: {error}") from None
    return content


def document(path: Path) -> bytes | None:
    content = read(path)
    if content is not None:
        try:
            json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Unusable(f"{path} is not whole: {error}") from None
    return content


class Mirror:
    """Copies from `pve` (/etc/pve), and a self-signed pair from `kept`, into `out`."""

    def __init__(self, pve: Path, out: Path, kept: Path) -> None:
        self.pve, self.out, self.kept = pve, out, kept
        self._said: dict[str, str] = {}
        self._waited: dict[Path, int] = {}
        found = out.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            sys.exit(f"{out} is not a folder that only root can write")
        for alias in (out / f"{name}.{end}" for name in PAIRS for end in ("crt", "key")):
            if not os.path.lexists(alias):
                alias.symlink_to(f"{alias.stem}.pem")
        names = ("tls.pem", "peer.pem", "ca.crt", "clients.json", "members.json")
        self._shown = {name: read(out / name) for name in names}

    def look(self) -> None:
        """Bring every copy up to date. Never raises: what cannot be had is said in the journal."""
        local, mounted = self.pve / "local", os.path.lexists(self.pve / "local")
        self._update("tls.pem", lambda: self._own(local, mounted=mounted), absent=False)
        self._update("peer.pem", lambda: pair(local / "pve-ssl"), absent=mounted)
        self._update("ca.crt", lambda: authority(self.pve / "pve-root-ca.pem"), absent=mounted)
        clients = self.pve / "priv" / "pvemcp" / "clients.json"
        self._update("clients.json", lambda: document(clients), absent=mounted)
        self._update("members.json", lambda: document(self.pve / ".members"), absent=mounted)

    def _own(self, local: Path, *, mounted: bool) -> bytes | None:
        """Return the node's certificate: an own or ACME one, the cluster's, or self-signed."""
        shown, problem = self._shown["tls.pem"], None
        for stem in (local / "pveproxy-ssl", local / "pve-ssl") if mounted else ():
            try:
                found = pair(stem)
            except Unusable as met:
                problem = met
                self._waited[stem] = self._waited.get(stem, 0) + 1
                if shown and self._waited[stem] <= GRACE:
                    raise  # it is being renewed: not for that another certificate
                self._say(str(stem), WARNING, str(met))
            else:
                self._waited[stem] = 0
                if found:
                    return found
        if shown and (problem or (self._shown["peer.pem"] and not mounted)):
            return shown  # clients do not know the self-signed one
        return pair(self.kept / "self-signed")

    def _update(self, name: str, get: Callable[[], bytes | None], *, absent: bool) -> None:
        """Copy what `get` returns; with `absent`, None removes the copy."""
        try:
            content = get()
            if content == self._shown[name] or (content is None and not absent):
                return
            if content is None:
                (self.out / name).unlink(missing_ok=True)
            else:
                self._write(name, content)
            self._shown[name] = content
            self._say(name, INFO, f"{name}: {'removed' if content is None else 'copied'}")
        except Unusable as problem:
            self._say(name, WARNING, str(problem))
        except OSError as error:
            self._say(name, WARNING, f"{self.out / name}: {error.strerror}")

    def _write(self, name: str, content: bytes) -> None:
        new = self.out / f".{name}.new"
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o640), "wb") as file:
            file.write(content)
        new.rename(self.out / name)

    def _say(self, about: str, level: str, text: str) -> None:
        """Write to the journal what was not said last about the same."""
        if self._said.get(about) != text:
            self._said[about] = text
            sys.stderr.write(f"{level}{text}\n")


def ready() -> None:
    """Tell systemd that the first copies are made."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)


def main() -> None:
    """Copy until the end. Arguments: /etc/pve, the folder of the copies, the self-signed pair's."""
    mirror = Mirror(*map(Path, sys.argv[1:4]))
    mirror.look()
    ready()
    while True:
        time.sleep(PERIOD)
        mirror.look()


if __name__ == "__main__":
    main()
