"""Run the conformance suite against a running service, and read what it found."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tests.conformance import npm
from tests.conformance.product import Running, say

REVISIONS = ("2026-07-28", "2025-11-25")
_FOLDER = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z")

Found = dict[str, list[dict[str, Any]]]
"""The checks of each scenario."""


def with_fixtures(service: Running) -> list[str]:
    """Run what each revision requires; return the complaints.

    Nothing may fail, not even what the suite does not score (tasks, JSON Schema, headers).
    """
    complaints = []
    for revision in REVISIONS:
        code, output, found = _run(service, revision)
        failed = _failures(found)
        if code or not found:
            failed.append(output)
        _say(f"{revision} with fixtures", "failed", found, failed)
        complaints += failed
    return complaints


def without_fixtures(service: Running) -> list[str]:
    """Run the same against the product alone; return the complaints.

    What the revision requires may fail only as the baseline says, and all of that must.
    """
    complaints = []
    for revision in REVISIONS:
        baseline = Path(__file__).with_name(f"baseline-{revision}.yml")
        code, output, found = _run(service, revision, "--expected-failures", str(baseline))
        failed = [output] if code or not found else []
        _say(f"{revision} without fixtures", "in the baseline or not scored", found, failed)
        complaints += failed
    return complaints


def _run(service: Running, revision: str, *options: str) -> tuple[int, str, Found]:
    out = service.home / revision
    arguments = ("server", "--url", service.url, "--requirements", revision, "-o", str(out))
    done = npm.run(npm.SUITE, *arguments, *options, home=service.home)
    summary = done.stdout[done.stdout.find("=== SUMMARY ===") :]
    found = {_scenario(file): json.loads(file.read_text()) for file in out.glob("*/checks.json")}
    return done.returncode, f"{summary}{done.stderr}", found


def _scenario(checks: Path) -> str:
    named = _FOLDER.fullmatch(checks.parent.name)
    return named[1] if named else checks.parent.name


def _failures(found: Found) -> list[str]:
    return [
        f"{scenario}: {check['id']}: {check.get('errorMessage', '')}"
        for scenario, checks in sorted(found.items())
        for check in checks
        if check["status"] == "FAILURE"
    ]


def _say(title: str, others: str, found: Found, failed: list[str]) -> None:
    counts = Counter(check["status"] for checks in found.values() for check in checks)
    checks = f"{counts['SUCCESS']} checks passed, {counts['FAILURE']} {others}"
    say(f"suite, {title}: {len(found)} scenarios, {checks}", passed=not failed)
