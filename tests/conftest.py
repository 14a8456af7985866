"""What all tests share."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the computer, not about the code.
settings.register_profile("pvemcp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pvemcp")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape half characters in a report: it could not be sent from one process to another."""
    report = yield
    if report.failed and not _sendable(text := str(report.longrepr)):
        report.longrepr = _escaped(text)
    report.sections = [(name, _escaped(text)) for name, text in report.sections]
    return report


def _sendable(text: str) -> bool:
    return text == _escaped(text)


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
