"""The root helper under attack: by whoever may connect to it, and by whoever may not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.host.machine import Machine
from tests.host.served import Served
from tests.host.waiting import until

ASKING = "/usr/local/lib/asking.py"
EXEC = "/etc/pvemcp/exec.toml"
MARK = "/etc/pwned-by-helper"
Answer = list[list[str]]


def ask(host: Served, *questions: dict[str, Any], user: str = "pvemcp") -> list[Answer]:
    """Ask the helper as a user, all at once."""
    machine = host.machine
    if not (machine.root / ASKING.lstrip("/")).exists():
        machine.copy_in(Path(__file__).with_name("asking.py"), ASKING)
    stdin = json.dumps(questions).encode()
    done = machine.run(["python3", ASKING], user=user, stdin=stdin, timeout=110)
    answers: list[Answer] = json.loads(done.stdout)
    return answers


def run(shell: str, **more: Any) -> dict[str, Any]:
    return {"request": {"do": "run", "profile": "read", "shell": shell, "timeout": 20, **more}}


def refusal(answer: Answer) -> str:
    assert answer[-1][0] == "F", answer
    return str(json.loads(answer[-1][1])["message"])


def output(answer: Answer) -> str:
    return "".join(text for kind, text in answer if kind == "O")


def units(machine: Machine) -> list[str]:
    """Return the units of commands that run, but those kept ready."""
    shown = machine.run(["systemctl", "list-units", "--plain", "--no-legend", "pvemcp-*.service"])
    names = [line.split()[0] for line in shown.stdout.splitlines()]
    return [name for name in names if name.startswith(("pvemcp-read-", "pvemcp-change-"))]


def working(machine: Machine) -> str:
    """Return what runs in sandboxes, besides the process that waits for a request."""
    listed = machine.run(["ps", "-eo", "uid,args"]).stdout.splitlines()[1:]
    found = [line for line in listed if 61184 <= int(line.split()[0]) <= 65519]
    return "\n".join(x for x in found if "inside.py" not in x and "simulate" not in x)


def test_other_users_cannot_even_connect(host: Served) -> None:
    for user in ("nobody", "pvemcp-run", "www-data"):
        [answer] = ask(host, run("true"), user=user)
        assert answer == [["!", "[Errno 13] Permission denied"]]


def test_a_connection_of_a_stranger_is_refused_by_the_helper_too(host: Served) -> None:
    host.machine.run(["chmod", "666", "/run/pvemcp-helper.sock"])
    try:
        [answer] = ask(host, run(f"touch {MARK}"), user="nobody")
        assert refusal(answer) == "this socket is not for you"
    finally:
        host.machine.run(["chmod", "600", "/run/pvemcp-helper.sock"])


MALFORMED = {
    "nothing": "",
    "half a header": "5200",
    "no frame": b"GET / HTTP/1.1\r\n\r\n".hex(),
    "another kind": (b"I\0\0\0\x01x").hex(),
    "too large": (b"R\xff\xff\xff\xff").hex(),
    "shorter than said": (b"R\0\0\0\x10{}").hex(),
    "no JSON": (b"R\0\0\0\x01{").hex(),
    "a list": (b"R\0\0\0\x02[]").hex(),
    "a number": (b"R\0\0\0\x011").hex(),
    "no UTF-8": (b"R\0\0\0\x02\xff\xfe").hex(),
    "too deep": (b"R\0\0\xc3\x50" + b"[" * 50_000).hex(),
    "empty": (b"R\0\0\0\0").hex(),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_is_refused(host: Served, name: str) -> None:
    [answer] = ask(host, {"raw": MALFORMED[name]})
    assert refusal(answer) == "this is not a request"
    [answer] = ask(host, run("echo alive"))
    assert output(answer) == "alive\n"


ODD: tuple[dict[str, Any], ...] = (
    {},
    {"do": "root"},
    {"do": ["run"]},
    {"do": "run"},
    {"do": "run", "profile": "nonsense", "shell": "id"},
    {"do": "run", "profile": "read; id", "shell": "id"},
    {"do": "run", "profile": "../read", "shell": "id"},
    {"do": "run", "profile": ["read"], "shell": "id"},
    {"do": "run", "profile": None, "shell": "id"},
    {"do": "run", "profile": "root", "shell": "id"},
    {"do": "run", "profile": "root-read", "shell": "id"},
    {"do": "run", "profile": "guest", "shell": "id"},
    {"do": "run", "profile": "read", "shell": "id", "timeout": 0},
    {"do": "run", "profile": "read", "shell": "id", "timeout": -1},
    {"do": "run", "profile": "read", "shell": "id", "timeout": 1e9},
    {"do": "run", "profile": "read", "shell": "id", "timeout": "60"},
    {"do": "run", "profile": "read", "shell": "id", "timeout": True},
    {"do": "run", "profile": "read", "shell": "id", "env": "A=b"},
    {"do": "job", "profile": "root", "shell": "id"},
    {"do": "job", "profile": "read", "shell": "id", "timeout": 1e9},
    {"do": "operation", "name": "nonsense"},
    {"do": "operation", "name": {}},
    {"do": "operation", "name": "smart", "params": ["device"]},
    {"do": "operation", "name": "smart", "params": {"device": "/dev/sda", "more": "x"}},
    {"do": "operation", "name": "smart", "params": {"device": "--help"}},
    {"do": "operation", "name": "smart", "params": {"device": "/dev/sda\n--all"}},
    {"do": "operation", "name": "smart", "params": {"device": "/dev/sda\0x"}},
    {"do": "operation", "name": "smart", "params": {"device": "/dev/$(id)"}},
    {"do": "operation", "name": "smart", "params": {"device": 5}},
    {"do": "operation", "name": "smart", "params": {"device": "/dev/" + "a" * 300}},
    {"do": "operation", "name": "qm-config", "params": {"vmid": "100; id"}},
    {"do": "operation", "name": "qm-config", "params": {"vmid": True}},
    {"do": "operation", "name": "qm-config", "params": {"vmid": 1}},
    {"do": "operation", "name": "guest-exec", "params": {"vmid": 100, "argv": []}},
    {"do": "operation", "name": "guest-exec", "params": {"vmid": 100, "argv": "id"[:0]}},
    {"do": "operation", "name": "guest-exec", "params": {"vmid": 100, "argv": ["a\0b"]}},
    {"do": "operation", "name": "guest-exec", "params": {"vmid": 100, "argv": [1]}},
    {"do": "operation", "name": "job-read", "params": {"job": "../../etc", "cursor": 0}},
    {"do": "operation", "name": "job-stop", "params": {"job": "pvemcp"}},
)


def test_requests_that_are_not_allowed_are_refused_and_nothing_runs(host: Served) -> None:
    answers = ask(host, *({"request": request} for request in ODD))
    for request, answer in zip(ODD, answers, strict=True):
        assert [kind for kind, _ in answer] == ["F"], (request, answer)


def test_no_word_of_a_request_reaches_the_command_line_of_systemd(host: Served) -> None:
    """What would be properties, units, options or variables of it is the command's own text."""
    evil = [
        "--property=User=root", "-pUser=root", "--uid=0", "--unit=pvemcp.service", "%n %h %%",
        "$HOME ${PATH} $$", "a\nb", "--", "'", '"', "\\", "\x1b[31m", "ünï", "🎉", "x" * 200_000,
    ]  # fmt: skip
    questions = [run('printf %s "$V"; id -u >&2', env={"V": word[:100_000]}) for word in evil]
    questions += [run(f"printf %s {_quoted(word)}; id -u >&2") for word in evil[:-1]]
    questions += [run("id -u >&2", owner=word[:500], call=word[:500]) for word in evil]
    answers = ask(host, *questions)
    for answer, word in zip(answers, [*evil, *evil[:-1]], strict=False):
        assert output(answer) == word[:100_000]
    uids = {text.strip() for answer in answers for kind, text in answer if kind == "e"}
    assert len(uids) > 1
    assert all(61184 <= int(uid) <= 65519 for uid in uids)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LD_PRELOAD", "/tmp/x.so"), ("PYTHONPATH", "/tmp"), ("PYTHONSTARTUP", "/tmp/x"),
        ("BASH_ENV", "/tmp/x"), ("SYSTEMD_LOG_LEVEL", "debug"), ("DBUS_SYSTEM_BUS_ADDRESS", "x"),
    ],
)  # fmt: skip
def test_the_environment_of_a_request_is_the_commands_alone(
    host: Served, name: str, value: str
) -> None:
    [answer, operation] = ask(
        host,
        run("tr '\\0' '\\n' < /proc/$PPID/environ; echo; id -u >&2", env={name: value}),
        {"request": {"do": "operation", "name": "uptime", "env": {name: value}}},
    )
    assert f"{name}={value}" not in output(answer)
    assert json.loads(operation[-1][1])["code"] == 0


