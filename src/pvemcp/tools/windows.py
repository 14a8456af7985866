"""What runs inside Windows guests: PowerShell 5.1, which every Windows has.

The same functions as in posix.py. Nothing here is taken from a running Windows.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from pvemcp.errors import Invalid

COMMAND_LIMIT = 30_000
"""Characters: Windows takes 32,767 of a whole command line."""
_UTF8 = (
    "$u=New-Object Text.UTF8Encoding $false;[Console]::OutputEncoding=$u;"
    "try{[Console]::InputEncoding=$u}catch{};$ProgressPreference='SilentlyContinue';"
)
_END = "\nif($?){exit 0}elseif($LASTEXITCODE){exit $LASTEXITCODE}else{exit 1}"
"""The exit code of the last command, which PowerShell makes 0 or 1."""
_READ = """
if(Test-Path -LiteralPath $f -PathType Container){exit 21}
if(-not(Test-Path -LiteralPath $f)){exit 20}
$s=[IO.File]::Open($f,'Open','Read','ReadWrite');[void]$s.Seek($o,'Begin')
$b=New-Object byte[] $n;$c=0
while($c -lt $n -and ($r=$s.Read($b,$c,$n-$c)) -gt 0){$c+=$r}
Write-Output $s.Length;[Convert]::ToBase64String($b,0,$c)
"""
_BEGIN = """
if(Test-Path -LiteralPath $f -PathType Container){exit 21}
if(-not(Test-Path -LiteralPath (Split-Path $f))){exit 20}
"""
_TAKE = """
try{$d=[Convert]::FromBase64String([Console]::In.ReadToEnd())
$s=[IO.File]::Open($t,'Append');$s.Write($d,0,$d.Length);$s.Close()}
catch{[Console]::Error.WriteLine($_);Remove-Item -Force -LiteralPath $t -ErrorAction Ignore;exit 23}
"""
_FINISH = """
$s=(Get-FileHash -LiteralPath $t -Algorithm SHA256).Hash.ToLower()
if($s -ne $h){Remove-Item -Force -LiteralPath $t;exit 26}
try{if($w){$d=[IO.File]::ReadAllBytes($t);$o=[IO.File]::Open($f,'Append')
$o.Write($d,0,$d.Length);$o.Close();Remove-Item -Force -LiteralPath $t}
elseif(Test-Path -LiteralPath $f){[IO.File]::Replace($t,$f,[NullString]::Value)}
else{[IO.File]::Move($t,$f)}}
catch{[Console]::Error.WriteLine($_);Remove-Item -Force -LiteralPath $t -ErrorAction Ignore;exit 23}
Write-Output (Get-Item -Force -LiteralPath $f).Length $s
"""


def command(text: str, *, cwd: str, env: Mapping[str, str], call: str) -> list[str]:
    """Return the command that runs PowerShell text in a folder with an environment."""
    lines = [f"$env:{name}={_quoted(value)}" for name, value in env.items()]
    lines += [f"$env:PVEMCP_CALL='{call}'"]
    lines += [f"Set-Location -LiteralPath {_quoted(cwd)} -ErrorAction Stop"] if cwd else []
    return _encoded("\n".join([_UTF8, *lines, text]) + _END)


def read(path: str, offset: int, limit: int, *, call: str) -> list[str]:  # noqa: ARG001 - as posix
    """Return the command that writes a file's size, and a part of it in base64."""
    return _encoded(f"{_UTF8}$f={_quoted(path)};$o={offset};$n={limit}{_READ}")


def write(
    path: str,
    *,
    call: str,
    first: bool,
    last: bool,
    size: int,  # noqa: ARG001 - as posix
    sha256: str,
    mode: str = "",
    append: bool = False,
    encoded: bool = True,
) -> list[str]:
    """Return the command that takes a part of a new file from stdin, in base64; see posix.py."""
    if mode or not encoded:
        raise Invalid("mode is for POSIX guests", hint="Set the ACL with icacls (guest_exec).")
    head = f"{_names(path, call)};$h='{sha256}';$w=${'true' if append else 'false'}"
    parts = [_UTF8 + head, _BEGIN if first else "", _TAKE, _FINISH if last else ""]
    return _encoded("".join(parts))


def drop(path: str, *, call: str) -> list[str]:
    """Return the command that removes what `write` has left beside a file."""
    gone = "Remove-Item -Force -LiteralPath $t -ErrorAction Ignore"
    return _encoded(f"{_names(path, call)};{gone}")


def remove(path: str, *, call: str) -> list[str]:  # noqa: ARG001 - as posix
    """Return the command that removes a file."""
    gone = "try{Remove-Item -Force -LiteralPath $f -ErrorAction Stop}catch{exit 23}"
    return _encoded(f"$f={_quoted(path)};{gone}")


def kill(call: str, pid: int = 0, *, rounds: int = 0) -> list[str]:  # noqa: ARG001 - as posix
    """Return the command that ends a process and what it started; Windows knows no markers."""
    return ["taskkill.exe", "/F", "/T", "/PID", str(pid)]


def _names(path: str, call: str) -> str:
    beside = f"Join-Path (Split-Path $f) '.pvemcp-{call}'"
    return f"$f={_quoted(path)};$t={beside}"


def _quoted(text: str) -> str:
    # PowerShell ends such a text at a typographic quote, too.
    quotes = "'\u2018\u2019\u201a\u201b"
    return "'" + "".join(2 * each if each in quotes else each for each in text) + "'"


def _encoded(script: str) -> list[str]:
    if "\0" in script:
        raise Invalid("a command cannot hold a NUL", hint="Take it out.")
    text = base64.b64encode(script.encode("utf-16-le", "surrogatepass")).decode()
    if len(text) > COMMAND_LIMIT:
        raise Invalid(
            f"the command takes {len(text)} characters; Windows takes {COMMAND_LIMIT}",
            hint="Write it to a .ps1 file (guest_file_write) and run that.",
        )
    # Without OutputFormat, errors are XML.
    options = ("-NoProfile", "-NonInteractive", "-OutputFormat", "Text", "-EncodedCommand")
    return ["powershell.exe", *options, text]
