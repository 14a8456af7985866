"""What runs inside guests with a POSIX shell: coreutils and busybox alike.

Every command is ASCII (see agent.py) and carries the call's marker in its environment, by which it
is found again. File scripts end with the codes of `transfer.FAULTS`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from pvemcp.errors import Invalid

SCRIPT_LIMIT = 100_000
"""Characters of a script: one word of a command line has 128 KiB at most."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_START = (
    # Its own session: `kill 0` in it must not reach the guest agent. busybox's setsid loses the
    # exit code of a process that leads a group.
    'export PVEMCP_CALL={call}; [ -n "$HOME" ] || export HOME=/root; s="$1"; '
    'set -- /bin/sh -c "$s"; [ "$(cut -d" " -f5 /proc/self/stat 2>/dev/null)" = $$ ] || '
    '{{ command -v setsid >/dev/null 2>&1 && set -- setsid "$@"; }}; exec "$@"'
)
_READ = """
[ -e "$f" ] || exit 20; [ -d "$f" ] && exit 21; [ -f "$f" ] || exit 25; [ -r "$f" ] || exit 22
s=$(stat -Lc %s "$f" 2>/dev/null); [ "${s:-0}" -gt 0 ] || s=$(wc -c < "$f"); echo $s
tail -c +$((o + 1)) "$f" | head -c $n | base64
"""
_PLACE = """
umask 077
t=$f; i=0  # busybox's `readlink -f` takes a broken relative link from the working directory
while [ -L "$t" ] && [ $i -lt 40 ] && x=$(readlink "$t" && echo x); do
  x=${x%??}; i=$((i + 1))
  case $x in /*) t=$x ;; *) t=${t%/*}/$x ;; esac
done
[ -L "$t" ] && exit 25
d=${t%/*}; n=$d/.pvemcp-$c; k=
trap '[ -n "$k" ] || rm -f "$n"' EXIT
trap 'exit 143' HUP INT TERM
"""
"""A link is followed: the file itself is replaced, by what is written beside it first."""
_BEGIN = """
[ -d "$t" ] && exit 21; [ ! -e "$t" ] || [ -f "$t" ] || exit 25; [ -d "$d/" ] || exit 20
: > "$n" || exit 23
"""
_FINISH = """
[ "$(wc -c < "$n")" -eq $l ] || exit 26  # its input may have broken off
s=$(sha256sum < "$n" 2>/dev/null | cut -c1-64); [ -z "$s" ] || [ "$s" = "$h" ] || exit 26
if [ "$w" = append ]; then
  [ -e "$t" ] || { : > "$t" && chmod 644 "$t"; } || exit 23
  z=$(stat -c %s "$t"); cat "$n" >> "$t" || { truncate -s "$z" "$t"; exit 23; }
  [ -z "$m" ] || chmod "$m" "$t" || exit 24
else
  if [ -e "$t" ]; then
    { cp --attributes-only --preserve=all "$t" "$n" 2>/dev/null && touch "$n"; } ||
    { chown "$(stat -c %u:%g "$t")" "$n" && chmod "$(stat -c %a "$t")" "$n"; } || exit 24
  else chmod 644 "$n" || exit 24; fi
  [ -z "$m" ] || chmod "$m" "$n" || exit 24
  mv -f "$n" "$t" || exit 23
fi
stat -c %s "$t"; echo "$s"
"""
_REMOVE = """
[ ! -e "$t" ] || [ -f "$t" ] || exit 25; rm -f "$t" || exit 23
"""
_KILL = """
m=PVEMCP_; m=${m}CALL=%(call)s; q=%(pid)d; r=%(rounds)d
[ -r /proc/self/environ ] || { kill -TERM $q; sleep 1; kill -KILL $q; exit 1; }
found() {
  t=' '
  for f in $(grep -ls $m /proc/[0-9]*/environ); do
    p=${f#/proc/}; p=${p%%/environ}
    [ $p = $$ ] || { tr '\\0' '\\n' < $f 2>/dev/null | grep -qx $m && t="$t$p "; }
  done
  a="$t"
  if [ $q != 0 ]; then  # it may have cleared its environment; another's has another parent
    set --; { read -r l < /proc/$q/stat; } 2>/dev/null && set -- ${l##*) }
    [ "${2:-$PPID}" = $PPID ] && a=" $q$t"
    case "${1:-X}$t" in [ZX]* | *" $q "*) ;; *) [ "$2" = $PPID ] && t="$t$q " ;; esac
  fi
  [ "$a" != ' ' ] || return
  while :; do
    new=
    for f in /proc/[0-9]*; do
      p=${f#/proc/}
      case "$t" in *" $p "*) continue ;; esac
      { read -r l < $f/stat; } 2>/dev/null || continue
      set -- ${l##*) }
      case $1 in [ZX]) continue ;; esac
      case "$a" in *" $2 "* | *" $4 "*) new="$new$p " ;; esac
    done
    [ -n "$new" ] || return
    t="$t$new"; a="$a$new"
  done
}
i=0
while [ $i -lt 20 ]; do
  found
  [ "$t" = ' ' ] && [ $i -ge $r ] && exit 0
  if [ $i = 0 ]; then kill -TERM $t; kill -CONT $t; elif [ $i -ge 8 ]; then kill -KILL $t; fi
  sleep 0.2 || { sleep 1; i=$((i + 4)); }
  i=$((i + 1))
done 2>/dev/null
found
echo $t
[ "$t" = ' ' ]
"""


