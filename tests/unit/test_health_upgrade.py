"""What doctor says of the last upgrade."""

from __future__ import annotations

import json
from pathlib import Path

from pvemcp.health.check import Check
from pvemcp.health.upgrade import check_upgrade


def judged(folder: Path, content: str) -> list[Check]:
    (folder / "last.json").write_text(content)
    return list(check_upgrade(folder / "last.json"))


def told(outcome: str) -> str:
    return json.dumps({"outcome": outcome, "version": "2", "from": "1", "time": 1.7e9})


def test_where_nothing_was_upgraded_nothing_is_said(tmp_path: Path) -> None:
    assert list(check_upgrade(tmp_path / "none")) == []


def test_a_version_that_did_not_become_ready_is_to_be_repaired(tmp_path: Path) -> None:
    [check] = judged(tmp_path, told("failed"))
    assert not check.ok
    assert "version 2" in check.message
    assert "To go back to 1: pvemcp rollback" in check.repair


def test_a_version_that_was_taken_back_is_a_warning(tmp_path: Path) -> None:
    [check] = judged(tmp_path, told("rolled back"))
    assert check.ok
    assert "version 1 was taken back" in check.message
    assert check.repair


def test_a_good_upgrade_needs_nothing(tmp_path: Path) -> None:
    [check] = judged(tmp_path, told("ready"))
    assert check.ok
    assert not check.repair


def test_a_record_that_cannot_be_read_is_no_failure(tmp_path: Path) -> None:
    for content in ("{", "[]", "{}", '{"time": "x"}'):
        [check] = judged(tmp_path, content)
        assert check.ok
        assert "Delete it" in check.repair
