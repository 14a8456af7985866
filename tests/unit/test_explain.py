"""Explaining shell text: never less than what it does, and "cannot tell" where nobody can."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvemcp.explain import table
from pvemcp.explain.explain import explain
from pvemcp.tools.explain import command_explain
from tests.unit.explain_cases import CASES, CHANGE, DESTROY, READ, UNSURE

SOURCES = Path(__file__).parents[2] / "src" / "pvemcp"
RANK = {"read": 1, "change": 2, "cannot tell": 3, "destroy": 4}


@pytest.mark.parametrize("name", CASES)
def test_the_effect_that_a_command_needs(name: str) -> None:
    text, expected = CASES[name]
    assert explain(text).verdict == expected, explain(text)


def test_what_a_command_touches_is_named() -> None:
    found = explain("qm stop 100; systemctl restart ssh; apt install x; cat a > /dev/sda; ping h")
    touched = {str(touch) for line in found.lines for touch in line.touches}
    assert touched >= {"guest 100", "service ssh", "package x", "device /dev/sda", "host h"}


def test_each_command_has_its_place_and_what_runs_it() -> None:
    found = explain("ls\n  sudo bash -c 'echo $(rm x)'")
    told = [(line.line, line.column, line.context, line.command) for line in found.lines]
    assert told == [
        (1, 1, "", "ls"),
        (2, 3, "sudo bash -c", "echo $(rm x)"),
        (2, 3, "sudo bash -c $( )", "rm x"),
    ]
    assert found.lines[2].depth > found.lines[1].depth


def test_a_syntax_error_says_where_and_what_was_read_is_listed() -> None:
    found = explain("ls\nrm x (")
    assert not found.sure
    assert found.verdict == DESTROY
    assert [line.command for line in found.lines] == ["ls", "rm x"]
    assert found.problems[0].startswith("2:6 ")


def test_an_unknown_part_keeps_what_is_known_of_the_rest() -> None:
    found = explain("ls > f; frobnicate")
    assert (found.verdict, str(found.effect)) == (UNSURE, CHANGE)


def test_the_table_is_broad_and_names_nothing_twice() -> None:
    programs, wrappers = table.programs(), table.wrappers()
    assert len(programs) >= 200
    assert not set(programs) & set(wrappers)


def test_every_level_in_the_table_is_one() -> None:
    for program in table.programs().values():
        levels = {program.effect, program.bare, *program.subs.values()}
        levels |= {program.arguments} - {"", "write", "write last"}
        assert levels <= set(table.LEVELS), program.name
        assert all(o.startswith(("-", "+")) for group in program.options.values() for o in group)


def test_nothing_decides_by_an_explanation() -> None:
    """Only the tool that shows it may import it."""
    users = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if path.parent.name != "explain" and "pvemcp.explain" in _imports(path)
    }
    assert users <= {"tools/explain.py"}


def test_the_parser_is_loaded_only_when_it_is_used() -> None:
    code = "import sys, pvemcp.tools.explain; sys.exit('tree_sitter' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add((node.module or "").removesuffix(".explain"))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


HUGE = {
    "a million characters": "a" * 1_000_000,
    "a million commands": "ls;" * 333_333,
    "deep substitutions": "echo $(" * 10_000 + "rm x" + ")" * 10_000,
    "deep subshells": "(" * 10_000 + "rm x" + ")" * 10_000,
    "shallower subshells": "( " * 3_000 + "rm x" + " )" * 3_000,
    "deep groups": "{ " * 10_000,
    "many pipes": "ls|" * 10_000,
    "many redirections": "<" * 100_000,
    "many zeros": "\0" * 1_000_000,
    "many wrappers": "sudo " * 3_000 + "rm x",
    "many quotes": "'" * 100_000,
    "many folders": "".join(f"cd {i};" for i in range(600)) + "ls >f;" * 400,
    "many evals": "eval " * 3_000 + "rm x",
    "many execs": "find " + "-exec " * 2_500,
    "a long cluster": "sort -" + "ro" * 7_000,
    "a long script": "sed '" + "s/a/b/;" * 2_000 + "'",
    "many functions": "f(){ f|f& };" * 1_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_no_size_and_no_depth_is_too_much(name: str) -> None:
    started = time.monotonic()
    found = explain(HUGE[name])
    assert time.monotonic() - started < 10
    assert found.verdict != READ


def test_long_pipelines_and_lists_that_people_write_are_read() -> None:
    assert explain(" | ".join(["ls"] * 200)).verdict == READ
    assert explain(" && ".join(["ls"] * 500)).verdict == READ


@pytest.mark.parametrize("sign", ["\u00e9", "\u20ac", "\U000771a8", "\U0010ffff"])
def test_no_sign_beyond_ascii_ends_the_process(sign: str) -> None:
    """The scanner of the grammar reads outside of a table for them, if it sees them."""
    code = (
        "import sys; from pvemcp.explain.explain import explain\n"
        "for _ in range(20): explain('{' + sys.argv[1] * 3 + 'k; echo ' + sys.argv[1])"
    )
    assert subprocess.run([sys.executable, "-c", code, sign], check=False).returncode == 0


def test_signs_beyond_ascii_keep_their_places() -> None:
    (line,) = explain("echo \u00e9\u20ac; rm '\u00e9 x' \u20ac").lines[1:]
    assert line.command == "rm '\u00e9 x' '\u20ac'"


PIECES = st.sampled_from(
    "rm x|ls|'|\"|$(|`|)|(|{|}|${|[[|]]|;|&|<|>|<<E\n|E\n|\\|\n|if|then|fi|for|do|done|case|esac|"
    "#|$((|))|=|x=|!|f()|é|\0|\ud800|$'\\ud800'|-c|sh|eval|sudo|find|-exec|xargs|alias|a=|sed|awk|"
    "tar|trap|ip|pct exec|ssh|parallel|*|~|1".split("|")
)


@settings(max_examples=300)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map(" ".join)))
def test_any_text_is_explained_within_bounds(text: str) -> None:
    started = time.monotonic()
    found = explain(text)
    assert time.monotonic() - started < 10
    assert found.verdict in RANK
    assert all(len(line.command) <= 121 and len(line.touches) <= 6 for line in found.lines)
    assert all("\n" not in line.command + line.why for line in found.lines)
    json.dumps([line.command for line in found.lines], ensure_ascii=False).encode()


COMMANDS = st.sampled_from(
    "ls|rm x|mkfs /dev/sda|sort -o f g|systemctl stop a|frobnicate|kill 1|cp a b|find . -delete|"
    "cat f|qm destroy 1|dd if=a of=/dev/sda|tee f|ping h|python3 -c 1|reboot".split("|")
)
AROUND = [
    *"sudo -n -u a @|env A=b @|nice -n 5 @|ionice -c 3 @|timeout -s KILL 5 @|nohup @|setsid -w @|"
    "stdbuf -o L @|time -p @|xargs -r @|command @|exec @|chroot /mnt @|nsenter -t 1 -n @|"
    "unshare -n @|ssh -p 22 h @|watch -n 1 @|parallel -j 2 @|pct exec 1 -- @|"
    "qm guest exec 1 -- @|ip netns exec a @|flock /tmp/l @|A=b @|taskset -c 1 @|"
    "systemd-run --wait @|busybox @|eval @|2>/dev/null @|find . -exec @ ;".replace(
        ";", "\\;"
    ).split("|"),
]
"""What may stand around one plain command: `@`."""
ANYWHERE = [
    "! @",
    "if true; then @; fi",
    "sh -c Q",
    "bash -ec Q",
    "eval Q",
    "su - a -c Q",
    "trap Q EXIT",
    "( @ )",
    "{ @; }",
    "echo $( @ )",
    'echo "$( @ )"',
    "cat <(@)",
    "ls | @",
    "@ & ls",
    "f() { @; }; f",
    "alias f=Q; f",
    "for i in 1 2; do @; done",
    "case a in a) @;; esac",
    "cat <<E\n$( @ )\nE",
    "bash <<'E'\n@\nE",
    "@ > /dev/null 2>&1",
    "@ # ls",
]
"""What may stand around any text: `@`, or quoted `Q`. With spaces: `$((` begins arithmetic."""


def around(template: str, text: str) -> str:
    """Return a text within a template."""
    quoted = "'" + text.replace("'", "'\\''") + "'"
    return template.replace("@", text).replace("Q", quoted)


@pytest.mark.parametrize("template", AROUND + ANYWHERE)
@given(command=COMMANDS)
@settings(max_examples=20)
def test_no_wrapper_lowers_the_effect(template: str, command: str) -> None:
    wrapped = around(template, command)
    assert RANK[explain(wrapped).verdict] >= RANK[explain(command).verdict], wrapped


@given(command=COMMANDS, sign=st.sampled_from(["''", '""', "\\\n", "$''"]), at=st.integers(0, 6))
@settings(max_examples=200)
def test_no_quoting_lowers_the_effect(command: str, sign: str, at: int) -> None:
    name, space, rest = command.partition(" ")
    texts = [f"{name[:at]}{sign}{name[at:]}{space}{rest}", f"\\{command}", f'"{name}"{space}{rest}']
    texts.append(" ".join(f"'{word}'" for word in command.split()))
    for text in texts:
        assert RANK[explain(text).verdict] >= RANK[explain(command).verdict], text


@given(command=COMMANDS, templates=st.lists(st.sampled_from(ANYWHERE), max_size=3))
@settings(max_examples=300)
def test_wrappers_around_wrappers_never_make_a_change_look_like_reading(
    command: str, templates: list[str]
) -> None:
    text = command
    for template in templates:
        text = around(template, text)
    if RANK[explain(command).verdict] > RANK[READ]:
        assert explain(text).verdict != READ, text


PAIRS = list(itertools.product(["ls", "ls > f", "rm x", "zz"], repeat=2))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_whole_needs_what_its_strongest_part_needs(one: str, other: str) -> None:
    strongest = max(RANK[explain(one).verdict], RANK[explain(other).verdict])
    assert RANK[explain(f"{one}; {other}").verdict] == strongest


async def test_the_tool_writes_one_line_for_the_whole_and_one_for_each_command() -> None:
    text = await command_explain.run(command="ls; sudo rm -rf /x")
    assert text == (
        "destroy: needs host_run effect=destroy.\n"
        "1:1 ls -> read\n"
        "1:5 [sudo] rm -rf /x -> destroy: deletes; file /x"
    )


async def test_the_tool_says_what_to_try_when_nobody_can_tell() -> None:
    text = await command_explain.run(command="frobnicate")
    assert str(text).startswith("cannot tell: try host_run effect=read")
    text = await command_explain.run(command="frobnicate > f")
    assert str(text).startswith("cannot tell, at least change")
    assert "nothing to run" in str(await command_explain.run(command=" "))


async def test_the_tool_serves_json_to_scripts() -> None:
    view = json.loads(str(await command_explain.run(command="rm x (", format="json")))
    assert view["effect"] == DESTROY
    assert view["problems"]
    (line,) = view["commands"]
    assert line["command"] == "rm x"
    assert line["touches"] == ["file x"]


async def test_the_tools_answer_stays_within_its_budget() -> None:
    for form in ("text", "json"):
        text = await command_explain.run(command="rm some/long/name;" * 5_000, format=form)
        assert len(str(text)) < 33_000