def test_names_that_are_no_variables_and_a_nul_do_not_start_anything(host: Served) -> None:
    answers = ask(
        host,
        run("true", env={"A=B": "c"}),
        run("true", env={"A": "b\0c"}),
        run("echo a\0b"),
        run("true", cwd="/no/such"),
        run("true", cwd="rel\0ative"),
        run("true", env={"A": 5}),
    )
    for answer in answers:
        assert answer[-1][0] in "XF", answer
        assert '"code": 0' not in answer[-1][1]


def test_two_hundred_at_once_are_served_or_told_to_wait(host: Served) -> None:
    answers = ask(host, *(run(f"echo {number}") for number in range(200)))
    served = [number for number, answer in enumerate(answers) if answer[-1][0] == "X"]
    for number, answer in enumerate(answers):
        if number in served:
            assert output(answer) == f"{number}\n"
        else:
            assert refusal(answer) == "too many commands at once"
    assert len(served) >= 64
    until(lambda: len(units(host.machine)) <= 2, "the end of their units", seconds=30)


def test_who_never_reads_is_ended_and_holds_up_nobody(host: Served) -> None:
    [_] = ask(host, run("yes", timeout=2) | {"read": False})
    machine = host.machine
    with _deaf(host, "yes"):
        until(lambda: "yes" in working(machine), "the command")
        [answer] = ask(host, run("echo others"))
        assert output(answer) == "others\n"
        until(lambda: working(machine) == "", "the end of what nobody reads", seconds=40)


