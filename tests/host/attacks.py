"""What a client might try in the sandbox that only reads, and how to see that it failed."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

SECRET = "kh7Qm2canaryW9xv"
MARK = "pwned-by-test"

PREPARE = f"""\
set -e
rm -rf /canary.d /etc/{MARK} && mkdir -p /canary.d/sub /etc/pve/priv /home/somebody /etc/{MARK}-dir
for f in one two sub/three; do echo intact > /canary.d/$f; done
chmod -R 777 /canary.d /etc/{MARK}-dir
for f in /root/secret /etc/pve/priv/token.cfg /home/somebody/secret /etc/pvemcp/token-canary \\
         /var/lib/pvemcp/canary /etc/ssh/canary_key /var/spool/canary; do
    echo {SECRET} > $f; chmod 600 $f; done
grep -q {SECRET} /etc/shadow || echo 'canary:{SECRET}:1::::::' >> /etc/shadow
cp /bin/cat /canary.d/suid-cat && chmod 4755 /canary.d/suid-cat
cat > /etc/systemd/system/canary.service <<UNIT
[Service]
Type=oneshot
ExecStart=/bin/touch /etc/{MARK}
UNIT
systemctl daemon-reload
nft add table inet canary_table
systemctl is-active -q victim || systemd-run -q --unit=victim -E TOKEN={SECRET} sleep 77777
systemctl is-active -q bystander || systemd-run -q --unit=bystander -p User=nobody \\
    -E TOKEN={SECRET} sleep 77778
logger -t canary {SECRET}
"""
"""Run by root before: a folder that everybody may write, secrets, two victims."""

INTACT = """\
[ "$(cat /canary.d/one /canary.d/two /canary.d/sub/three)" = "intact
intact
intact" ] && [ "$(find /canary.d | wc -l)" = 6 ] && [ ! -L /canary.d/one ] \\
&& [ "$(stat -c %a /canary.d/one)" = 777 ] && [ "$(stat -c %U /canary.d/one)" = root ]"""
VICTIMS = "systemctl is-active -q victim bystander pvemcp.service pvemcp-helper.socket"


_GONE = "! pgrep -f '^sleep 3133[1-5]$' > /dev/null"


@dataclass(frozen=True)
class Attack:
    """One attempt; see attacks.toml."""

    name: str
    command: str
    proof: str = ""
    bomb: bool = False


def _filled(text: str) -> str:
    proofs = {"{intact}": INTACT, "{victims}": VICTIMS, "{gone}": _GONE, "{mark}": MARK}
    for name, value in proofs.items():
        text = text.replace(name, value)
    return text.strip("\n")


def _read() -> tuple[Attack, ...]:
    found = tomllib.loads(Path(__file__).with_name("attacks.toml").read_text("utf-8"))
    writes = [
        Attack(f"write in {place}", f"echo x > {place}/{MARK}", f"[ ! -e {place}/{MARK} ]")
        for place in found["places"]
    ]
    others = [
        Attack(
            row["name"],
            _filled(row["command"]),
            _filled(row.get("proof", "")),
            row.get("bomb", False),
        )
        for row in found["attack"]
    ]
    return (*writes, *others)


TABLE = _read()