def command(text: str, *, cwd: str, env: Mapping[str, str], call: str) -> list[str]:
    """Return the command that runs shell text in a folder with an environment."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    lines += [f"cd {shlex.quote(cwd)} || exit 126"] if cwd else []
    return marked("; ".join([*lines, text]), call)


def read(path: str, offset: int, limit: int, *, call: str) -> list[str]:
    """Return the command that writes a file's size, and a part of it in base64."""
    return marked(f"f={shlex.quote(path)}; o={offset}; n={limit}{_READ}", call)


def write(
    path: str,
    *,
    call: str,
    first: bool,
    last: bool,
    size: int,
    sha256: str,
    mode: str = "",
    append: bool = False,
    encoded: bool = True,
) -> list[str]:
    """Return the command that takes a part of a new file from stdin, perhaps in base64.

    The file stays under another name beside the real one until the last part has come, and its
    size and SHA-256 are right. The last command writes the file's size, and the SHA-256 if the
    guest can reckon it.
    """
    values = {"f": path, "c": call, "h": sha256, "m": mode, "w": "append" if append else ""}
    head = f"l={size}; " + "; ".join(f"{k}={shlex.quote(value)}" for k, value in values.items())
    take = "base64 -d" if encoded else "cat"
    parts = [head, _PLACE, _BEGIN if first else "", f'{take} >> "$n" || exit 23']
    return marked("\n".join([*parts, _FINISH if last else "k=1"]), call)


def drop(path: str, *, call: str) -> list[str]:
    """Return the command that removes what `write` has left beside a file; `kill` spares it."""
    return marked(f"f={shlex.quote(path)}; c={call}{_PLACE}", f"{call}-drop")


def remove(path: str, *, call: str) -> list[str]:
    """Return the command that removes a file."""
    return marked(f"f={shlex.quote(path)}; c={call}{_PLACE}{_REMOVE}", call)


def kill(call: str, pid: int = 0, *, rounds: int = 0) -> list[str]:
    """Return the command that ends everything of a call; it ends with 0 when nothing is left.

    That is what has the call's marker, what stems from that, and what is in a session of those,
    or of the process `pid`. It looks at least `rounds` times, for what is only being started.
    """
    return ["/bin/sh", "-c", _KILL % {"call": call, "pid": pid, "rounds": rounds}]


def marked(script: str, call: str) -> list[str]:
    """Return the command that runs a script with the call's marker in its environment."""
    if "\0" in script:
        raise Invalid("a command cannot hold a NUL", hint="Take it out.")
    plain = ascii_only(script)
    if len(plain) > SCRIPT_LIMIT:
        raise Invalid(
            f"the command takes {len(plain)} characters; {SCRIPT_LIMIT} at most",
            hint="Write it to a file (guest_file_write) and run that.",
        )
    return ["/bin/sh", "-c", _START.format(call=call), "sh", plain]


def ascii_only(script: str) -> str:
    """Return a shell script in printable ASCII that does the same."""
    if script.isascii() and not _CONTROL.search(script):
        return script
    try:
        encoded = script.encode("utf-8")
    except UnicodeEncodeError:
        raise Invalid("the text holds half a character (a lone surrogate)") from None
    octal = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\0{byte:03o}"
        for byte in encoded
    )
    return f"eval \"$(printf '%b' '{octal}')\""