@contextmanager
def _deaf(host: Served, command: str) -> Iterator[None]:
    """Have somebody ask for a command who never reads what it says."""
    argv = ["python3", "-c", _DEAF, command]
    with host.machine.popen(argv, user="pvemcp") as deaf:
        try:
            yield
        finally:
            deaf.kill()


_DEAF = """
import json, socket, struct, sys, time
link = socket.socket(1)
link.connect("/run/pvemcp-helper.sock")
r = json.dumps({"do": "run", "profile": "read", "shell": sys.argv[1], "timeout": 3}).encode()
link.sendall(struct.pack(">cI", b"R", len(r)) + r)
time.sleep(100)
"""


def test_closing_the_connection_kills_everything_in_the_unit(host: Served) -> None:
    command = "trap '' TERM INT HUP; setsid sleep 4242 & (sleep 4243 &) ; sleep 4244"
    ask(host, run(command) | {"read": False})
    ask(host, run("echo x") | {"read": False})
    until(lambda: "sleep 424" not in working(host.machine), "the end of the commands")
    until(lambda: len(units(host.machine)) <= 2, "the end of their units")


def test_a_unit_ends_with_the_helper(host: Served) -> None:
    machine = host.machine
    with _deaf(host, "sleep 5151"):
        until(lambda: "sleep 5151" in working(machine), "the command")
        machine.run(["systemctl", "kill", "--signal=KILL", "pvemcp-helper.service"])
        until(lambda: "sleep 5151" not in working(machine), "its end")
    [answer] = ask(host, run("echo again"))
    assert output(answer) == "again\n"


# exec.toml


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (f"chmod 664 {EXEC}", f"chmod 644 {EXEC}"),
        (f"chmod 646 {EXEC}", f"chmod 644 {EXEC}"),
        (f"chown pvemcp {EXEC}", f"chown root {EXEC}"),
        ("chmod 777 /etc/pvemcp", "chmod 755 /etc/pvemcp"),
        ("chown pvemcp /etc/pvemcp", "chown root /etc/pvemcp"),
        (f"mv {EXEC} {EXEC}.x; ln -s {EXEC}.x {EXEC}", f"rm {EXEC}; mv {EXEC}.x {EXEC}"),
        (f"mv {EXEC} {EXEC}.x", f"mv {EXEC}.x {EXEC}"),
        (f"cp {EXEC} {EXEC}.x; echo '[[[' >> {EXEC}", f"mv {EXEC}.x {EXEC}"),
        (f"mv {EXEC} {EXEC}.x; mkfifo {EXEC}", f"mv {EXEC}.x {EXEC}"),
        (f"mv {EXEC} {EXEC}.x; mkdir {EXEC}", f"rmdir {EXEC}; mv {EXEC}.x {EXEC}"),
    ],
)  # fmt: skip
def test_an_exec_file_that_is_not_roots_alone_runs_nothing(
    host: Served, spoil: str, mend: str
) -> None:
    host.machine.run(["bash", "-c", spoil])
    try:
        [answer] = ask(host, run(f"touch {MARK}; echo ran"))
        assert [kind for kind, _ in answer] == ["F"]
        assert EXEC.rpartition("/")[0] in refusal(answer)
    finally:
        host.machine.run(["bash", "-c", mend])
    [answer] = ask(host, run("echo ran"))
    assert output(answer) == "ran\n"


