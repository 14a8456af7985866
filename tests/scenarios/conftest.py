"""Fixtures of the scenarios."""

from __future__ import annotations

import pytest

from tests.scenarios.rig import ERAS


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """The protocol revision that the client speaks: the session era and the stateless one."""
    return str(request.param)
