"""The shell's own commands: harmless unless they change what later commands mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from pvemcp.call import Effect
from pvemcp.explain.table import Program
from pvemcp.explain.values import Finding, Word

_TEST = frozenset("test [ [[".split())
_DECLARING = frozenset("export declare local typeset readonly".split())
_NAMING = frozenset("read mapfile readarray unset getopts wait".split())
_NAME = re.compile(r"[\w]+")
_DECLARES = re.compile(r"[-+][xrgpfFaA]+")
_SETS = r"[-+][euxvnfbmhBCEHPT]+|[-+][euxv]*o|--?|pipefail|errexit|nounset|xtrace|noglob|noclobber"
_DECIDES = re.compile(
    r"(?:LD_|DYLD_|GIT_|BASH|PERL|PYTHON|RUBY|NODE_|LESS|SSH|TAR_|RSYNC|SYSTEMD_|XDG_|PVE|CEPH_|ZPOOL_|"
    r"ZFS|LVM|MAN|GREP_|GZIP|ZSTD|XZ_|CURL|WGET|APT_|DPKG|DEB|DBUS|GCONV|LOC|NLS|TERMINFO|ENV$|"
    r"IFS$|HOME$|CDPATH$|SHELL|GLOBIGNORE|HIST|MAIL|OPENSSL|PROMPT|FPATH|POSIX|TMP|JAVA|RES_|HOSTALIASES|"
    r"GLIBC|MALLOC|PS\d|SUDO|EXEC|NSS)"
    r"|.*(?:PATH|PAGER|EDITOR|VISUAL|BROWSER|OPTS|OPTIONS|COMMAND|CMD|CONF|CONFIG|RC|PRELOAD|PROXY|_proxy)$"
)
_HARMLESS = frozenset("DEBIAN_FRONTEND SYSTEMD_COLORS LOCALE TMOUT HISTTIMEFORMAT".split())
_WHY = "bash would run a command that hides in a name or number"
_REREADS = "sets how the shell reads the rest"
_WORDS: Mapping[str, tuple[str, str]] = {
    "let": (r"\w+[-+*/]?=?[-+*/\d]*", _WHY),
    "printf": (r"(?s:(?!-v).*)", _WHY),
    "set": (_SETS, _REREADS),
    "shopt": (r"-[pqu]+", _REREADS),
    "jobs": (r"-[lnprs]+|%?\w+", "may run a command"),
    "hash": (r"-[rtl]+|[\w-]+", "sets what a name runs"),
}
"""What the arguments of a builtin may look like, and why others are unsure."""


def shell(program: Program, args: Sequence[Word]) -> list[Finding]:
    """Judge a builtin."""
    name = program.name
    if name in _TEST:
        return _test(args)
    if name in _DECLARING | _NAMING:
        return [_takes_names(name, args)]
    if name == "history":
        return _history(args)
    if rule := _WORDS.get(name):
        pattern, why = rule
        return [_known(args[:1] if name == "printf" else args, re.compile(pattern), why)]
    return [Finding()]


def decides(name: str) -> bool:
    """Tell whether a variable may decide what a program runs, loads or writes."""
    return bool(_DECIDES.match(name)) and name not in _HARMLESS


def _test(args: Sequence[Word]) -> list[Finding]:
    for word, after in pairwise(args):
        if word.text in {"-v", "-R"} and not (after.fixed and _NAME.fullmatch(after.text)):
            return [Finding(sure=False, why=_WHY)]
    odd = any(word.many and not word.head for word in args) and len(args) == 2
    return [Finding(sure=not odd, why=_WHY if odd else "")]


def _takes_names(name: str, args: Sequence[Word]) -> Finding:
    if name in _DECLARING:
        return _known(args, re.compile(rf"{_DECLARES.pattern}|\w+"), _WHY)
    if name in {"mapfile", "readarray"}:
        return _known(args, re.compile(r"-[tdnOsu]\d*|\w+"), "may run a command for each line")
    if any(decides(word.text) for word in args):
        return Finding(sure=False, why="sets what may decide what runs")
    return _known(args, re.compile(r"[^\[]*"), _WHY)


def _history(args: Sequence[Word]) -> list[Finding]:
    if any(word.fixed and re.fullmatch(r"-[cd].*", word.text) for word in args):
        return [Finding(Effect.DESTROY, why="deletes the history")]
    if any(word.optional for word in args):
        return [Finding(Effect.CHANGE, why="writes the history")]
    return [Finding()]


def _known(args: Sequence[Word], pattern: re.Pattern[str], why: str) -> Finding:
    fine = all(word.fixed and pattern.fullmatch(word.text) for word in args)
    return Finding(sure=fine, why="" if fine else why)