def test_an_exec_file_that_is_swapped_all_the_time_is_never_the_attackers(host: Served) -> None:
    """The file is opened once and judged by what was opened: no check that a swap could outrun."""
    machine = host.machine
    evil = (
        f'[profiles.read]\nshell=true\nnetwork="all"\ntimeout=300\nsession=1\njob=1\noutput=9999\n'
        f'cwd="/"\nenv={{}}\nproperties=["ExecStartPre=/bin/touch {MARK}"]\n'
    )
    machine.copy_in(evil.encode(), "/tmp/evil.toml", owner="pvemcp")
    swap = (
        f"cp -p {EXEC} {EXEC}.good; end=$((SECONDS+5)); while [ $SECONDS -lt $end ]; do "
        f"ln -sf /tmp/evil.toml {EXEC}.n; mv -T {EXEC}.n {EXEC}; cp -p {EXEC}.good {EXEC}.n; "
        f"mv -T {EXEC}.n {EXEC}; done; mv -T {EXEC}.good {EXEC}"
    )
    with machine.popen(["bash", "-c", swap]) as swapping:
        for _ in range(10):
            ask(host, *(run("echo x") for _ in range(10)))
        swapping.wait()
    assert not (machine.root / MARK.lstrip("/")).exists()
    [answer] = ask(host, run("echo ran"))
    assert output(answer) == "ran\n"


def test_root_runs_only_what_a_person_approved_on_the_host_and_once(host: Served) -> None:
    machine = host.machine
    asked = {"do": "operation", "name": "root-run", "params": {"approval": "ap-0123456789"}}
    before = (machine.root / EXEC.lstrip("/")).read_text()
    machine.copy_in(before.replace("enabled = false", "enabled = true").encode(), EXEC)
    try:
        request = {"do": "run", "profile": "root", "shell": f"touch {MARK}"}
        more = {"approved": True, "approval": "yes", "call": "approved"}
        for answer in ask(host, {"request": request}, {"request": request | more}):
            assert "takes no shell text" in refusal(answer)
        [answer] = ask(host, {"request": asked})
        assert "no person has approved this" in str(answer)
        odd = asked | {"params": {"approval": "../../../etc/pvemcp/x"}}
        assert "id of an approval" in refusal(ask(host, {"request": odd})[0])
        approved = {"shell": "id -u; cat", "cwd": "/", "env": {}, "expires": 4e9}
        place = "/var/lib/pvemcp-helper/approved"
        machine.run(["mkdir", "-p", "-m", "700", place])
        machine.copy_in(json.dumps(approved).encode(), f"{place}/ap-0123456789.json")
        stdin = [["I", b"typed later".hex()], ["E", ""]]
        [answer] = ask(host, {"request": asked, "then": stdin})
        assert output(answer) == "0\n"
        [answer] = ask(host, {"request": asked})
        assert "no person has approved this" in str(answer)
        assert not (machine.root / MARK.lstrip("/")).exists()
    finally:
        machine.run(["rm", "-rf", "/var/lib/pvemcp-helper/approved"])
        machine.copy_in(before.encode(), EXEC)


def test_every_request_is_in_the_journal_without_its_text(host: Served) -> None:
    ask(host, run("echo hunter2hunter2 # $SECRET", owner="g-journal", call="c-journal"))

    def lines() -> list[str]:
        journal = host.journal("pvemcp-helper.service").splitlines()
        return [line for line in journal if "c-journal" in line]

    [record] = map(json.loads, until(lines, "the line of the request"))
    assert (record["owner"], record["profile"], record["ended by"]) == (
        "g-journal",
        "read",
        "caller",
    )
    assert len(record["sha256"]) == 64
    assert "hunter2" not in host.journal("pvemcp-helper.service")


def test_the_helper_is_small_and_stands_alone() -> None:
    source = Path(__file__).parents[2] / "src/pvemcp/host"
    for name in ("helper.py", "inside.py", "jobs.py", "guest.py"):
        text = (source / name).read_text()
        assert "pvemcp." not in "".join(
            x for x in text.splitlines() if x.startswith(("import", "from"))
        )
    assert (source / "helper.py").read_text().count("\n") < 300
