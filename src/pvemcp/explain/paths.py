"""What writing to a path, or reading from one, means."""

from __future__ import annotations

import posixpath
import re

from pvemcp.call import Effect
from pvemcp.explain.values import Finding, Redirect, Touch, Word

_HARMLESS = re.compile(r"/dev/(?:null|zero|full|tty|stdin|stdout|stderr|fd/.*)|/proc/self/fd/\d+|-")
_NETWORK = re.compile(r"/dev/(?:tcp|udp)(?:/|$)")
_FATAL = re.compile(r"/proc/sysrq-trigger|/sys/.*/(?:remove|delete|unbind|reset)")
_KERNEL = re.compile(r"/(?:proc|sys)(?:/|$)")
_DEVICE = re.compile(r"/dev(?:/|$)|/proc/\d+/|/proc/(?:self|kcore)(?:/|$)")
_SYSTEM = re.compile(
    r"/(?:etc|boot|efi|usr|bin|sbin|lib\w*|root|srv|var/(?:lib|spool|backups|cache))(?:/|$)"
)
_WATCHDOG = re.compile(r"/dev/watchdog\d*")
_TRUNCATES = frozenset({">", ">|", "&>", ">&"})


def written(word: Word, *, keeps: bool = False) -> Finding:
    """Judge a write to a path; `keeps` when the present content stays (`>>`)."""
    if not word.fixed:
        return _written_somewhere(word)
    path = clean(word.text)
    if _HARMLESS.fullmatch(path):
        return Finding()
    if _NETWORK.match(path):
        return Finding(Effect.CHANGE, why="opens a connection", touches=(Touch("network", path),))
    if _FATAL.match(path):
        return Finding(Effect.DESTROY, why="cuts off hardware", touches=(Touch("file", path),))
    if _DEVICE.match(path):
        touch = Touch("device", path)
        return Finding(Effect.DESTROY, why="overwrites a device", touches=(touch,))
    if _SYSTEM.match(path) and not keeps:
        touch = Touch("file", path)
        return Finding(Effect.DESTROY, why="replaces a file of the system", touches=(touch,))
    why = "sets a value of the kernel" if _KERNEL.match(path) else "writes a file"
    return Finding(Effect.CHANGE, why=why, touches=(Touch("file", path),))


def read_from(word: Word) -> Finding:
    """Judge opening a path to read: harmless but for a watchdog, which then counts down."""
    path = clean(word.start)
    if word.fixed and _WATCHDOG.fullmatch(path):
        touch = Touch("device", path)
        return Finding(Effect.DESTROY, why="can reset the machine", touches=(touch,))
    if not word.fixed and path.startswith("/dev") and "/dev/watchdog".startswith(path):
        return Finding(sure=False, why="may open any device")
    return Finding()


def redirected(redirect: Redirect) -> Finding:
    """Judge one redirection."""
    target, operator = redirect.target, redirect.operator
    match operator:
        case "<<" | "<&":
            return Finding()
        case ">&" if target.fixed and re.fullmatch(r"\d+-?|-", target.text):
            return Finding()
        case "<":
            if _NETWORK.match(clean(target.start)):
                return written(target)
            return read_from(target)
        case _:
            return written(target, keeps=operator not in _TRUNCATES)


def clean(path: str) -> str:
    """Return a path without `.`, `..` and doubled slashes."""
    if not path:
        return path
    tidy = posixpath.normpath(path)
    return tidy[1:] if tidy.startswith("//") else tidy


def _written_somewhere(word: Word) -> Finding:
    head = clean(word.head)
    if head.startswith("/dev/fd"):
        return Finding()
    device = bool(_DEVICE.match(head))
    touch = Touch("device" if device else "file", word.text)
    effect = Effect.DESTROY if device else Effect.CHANGE
    why = "writes where nobody can tell before it runs"
    return Finding(effect, sure=device, why=why, touches=(touch,))
