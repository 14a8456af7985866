"""The settings file as set-up writes it: what somebody else wrote stays."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import Misconfigured
from pvemcp.settings import Settings
from pvemcp.setup import toml_lines
from pvemcp.setup.settings_file import SettingsStep

FOREIGN = """\
# mine
listen = "127.0.0.1:9" # for a proxy
"log_level"   =   "debug"
allowed_hosts = [
    "a#b.example", # one ] bracket
    'c.example',
]

# end
"""


def step(path: Path, *records: dict[str, Any], **wanted: Any) -> SettingsStep:
    return SettingsStep(path, wanted, records)


def test_one_line_changes_and_every_other_byte_stays() -> None:
    new = toml_lines.changed(FOREIGN, {"listen": "[::]:8080", "body_limit": 5, "log_level": None})
    assert new == FOREIGN.replace('"127.0.0.1:9"', '"[::]:8080"').replace(
        '"log_level"   =   "debug"\n', ""
    ) + ("body_limit = 5\n")
    shorter = toml_lines.changed(FOREIGN, {"allowed_hosts": ["x"]})
    assert 'allowed_hosts = ["x"]\n\n# end' in shorter
    assert toml_lines.changed(FOREIGN.rstrip("\n"), {"x": "y"}).endswith('# end\nx = "y"\n')


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            st.integers(0, 2**40),
            st.booleans(),
            st.lists(st.text("ab#\"'\\]", max_size=4), max_size=3),
        ),
        max_size=4,
    )
)
def test_whatever_is_set_is_read_back(values: dict[str, Any]) -> None:
    text = toml_lines.changed(FOREIGN, values)
    assert tomllib.loads(text) == tomllib.loads(FOREIGN) | values
    gone = toml_lines.changed(text, dict.fromkeys(values))
    kept = {name: value for name, value in tomllib.loads(FOREIGN).items() if name not in values}
    assert tomllib.loads(gone) == kept


@pytest.mark.parametrize("text", ["a = ", "a = 1\na = 2\n", "[[x]\n"])
def test_what_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured):
        toml_lines.changed(text, {"x": "y"})


def test_a_table_stays_the_end_of_the_file() -> None:
    assert toml_lines.changed("a = 1\n[t]\nb = 2\n", {"b": 3}) == "a = 1\nb = 3\n[t]\nb = 2\n"


def test_a_fresh_file_is_made_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "pvemcp.toml"
    made = step(path, listen="127.0.0.1:1", allowed_hosts=["pve1"])
    assert len(made.plan()) == 2
    assert not path.exists()
    record = made.apply()
    assert oct(path.stat().st_mode & 0o777) == "0o640"
    assert Settings.load(path, {}, files=False).allowed_hosts == ("pve1",)
    assert step(path, record, listen="127.0.0.1:1", allowed_hosts=["pve1"]).plan() == []
    step(path).undo(record)
    assert not path.exists()


def test_what_an_administrator_set_stays_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pvemcp.toml"
    path.write_text(FOREIGN)
    made = step(path, listen="[::]:8080", pve_url="https://localhost:8006")
    [kept] = made.kept()
    assert kept.startswith('listen = "127.0.0.1:9"')
    record = made.apply()
    assert path.read_text() == FOREIGN + 'pve_url = "https://localhost:8006"\n'
    made.undo(record)
    assert path.read_text() == FOREIGN


def test_a_value_of_ours_follows_and_one_changed_since_stays(tmp_path: Path) -> None:
    path = tmp_path / "pvemcp.toml"
    first = step(path, allowed_hosts=["a"], pve_url="https://a:1").apply()
    path.write_text(path.read_text().replace("https://a:1", "https://mine:1"))
    later = step(path, first, allowed_hosts=["a", "b"], pve_url="https://b:1")
    assert later.plan() == [f'{path}: allowed_hosts = ["a", "b"]']
    second = later.apply()
    undoing = step(path)
    undoing.undo(second)
    said = undoing.undo(first)
    assert "the rest was changed" in said[0]
    assert tomllib.loads(path.read_text()) == {"pve_url": "https://mine:1"}
